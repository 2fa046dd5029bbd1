"""The points of a study: one row a run, gathered from the runs' results and scores."""

import csv
import math
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from llama_scale.config import read_yaml
from llama_scale.errors import InputError
from llama_scale.files import atomic_write, read_json
from llama_scale.scaling.study.settings import HEADLINE_SUITE

# Fields of result.json that are columns of points.csv.
RESULT = (
    "run", "size", "seed", "n_params_non_embedding", "n_params", "n_params_matmul", "tokens",
    "epochs", "flops", "flops_full", "flops_6nd", "batch_tokens", "lr", "steps", "annealed",
)  # fmt: skip
# Their short names in the conditions of a fit, as N>1e8.
SHORT_NAMES = ("N", "D")
# What a study may change of all its models; field of config.yaml's model.
MODEL = ("vocab_size", "context_length", "tie_embeddings")
TRUNK = "trunk"  # the run that a branch left, whose branches err together
HEADLINE = ("loss", "bits_per_byte")
SCORES = ("gold_bits_per_byte", "parse_rate", "nontrivial_parse_rate")


def collect(study: Path, without: list[str] | None = None, out: Path | None = None) -> list[dict[str, Any]]:
    """Write the points of a study folder and return its rows, sorted by size, tokens and seed.

    They go to ``out``, or to points.csv in the folder; the runs ``without`` are left out. The columns are the run's
    size and cost (``RESULT``), its ``MODEL``, ``loss`` and ``bits_per_byte`` of the perplexity suite, and for every
    other suite what it has of ``SCORES`` and each pass@k with the ends of its exact 95 % interval over tasks. The
    values are those of the files alone, so the same runs give the same bytes. Raises InputError naming the run and the
    file when a result is missing.
    """
    planned, suites = _lists(study / "study.yaml", "planned", "suites")
    if unknown := sorted(set(without or []) - set(planned)):
        raise InputError(f"without: {study / 'study.yaml'} plans no run {unknown[0]}")
    names = [name for name in planned if name not in (without or [])]
    how: dict[str, dict[str, Any]] = {}
    rows = [_row(name, study / "runs" / name, suites, how) for name in names]
    for suite, first in how.items():
        if len(versions := first["judges"]) > 1:
            print(f"{suite}: judged by versions {', '.join(map(str, sorted(versions)))} of the judge, some of whose "
                  "verdicts differ; delete the older scores and run the study again", file=sys.stderr)  # fmt: skip
    order = ("n_params_non_embedding", "tokens", "seed", "run")
    rows.sort(key=lambda row: [row[column] for column in order])
    columns = list(dict.fromkeys(column for row in rows for column in row))
    with atomic_write(out or study / "points.csv") as file:
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return rows


def _lists(path: Path, *fields: str) -> list[list[str]]:
    """Return lists of names that study.yaml records; raise InputError where it is another file."""
    settings = read_yaml(path, check_seal=True)
    lists = []
    for field in fields:
        names = settings.get(field) if isinstance(settings, dict) else None
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            hint = "give the folder of a study, where launch/study.py wrote study.yaml"
            raise InputError(f"{path}: no list of names {field!r}; {hint}")
        lists.append(names)
    return lists


def _row(name: str, folder: Path, suites: list[str], how: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the columns of one run: what it is and cost, its model and its scores.

    ``how`` has, by suite, the first run with the settings that it was scored with and the versions of the judge, and is
    added to.
    """
    path = folder / "result.json"
    result = _read(name, path, "train")
    row = _pick(name, path, result, RESULT)
    if row["run"] != name:
        raise InputError(f"run {name}: {path} is that of {row['run']!r:.60}; delete it and run the study again")
    path = folder / "config.yaml"
    config = _read(name, path, "train")
    row |= _pick(name, path, _pick(name, path, config, ["model"])["model"], MODEL)
    if config.get("branch_from"):
        row[TRUNK] = trunk_name(config["branch_from"], folder.parent)
    for suite in [HEADLINE_SUITE, *(s for s in suites if s != HEADLINE_SUITE)]:
        path = folder / "evals" / f"step-{row['steps']:08d}" / f"{suite}.json"
        scores = _read(name, path, "evaluate")
        check_scored(f"run {name}: {path}", scores, result)
        _check_alike(name, path, scores, how.setdefault(suite, {"run": name, "scores": scores, "judges": set()}))
        if suite == HEADLINE_SUITE:
            row |= _pick(name, path, scores, HEADLINE)
            for field in HEADLINE:
                if not isinstance(row[field], int | float) or not math.isfinite(row[field]):
                    raise InputError(f"run {name}: {path}: {field} is {row[field]}, not a number; the run diverged?")
            continue
        row |= {f"{suite}_{field}": scores[field] for field in SCORES if field in scores}
        rates, intervals = scores.get("pass_at_k", {}), scores.get("pass_at_k_exact_interval", {})
        for k in sorted(rates, key=int):
            row[f"{suite}_pass_at_{k}"] = rates[k]
            if k in intervals:
                low, high = intervals[k]
                row |= {f"{suite}_pass_at_{k}_low": low, f"{suite}_pass_at_{k}_high": high}
    return row


def _check_alike(name: str, path: Path, scores: dict[str, Any], first: dict[str, Any]) -> None:
    """Raise InputError if a run was scored with other settings than the first one; note the version of the judge."""
    if "judge_version" in scores:
        first["judges"].add(scores["judge_version"])
    own, other = ({"settings": {}} | each for each in (scores, first["scores"]))
    if not (isinstance(own["settings"], dict) and isinstance(other["settings"], dict)):
        raise InputError(f"run {name}: {path}: settings are no fields; delete it and run the study again")
    for field in sorted(own["settings"].keys() & other["settings"].keys() - {"data"}):
        if own["settings"][field] != other["settings"][field]:
            found = f"{field} is {own['settings'][field]!r:.60}, of run {first['run']} {other['settings'][field]!r:.60}"
            raise InputError(f"run {name}: {path}: {found}; delete it and run the study again")


def check_scored(where: str, scores: Mapping[str, Any], result: Mapping[str, Any]) -> None:
    """Raise InputError, which begins with ``where``, if a suite's ``scores`` are of other weights than a run's result.

    Results of earlier versions do not say.
    """
    scored, trained = scores.get("weights_sha256"), result.get("weights_sha256")
    if scored and trained and scored != trained:
        raise InputError(f"{where} is of other weights than this run ended with; delete it and run the study again")


def trunk_name(branch_from: str, runs: Path) -> str:
    """Return the trunk that a checkpoint is of: S1 of runs/x/S1/checkpoints/step-00000100, or what S1 itself continues.

    ``runs`` is the folder that has the trunks of the study.
    """
    name = Path(branch_from).parent.parent.name
    path = runs / name / "config.yaml"
    parent = _read(name, path, "train").get("branch_from") if path.exists() else None
    return trunk_name(parent, runs) if parent else name


def _read(name: str, path: Path, script: str) -> dict[str, Any]:
    try:
        values = read_json(path) if path.suffix == ".json" else read_yaml(path, check_seal=True)
        if not isinstance(values, dict):
            raise InputError(f"{path}: not a mapping of fields to values")
    except InputError as error:
        hint = f"run launch/study.py again, or launch/{script}.py for this run"
        raise InputError(f"run {name}: {error}; {hint}") from None
    return values


def _pick(name: str, path: Path, values: dict[str, Any], fields: Iterable[str]) -> dict[str, Any]:
    """Return some fields of a run's file; raise InputError on the first that it does not have."""
    for field in fields:
        if field not in values:
            raise InputError(f"run {name}: {path} has no {field!r}; delete it and run the study again")
    return {field: values[field] for field in fields}
