"""What an evaluation leaves on disk: results, samples, comparisons, an aggregate."""

import gzip
import json
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evals.benchmarks.rows import MOST_BYTES, read_rows
from evals.metrics.pass_at_k import TAIL, paired_difference
from evals.old_names import with_current_names
from evals.sandbox.tools import LANGUAGES
from evals.sandbox.types import NOT_MEASURED
from llama_scale.bootstrap import RESAMPLES, percentile_interval
from llama_scale.errors import InputError
from llama_scale.files import atomic_write, read_json, read_jsonl, sha256, write_json
from llama_scale.text import relative_path

HEADLINES = (
    "loss", "perplexity", "bits_per_byte", "gold_bits_per_byte", "parse_rate", "compile_rate", "load_rate",
    "ended_rate", "assertion_pass_rate", "log_pass_rate",
)  # fmt: skip
AGGREGATE = "aggregate"
COSTS = ("instructions", "peak_memory")
# Settings that a result may have and another command lack.
OF_CONTENT = ("data_sha256", "contamination_sha256", "before_sha256")


def eval_folder(checkpoint: Path) -> Path:
    """Return where the results of a checkpoint lie: runs/<run>/evals/step-XXXXXXXX."""
    path = Path(os.path.abspath(checkpoint))
    run = path.parents[1] if path.parent.name == "checkpoints" else path.parent
    return relative_path(run / "evals" / path.name)


def samples_path(path: Path) -> Path:
    """Return the file of samples that belongs to the result ``path``."""
    return path.with_name(f"{path.stem}-samples.jsonl.gz")


def read_result(path: Path) -> dict[str, Any]:
    """Read a result, also one with the field names of before; raise InputError if it is none."""
    result = read_json(path)
    if not isinstance(result, dict) or "suite" not in result:
        raise InputError(f"{path}: not a result of an evaluation; move it away or delete it")
    return with_current_names(result)


def is_finished(path: Path, settings: dict[str, Any]) -> bool:
    """Whether a result with these settings is there, with the samples it was written with.

    Data of equal content is the same wherever it lies: its fingerprint or hash counts, its path does not.
    """
    if not path.exists():
        return False
    result, samples = read_result(path), samples_path(path)
    intact = "samples_sha256" not in result or _sha256_of_samples(samples) == result["samples_sha256"]
    found, wanted = without_place(result), without_place(settings)
    return intact and all(found.get(name) == wanted.get(name) for name in (*wanted, *OF_CONTENT))


def _sha256_of_samples(path: Path) -> str | None:
    """Return the hash of a file of samples; None where it is missing, unreadable or no such file by its size."""
    try:
        return sha256(path) if path.is_file() and path.stat().st_size <= MOST_BYTES else None
    except OSError:
        return None


def without_place(settings: dict[str, Any]) -> dict[str, Any]:
    """Return a result, or the settings of one, without the path of a suite's data, whose content is told apart."""
    own = settings.get("settings")
    if not isinstance(own, dict):
        return settings
    return settings | {"settings": {name: value for name, value in own.items() if name != "data"}}


def write_result(path: Path, result: dict[str, Any], samples: list[dict]) -> None:
    """Write the samples, then the result: with it the suite is finished."""
    if samples:
        lines = "".join(json.dumps(sample) + "\n" for sample in samples)
        with atomic_write(samples_path(path), "wb") as file:
            file.write(gzip.compress(lines.encode(), mtime=0))
        result = result | {"samples_sha256": sha256(samples_path(path))}
    write_json(path, result, sealed=True)


def read_samples(path: Path) -> list[dict[str, Any]]:
    """Read the judged samples of the result ``path``, also with the field names of before.

    Raises InputError where they have changed since the result was written.
    """
    samples = samples_path(path)
    written = read_result(path).get("samples_sha256")
    if written is not None and _sha256_of_samples(samples) != written:
        raise InputError(f"{samples}: has changed since {path.name} was written; restore it, or score that model again")
    return [with_current_names(row) for row in read_jsonl(samples, whole=True)]


def read_completions(path: Path) -> list[dict[str, Any]]:
    """Read completions, one JSON object to a line; raise InputError naming the first bad line."""
    completions, counts = [], Counter()
    for row in read_rows(path, "samples", "give lines with the texts task_id and completion"):
        task, completion = row.take("task_id", str), row.take("completion", str)
        language = row.take("language", str, "python")
        if language not in LANGUAGES:
            raise row.error("language", repr(language), f"one of {', '.join(LANGUAGES)}")
        fields = {"task_id": task, "sample": counts[task], "completion": completion}
        completions.append(fields if language == "python" else fields | {"language": language})
        counts[task] += 1
    return completions


def pass_rates(path: Path) -> dict[str, float]:
    """Return the share of passing samples of each task of a result, of those that were measured."""
    passed: dict[str, list[bool]] = {}
    for row in read_samples(path):
        if row["reason"] != NOT_MEASURED:
            passed.setdefault(row["task_id"], []).append(row["passed"])
    return {task: sum(p) / len(p) for task, p in passed.items()}


def other_result(other: str, suite: str) -> Path:
    """Return a suite's result in the folder ``other``; raise InputError without its samples."""
    path = Path(other) / f"{suite}.json"
    if not samples_path(path).exists():
        raise InputError(f"compare: {samples_path(path)} is missing; score that model first")
    return path


def compare(other: str, path: Path) -> str:
    """Return the paired difference of pass@1 to the results in the folder ``other`` in words."""
    other_path = other_result(other, path.stem)
    first, second = pass_rates(other_path), pass_rates(path)
    tasks = sorted(first.keys() & second.keys())
    if not tasks:
        raise InputError(f"compare: {other_path} and {path} have no task in common")
    gap, (low, high) = paired_difference([first[t] for t in tasks], [second[t] for t in tasks])
    words = f"{path.stem:<11} pass@1 minus that of {other} on {len(tasks)} tasks"
    return f"  {words}: {gap:+.4f}  [{low:+.4f}, {high:+.4f}]"


def aggregate(paths: Sequence[Path], seed: int = 0) -> dict[str, Any]:
    """Return the accuracy (pass@1) over several suites of tasks, with 95 % bootstrap intervals.

    ``macro`` is the mean of the suites, ``micro`` that of all their tasks. Tasks are resampled within their suite.
    """
    rates = {path.stem: np.array(list(pass_rates(path).values())) for path in paths}
    random = np.random.default_rng(seed)
    means = [r[random.integers(len(r), size=(RESAMPLES, len(r)))].mean(1) for r in rates.values()]  # (RESAMPLES,) each
    counts = {name: len(r) for name, r in rates.items()}
    accuracy = {name: float(r.mean()) for name, r in rates.items()}
    result = {"suite": AGGREGATE, "n_tasks": counts, "accuracy": accuracy}
    for name, weights in (("macro", None), ("micro", list(counts.values()))):
        low, high = percentile_interval(np.average(means, axis=0, weights=weights), TAIL)
        result[name] = float(np.average(list(accuracy.values()), weights=weights))
        result[f"{name}_interval"] = [float(low), float(high)]
    return result


def view_lines(result: dict[str, Any]) -> list[str]:
    """Return what similarities are worth, what says nothing, and what was not counted, in words."""
    lines = []
    areas = {name: area for name, area in result.get("area_for_passing", {}).items() if area["value"] is not None}
    for name, area in areas.items():
        bounds = f"[{area['low']:.3f}, {area['high']:.3f}]"
        lines.append(f"  {name} ranks passing above failing in {area['value']:.3f} {bounds} of {area['pairs']} pairs "
                     f"of {area['tasks']} tasks (.5: at random)")  # fmt: skip
    if result.get("area_for_passing") and not areas:
        lines.append("  no task has both passing and failing samples: what a similarity says of passing is not known")
    for kind, share in result.get("degenerate_rates", {}).items():
        lines.append(f"  {share:.1%} of samples: {kind}")
    for name, rate in result.get("baseline_parse_rates", {}).items():
        lines.append(f"  without a model, {name}: parses {'not measured' if rate is None else f'{rate:.1%}'}")
    if unknown := result.get("efficiency", {}).get("not_measured"):
        lines.append(f"  {unknown} passing samples: instructions not measured")
    return lines


def table(result: dict[str, Any]) -> str:
    """Return the headline figures of a result, one to a line, with their 95 % intervals."""
    names = ("macro", "micro") if result["suite"] == AGGREGATE else HEADLINES
    figures = {n: (result[n], result.get(f"{n}_interval")) for n in names if n in result}
    for k, value in result.get("pass_at_k", {}).items():
        figures[f"pass@{k}"] = value, result["pass_at_k_exact_interval"][k]
    for name, value in result.get("similarity", {}).items():
        figures[name] = value, result["similarity_interval"][name]
    cost = result.get("efficiency", {})
    figures |= {f"{n} / reference": (cost[n], cost[f"{n}_interval"]) for n in COSTS if n in cost}
    lines = []
    for name, (value, bounds) in figures.items():
        spread = f"  [{bounds[0]:.4f}, {bounds[1]:.4f}]" if bounds else ""
        lines.append(f"  {result['suite']:<11} {name:<24} {value:>10.4f}{spread}")
    lines += view_lines(result)
    if sampled := result.get("tasks_with_samples"):
        lines.append(f"  {sampled} of {result['tasks_of_suite']} tasks have samples")
    if count := len(result.get("contaminated", ())):
        lines.append(f"  {count} tasks were found among the training data's sources and removed there")
    if unknown := result.get("not_measured"):
        lines.append(f"  {unknown} samples were not measured: no tool for their language here")
    if isolation := result.get("isolation"):
        lines.append(f"  programs ran under isolation level {isolation['level']}")
        lines += [f"    {key}: {word}" for key in ("holds", "lacks") for word in isolation[key]]
    return "\n".join(lines)
