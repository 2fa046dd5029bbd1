"""The scores that arms are compared by: for each endpoint an arm's runs on the same held-out tasks."""

import math
from dataclasses import dataclass

import numpy as np

from llama_scale.errors import InputError
from llama_scale.scaling.study.finetune.collect import RunScores, TuningStudy
from llama_scale.scaling.study.finetune.settings import BASE, Arm


@dataclass(frozen=True)
class Endpoint:
    """What is compared: its key, its name, whether less of it is better, and whether it is a share of tasks."""

    key: str
    name: str
    lower_is_better: bool
    share: bool = False


PRIMARY = Endpoint("bits_per_byte", "bits per byte of the reference", True)
END = Endpoint("end_nats", "nats of the document end", True)
SAMPLED = (
    Endpoint("passed", "passes its tests", False, True),
    Endpoint("parses", "parses", False, True),
    Endpoint("ended", "ended by itself", False, True),
    Endpoint("bleu", "BLEU", False),
    Endpoint("chrf", "chrF", False),
    Endpoint("codebleu", "CodeBLEU", False),
)
GAIN = Endpoint("gain", "bits per byte gained over the base", False)  # comparable between languages
ENDPOINTS = (PRIMARY, END, *SAMPLED)
NO_VERDICT = ("not measured", "no tests")


@dataclass(frozen=True)
class Scores:
    """Scores of an arm: (runs, tasks), the draws of the rows and the tasks of the columns."""

    values: np.ndarray
    draws: list[int]
    tasks: list[str]

    def of_draws(self, draws: list[int]) -> np.ndarray:
        """Return the rows of some draws, in their order."""
        return self.values[[self.draws.index(draw) for draw in draws]]


def base_of(study: TuningStudy, arm: Arm) -> Arm:
    """Return the base in an arm's language."""
    return next(a for a in study.arms if a.method == BASE and a.language == arm.language)


def arm_scores(study: TuningStudy, arm: Arm, endpoint: Endpoint) -> Scores | None:
    """Return an arm's scores by an endpoint, None where it was not measured; runs without samples are left out.

    Tasks are in the order of their names. Raises InputError where the runs were scored on different ones.
    """
    tasks: list[str] = []
    rows, draws = [], []
    for run in study.runs[arm.name]:
        found = _by_task(run, endpoint)
        if found is None:
            continue
        tasks = tasks or sorted(found)
        if not tasks or found.keys() != set(tasks):
            which = min(found.keys() ^ set(tasks), default="any pair")
            problem = f"run {run.name}: {endpoint.name} of {which} is there in some runs only"
            raise InputError(f"{problem}; delete the folder of the run that lacks it and run the study again")
        rows.append([found[task] for task in tasks])
        draws.append(run.draw)
    return Scores(np.array(rows, dtype=np.float64), draws, tasks) if rows else None


def _by_task(run: RunScores, endpoint: Endpoint) -> dict[str, float] | None:
    """Return a run's score on each task: of samples the mean; None where a task has none."""
    if endpoint is PRIMARY:
        return {task: nats / math.log(2) / size for task, (nats, _, size) in run.references.items()}
    if endpoint is END:
        return {task: end for task, (_, end, _) in run.references.items()}
    values: dict[str, list[float]] = {}
    for rows in run.samples.values():
        for row in rows:
            value = _sample_value(row, endpoint.key)
            if value is None:
                return None
            values.setdefault(row["task_id"], []).append(value)
    return {task: float(np.mean(found)) for task, found in values.items()} or None


def _sample_value(row: dict, key: str) -> float | None:
    if key == "passed":
        return None if row["reason"] in NO_VERDICT else float(row["passed"])
    if key == "parses":
        return None if row["reason"] == "not measured" else float(row["parses"])
    if key == "ended":
        return float(row["finish_reason"] == "stop")
    return row.get("similarity", {}).get(key)
