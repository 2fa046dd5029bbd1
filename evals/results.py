"""What an evaluation leaves on disk: results, samples, comparisons, an aggregate."""

import gzip
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evals.benchmarks.rows import read_rows
from evals.metrics.pass_at_k import LEVEL, RESAMPLES, paired_difference
from evals.sandbox.pool import NOT_MEASURED
from evals.sandbox.tools import LANGUAGES
from llama_scale.errors import InputError
from llama_scale.files import atomic_write, read_json, read_jsonl, sha256, write_json

HEADLINES = (
    "loss", "perplexity", "bits_per_byte", "gold_bits_per_byte", "parse_rate", "tests_held",
    "log_pass_rate",
)  # fmt: skip
AGGREGATE = "aggregate"


def eval_folder(checkpoint: Path) -> Path:
    """Return where the results of a checkpoint lie: runs/<run>/evals/step-XXXXXXXX."""
    path = Path(os.path.abspath(checkpoint))
    run = path.parents[1] if path.parent.name == "checkpoints" else path.parent
    folder = run / "evals" / path.name
    return folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder


def samples_of(path: Path) -> Path:
    """Return the file of samples that belongs to the result ``path``."""
    return path.with_name(f"{path.stem}-samples.jsonl.gz")


def finished(path: Path, settings: dict[str, Any]) -> bool:
    """Whether a result with these settings is there, with the samples it was written with."""
    if not path.exists():
        return False
    result, samples = read_json(path), samples_of(path)
    intact = "samples_sha256" not in result or (
        samples.exists() and sha256(samples) == result["samples_sha256"]
    )
    return intact and all(result.get(name) == value for name, value in settings.items())


def write_result(path: Path, result: dict[str, Any], samples: list[dict]) -> None:
    """Write the samples, then the result: with it the suite is finished."""
    if samples:
        lines = "".join(json.dumps(sample) + "\n" for sample in samples)
        with atomic_write(samples_of(path), "wb") as file:
            file.write(gzip.compress(lines.encode(), mtime=0))
        result = result | {"samples_sha256": sha256(samples_of(path))}
    write_json(path, result)


def read_samples(path: Path) -> list[dict[str, Any]]:
    """Read completions, one JSON object to a line; raise InputError naming the first bad line."""
    rows, seen = [], {}
    for found in read_rows(path, "samples", "give lines with the texts task_id and completion"):
        task, completion = found.take("task_id", str), found.take("completion", str)
        language = found.take("language", str, "python")
        if language not in LANGUAGES:
            raise found.error("language", repr(language), f"one of {', '.join(LANGUAGES)}")
        index = seen[task] = seen.get(task, -1) + 1
        row = {"task_id": task, "sample": index, "completion": completion}
        rows.append(row if language == "python" else row | {"language": language})
    return rows


def pass_rates(path: Path) -> dict[str, float]:
    """Return the share of passing samples of each task of a result, of those that were measured."""
    passes: dict[str, list[bool]] = {}
    for row in read_jsonl(samples_of(path), whole=True):
        if row["reason"] != NOT_MEASURED:
            passes.setdefault(row["task_id"], []).append(row["passed"])
    return {task: sum(p) / len(p) for task, p in passes.items()}


def other_result(other: str, suite: str) -> Path:
    """Return a suite's result in the folder ``other``; raise InputError without its samples."""
    theirs = Path(other) / f"{suite}.json"
    if not samples_of(theirs).exists():
        raise InputError(f"compare: {samples_of(theirs)} is missing; score that model first")
    return theirs


def compare(other: str, path: Path) -> str:
    """Return the paired difference of pass@1 to the results in the folder ``other`` in words.

    Raises InputError if that folder has no samples of the suite, or none of the same tasks.
    """
    theirs = other_result(other, path.stem)
    rates = [pass_rates(theirs), pass_rates(path)]
    same = sorted(rates[0].keys() & rates[1].keys())
    if not same:
        raise InputError(f"compare: {theirs} and {path} have no task in common")
    gap, (low, high) = paired_difference(*[[rate[task] for task in same] for rate in rates])
    return (
        f"  {path.stem:<11} pass@1 minus that of {other} on {len(same)} tasks: "
        f"{gap:+.4f}  [{low:+.4f}, {high:+.4f}]"
    )


def aggregate(paths: Sequence[Path], seed: int = 0) -> dict[str, Any]:
    """Return the accuracy (pass@1) over several suites of tasks, with 95 % bootstrap intervals.

    ``macro`` is the mean of the suites, ``micro`` that of all their tasks. Tasks are resampled
    within their suite.
    """
    rates = {path.stem: np.array(list(pass_rates(path).values())) for path in paths}
    random = np.random.default_rng(seed)
    means = np.stack(
        [r[random.integers(len(r), size=(RESAMPLES, len(r)))].mean(1) for r in rates.values()]
    )  # (suites, RESAMPLES)
    counts = np.array([len(r) for r in rates.values()])
    found = {"suite": AGGREGATE, "n_tasks": {name: len(r) for name, r in rates.items()}}
    found["accuracy"] = {name: float(r.mean()) for name, r in rates.items()}
    tail = (1 - LEVEL) / 2
    for name, weights in (("macro", np.ones(len(counts))), ("micro", counts)):
        value = np.average(list(found["accuracy"].values()), weights=weights)
        low, high = np.quantile(np.average(means, axis=0, weights=weights), [tail, 1 - tail])
        found[name] = float(value)
        found[f"{name}_interval"] = [float(low), float(high)]
    return found


def table(result: dict[str, Any]) -> str:
    """Return the headline figures of a result, one to a line, with their 95 % intervals."""
    names = ("macro", "micro") if result["suite"] == AGGREGATE else HEADLINES
    figures = {n: (result[n], result.get(f"{n}_interval")) for n in names if n in result}
    for k, value in result.get("pass_at_k", {}).items():
        figures[f"pass@{k}"] = value, result["pass_at_k_exact_interval"][k]
    lines = []
    for name, (value, bounds) in figures.items():
        spread = f"  [{bounds[0]:.4f}, {bounds[1]:.4f}]" if bounds else ""
        lines.append(f"  {result['suite']:<11} {name:<20} {value:>10.4f}{spread}")
    if sampled := result.get("tasks_with_samples"):
        lines.append(f"  {sampled} of {result['tasks_of_suite']} tasks have samples")
    if found := result.get("contaminated"):
        lines.append(
            f"  {len(found)} tasks were found among the training data's sources and removed there"
        )
    if unknown := result.get("not_measured"):
        lines.append(f"  {unknown} samples were not measured: no tool for their language here")
    if isolation := result.get("isolation"):
        lines.append(f"  programs ran under isolation level {isolation['level']}")
        lines += [f"    {key}: {word}" for key in ("holds", "lacks") for word in isolation[key]]
    return "\n".join(lines)
