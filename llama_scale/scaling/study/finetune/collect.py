"""The points of a fine-tuning study: one row a run, and the scores of each run on each held-out task."""

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from llama_scale.config import read_yaml
from llama_scale.errors import InputError
from llama_scale.files import atomic_write, check_unchanged, read_fields, read_jsonl, sha256
from llama_scale.scaling.study.collect import check_scored
from llama_scale.scaling.study.finetune.comparison import TriedRate
from llama_scale.scaling.study.finetune.settings import BASE, FEW_SHOT, Arm
from llama_scale.scaling.study.finetune.tasks import SCORES, suite_file

NEEDED = (
    "val_bits_per_byte", "examples", "n_params", "trainable_params", "lr", "steps", "seconds", "peak_memory",
    "weights_bytes",
)  # fmt: skip
RESULT = (
    "n_params", "trainable_params", "lr", "steps", "epochs", "batch", "tokens", "completion_tokens", "flops", "seconds",
    "peak_memory", "weights_bytes", "train_loss", "val_bits_per_byte", "val_end_nats", "retained_bits_per_byte",
)  # fmt: skip
JUDGED = (
    "parse_rate", "load_rate", "compile_rate", "ended_rate", "parse_rate_of_ended", "nontrivial_parse_rate",
    "repetition", "complexity",
)  # fmt: skip
REFERENCES = "references.jsonl"
# Fields of study.yaml, and of an arm in it, that are read.
SETTINGS = {
    "name": str,
    "question": str,
    "arms": list,
    "suites": list,
    "pairs": dict,
    "margin": (int, float),
    "flaws": list,
}
ARM = {"name": str, "method": str, "language": str, "draws": list, "settings": dict}
# The first columns of the published studies' files, in percent, and the columns that they are made of.
PUBLISHED = {"BLEU": "similarity_bleu", "Syntax_Pass_Rate": "parse_rate"}


@dataclass(frozen=True)
class RunScores:
    """What a run scored.

    Attributes:
        name: Of the run.
        draw: Of its pairs.
        result: Its result.json.
        suites: Results of the suites that its samples were judged by.
        references: Bits per byte of each held-out completion and nats of its document end, by the pair's id.
        samples: A row for each sample.
    """

    name: str
    draw: int
    result: dict[str, Any]
    suites: dict[str, dict[str, Any]]
    references: dict[str, tuple[float, float, int]]
    samples: dict[str, list[dict[str, Any]]]


@dataclass(frozen=True)
class TuningStudy:
    """A fine-tuning study that has run: its settings, the scores of the runs of each arm, and the rates it tried."""

    folder: Path
    settings: dict[str, Any]
    arms: list[Arm]
    runs: dict[str, list[RunScores]]
    rates: list[TriedRate]


def load_study(folder: Path) -> TuningStudy:
    """Read all that the runs of a study left.

    Raises InputError naming the run and the file that is missing, has changed, or is of another run, rate or pairs.
    """
    settings = read_settings(folder)
    arms = [Arm(**arm) for arm in settings["arms"]]
    runs = {arm.name: [load_run(folder, settings, arm, draw) for draw in arm.draws] for arm in arms}
    check_pairs(folder, arms, runs)
    rates = []
    for arm in (arm for arm in arms if arm.tuned):
        rates += load_rates(folder, arm)
        for run in runs[arm.name]:
            if not math.isclose(run.result["lr"], rates[-1].chosen, rel_tol=1e-9):
                found = f"trained at the rate {run.result['lr']:.4g}, the search found {rates[-1].chosen:.4g}"
                raise InputError(f"run {run.name}: {found}; delete its folder and run the study again")
    return TuningStudy(folder, settings, arms, runs, rates)


def check_pairs(folder: Path, arms: Iterable[Arm], runs: Mapping[str, Sequence[RunScores]]) -> None:
    """Raise InputError if a run was trained or scored on other pairs than now are in the study's files.

    Results of earlier versions do not say.
    """
    for arm in arms:
        parts = {"train_sha256": "pool", "validation_sha256": "test"}
        if arm.method == FEW_SHOT:  # scored on the test pairs with others before them
            del parts["validation_sha256"]
        for field, part in parts.items():
            path = folder / "data" / arm.language / f"{part}.jsonl"
            for run in (run for run in runs[arm.name] if field in run.result):
                if path.exists() and run.result[field] != sha256(path):
                    problem = "its pairs have changed since, or the file has"
                    raise InputError(f"run {run.name}: {path}: {problem}; restore it, or start the study over")


def load_rates(folder: Path, arm: Arm) -> list[TriedRate]:
    """Read what the search for an arm's rate tried."""
    path = folder / "rates" / f"{arm.name}.json"
    found = read_fields(path, ["lr", "tried"])
    if not isinstance(found["tried"], list) or not all(isinstance(row, dict) for row in found["tried"]):
        raise InputError(f"{path}: tried is no list of rates; delete the file and run the study again")
    for row in (found, *found["tried"]):
        check_numbers(f"{path}: ", row, ["lr", "bits_per_byte"])
        if row.get("lr") is None:
            raise InputError(f"{path}: a rate without lr; delete the file and run the study again")
    return [TriedRate(arm.name, row["lr"], row.get("bits_per_byte"), found["lr"]) for row in found["tried"]]


def read_settings(folder: Path) -> dict[str, Any]:
    """Read the settings of a study that was planned; raise InputError where they are not whole."""
    path = folder / "study.yaml"
    settings = read_yaml(path, check_seal=True)
    if not isinstance(settings, dict) or settings.get("kind") != "finetune":
        raise InputError(f"{path}: not of a fine-tuning study; give the folder of one")
    for name, kind in SETTINGS.items():
        if not isinstance(settings.get(name), kind):
            raise InputError(f"{path}: {name} is {settings.get(name, 'missing')!r:.40}; run the study again")
    names = {item.name for item in fields(Arm)}
    for arm in settings["arms"]:
        found = arm if isinstance(arm, dict) else {}
        wrong = [name for name, kind in ARM.items() if not isinstance(found.get(name), kind)]
        if found.keys() != names or wrong:
            odd = ", ".join([*wrong, *sorted(map(str, found.keys() ^ names))]) or "it"
            raise InputError(f"{path}: an arm is not whole ({odd}); run the study again")
    if BASE not in [arm["method"] for arm in settings["arms"]]:
        raise InputError(f"{path}: no arm is the base, which the others are compared with; run the study again")
    return settings


def load_run(folder: Path, settings: dict[str, Any], arm: Arm, draw: int) -> RunScores:
    """Read what one run left; raise InputError where a file is missing, has changed or is another run's."""
    name = arm.run_name(draw)
    run = folder / "runs" / name
    result = read_fields(run / "result.json", NEEDED)
    check_numbers(f"{run / 'result.json'}: ", result, RESULT)
    check_numbers(f"{run / 'result.json'}: ", result, [*NEEDED], null=False)
    if result.get("run", name) != name:
        raise InputError(f"{run / 'result.json'}: that of {result['run']!r:.60}; delete it and run the study again")
    references = load_references(run / REFERENCES, result)
    suites, samples = {}, {}
    sampled = arm.draws.index(draw) < (settings.get("sampled") or len(arm.draws))
    for suite in settings["suites"]:
        path = run / SCORES / f"{suite_file(suite, arm.language)}.json"
        if sampled or path.exists():
            suites[suite] = read_fields(path)
            check_scored(str(path), suites[suite], result)
            samples[suite] = load_samples(path, suites[suite])
    return RunScores(name, draw, result, suites, references, samples)


def load_references(path: Path, result: Mapping[str, Any]) -> dict[str, tuple[float, float, int]]:
    """Read the scores of a run's held-out pairs, by their ids; raise InputError unless its result is made of them."""
    rows = read_jsonl(path, required=["id", "nats", "bytes", "end_nats"], texts=["id"])
    for row in rows:
        check_numbers(f"{path}: {row['id']!r:.40}: ", row, ("nats", "bytes", "end_nats"), null=False)
    found = {row["id"]: (row["nats"], row["end_nats"], row["bytes"]) for row in rows}
    whole = len(found) == len(rows) > 0 and min(size for _, _, size in found.values()) > 0
    if (written := result.get("references_sha256")) is not None:
        whole = whole and sha256(path) == written
    elif whole:  # of an earlier version, whose result has their sums alone
        nats, _, sizes = (sum(column) for column in zip(*found.values(), strict=True))
        whole = math.isclose(nats / math.log(2) / sizes, result["val_bits_per_byte"], rel_tol=1e-9)
    if not whole:
        problem = f"has changed since {path.with_name('result.json').name} was made of it"
        raise InputError(f"{path}: {problem}; restore it, or delete the run's folder and run the study again")
    return found


def load_samples(path: Path, scores: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Read the judged samples of a suite's result; raise InputError where they have changed since."""
    samples = path.with_name(f"{path.stem}-samples.jsonl.gz")
    rows = read_jsonl(samples, whole=True, required=["task_id", "reason", "passed", "parses", "finish_reason"])
    remedy = f"restore it, or delete {path.name} and run the study again"
    check_unchanged(samples, scores.get("samples_sha256"), f"{path.name} was written", remedy)
    return rows


def check_numbers(where: str, row: dict[str, Any], names: Iterable[str], null: bool = True) -> None:
    """Raise InputError, which begins with ``where``, on the first of these fields that is no number, nor allowed null.

    NaN and infinity, which JSON does not have and Python reads, are no numbers.
    """
    for name in names:
        value = row.get(name)
        known = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not (known or (null and value is None)):
            raise InputError(f"{where}{name} is {value!r:.40}, expected a number; run the study again")


def collect(folder: Path, out: Path | None = None) -> list[dict[str, Any]]:
    """Write points.csv, rates.csv and results_<question>.csv, with the columns of the published studies.

    Returns the rows of the first.
    """
    study = load_study(folder)
    rows = [_row(arm, run) for arm in study.arms for run in study.runs[arm.name]]
    write_csv(out or folder / "points.csv", rows)
    if study.rates:
        write_csv(folder / "rates.csv", [asdict(row) for row in study.rates])
    question = study.settings["question"]
    if question != "quick":
        write_csv(folder / f"results_{question}.csv", published_rows(study))
    return rows


def published_rows(study: TuningStudy) -> list[dict[str, Any]]:
    """Return a row for each arm that was trained, with the published columns first: percent, means over sampled runs.

    What was not measured is empty, never 0 or 100.
    """
    rows = []
    for arm in study.arms:
        points = [_row(arm, run) for run in study.runs[arm.name]]
        if not arm.trained:
            continue
        row: dict[str, Any] = {}
        for name, column in PUBLISHED.items():
            values = [point[column] for point in points if point.get(column) is not None]
            row[name] = round(100 * float(np.mean(values)), 2) if values else None
        row |= {"Configuration": configuration(study.settings["question"], arm), "runs": len(points)}
        numbers = [name for name, value in points[0].items() if isinstance(value, int | float)]
        for name in numbers:
            values = [point[name] for point in points if isinstance(point.get(name), int | float)]
            if name not in ("rank", "draw", "examples", "sampled"):
                row[name] = float(np.mean(values))
        rows.append(row)
    return rows


def configuration(question: str, arm: Arm) -> str:
    """Return an arm as the published studies call it: Rank 16, Size 300, Java, Full."""
    names = {
        "rank": f"Rank {arm.rank}",
        "scale": f"Size {arm.examples}",
        "lang": {"javascript": "JavaScript"}.get(arm.language, arm.language.capitalize()),
        "method": "Full" if arm.method == "full" else "LoRA",
    }
    name = names[question]
    return name if question == "scale" and not arm.steps else f"{name} ({arm.name})"


def _row(arm: Arm, run: RunScores) -> dict[str, Any]:
    row = {
        "run": run.name, "arm": arm.name, "method": arm.method, "rank": arm.rank, "language": arm.language,
        "examples": run.result["examples"] if arm.trained else None, "draw": run.draw,
        "budget": arm.budget if arm.trained else None,
    }  # fmt: skip
    row |= {name: run.result.get(name) for name in RESULT}
    for scores in run.suites.values():
        row |= {name: scores[name] for name in JUDGED if name in scores}
        row |= {f"similarity_{name}": value for name, value in scores.get("similarity", {}).items()}
        row |= {f"pass_at_{k}": value for k, value in scores.get("pass_at_k", {}).items()}
    return row


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows with the columns that any of them has; what a row lacks is empty."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    with atomic_write(path) as file:
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
