"""The points of a fine-tuning study: one row a run, and the scores of each run on each held-out task."""

import csv
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from llama_scale.config import read_yaml
from llama_scale.errors import InputError
from llama_scale.files import atomic_write, read_fields, read_jsonl
from llama_scale.scaling.study.finetune.comparison import TriedRate
from llama_scale.scaling.study.finetune.settings import BASE, Arm
from llama_scale.scaling.study.finetune.tasks import SCORES, suite_file

RESULT = (
    "n_params", "trainable_params", "lr", "steps", "epochs", "batch", "tokens", "completion_tokens", "flops", "seconds",
    "peak_memory", "weights_bytes", "train_loss", "val_bits_per_byte", "val_end_nats", "retained_bits_per_byte",
)  # fmt: skip
JUDGED = (
    "parse_rate", "load_rate", "compile_rate", "ended_rate", "parse_rate_of_ended", "nontrivial_parse_rate",
    "repetition", "complexity",
)  # fmt: skip
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
    """Read all that the runs of a study left; raise InputError naming the run and the file that is missing."""
    settings = read_settings(folder)
    arms = [Arm(**arm) for arm in settings["arms"]]
    runs = {arm.name: [load_run(folder, settings, arm, draw) for draw in arm.draws] for arm in arms}
    return TuningStudy(
        folder, settings, arms, runs, [row for arm in arms if arm.tuned for row in load_rates(folder, arm)]
    )


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
    settings = read_yaml(path)
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
    """Read what one run left."""
    name = arm.run_name(draw)
    run = folder / "runs" / name
    result = read_fields(run / "result.json", ["val_bits_per_byte"])
    rows = read_jsonl(run / "references.jsonl", required=["id", "nats", "bytes", "end_nats"])
    check_numbers(f"{run / 'result.json'}: ", result, RESULT)
    for row in rows:
        check_numbers(f"{run / 'references.jsonl'}: {row['id']!r:.40}: ", row, ("nats", "bytes", "end_nats"))
    references = {row["id"]: (row["nats"], row["end_nats"], row["bytes"]) for row in rows}
    suites, samples = {}, {}
    for suite in settings["suites"]:
        path = run / SCORES / f"{suite_file(suite, arm.language)}.json"
        if path.exists():
            suites[suite] = read_fields(path)
            samples[suite] = read_jsonl(path.with_name(f"{path.stem}-samples.jsonl.gz"))
    return RunScores(name, draw, result, suites, references, samples)


def check_numbers(where: str, row: dict[str, Any], names: Iterable[str]) -> None:
    """Raise InputError, which begins with ``where``, on the first field of these that is neither a number nor null."""
    for name in names:
        if not isinstance(value := row.get(name), int | float | None) or isinstance(value, bool):
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
