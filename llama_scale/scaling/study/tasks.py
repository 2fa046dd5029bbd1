"""A study's tasks: the processes that make, score and fit its runs, and what each waits for."""

import hashlib
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from llama_scale.config import flatten
from llama_scale.scaling.fitting.points import parse_columns
from llama_scale.scaling.forecasting.holdout import forecast_first, request
from llama_scale.scaling.study.settings import PlannedRun, StudyConfig

Script = Callable[..., tuple[str, ...]]
FORECAST = "ahead-forecast"


@dataclass(frozen=True)
class Task:
    """One process of a study.

    ``argv`` runs in the working directory once the tasks in ``inputs`` are done; the task is done
    when it has exited with 0 and ``outputs``, paths from there, exist. ``flops`` is the work
    of a training run, whose progress ``metrics`` shows, counted from ``flops_before``.
    """

    name: str
    argv: tuple[str, ...]
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    flops: float = 0.0
    metrics: str | None = None
    flops_before: float = 0.0

    @property
    def stage(self) -> str:
        """The kind of task: the first word of its name."""
        return self.name.split("-")[0]


def flags(settings: dict[str, Any]) -> tuple[str, ...]:
    """Turn settings into command-line overrides, the values as JSON where they are not text."""
    words = []
    for key, value in flatten(settings).items():
        words += [f"--{key}", value if isinstance(value, str) else json.dumps(value)]
    return tuple(words)


def device_flags(config: StudyConfig) -> tuple[str, ...]:
    """Return the flags of where the study's runs are trained and scored."""
    threads = ("--threads", str(config.threads)) if config.threads else ()
    return "--device", config.device, *threads


def plan_tasks(
    config: StudyConfig, data: dict[str, Any], runs: list[PlannedRun], scripts: str
) -> list[Task]:
    """Return the study's tasks: prepare, then train and evaluate each run, then the results.

    The held-out runs come last, after the others' forecast of them has been written.
    ``scripts`` is the folder of the launch scripts.
    """

    def script(name: str, *arguments: str) -> tuple[str, ...]:
        return sys.executable, f"{scripts}/{name}.py", *arguments

    study, points = f"studies/{config.name}", f"studies/{config.name}/points.csv"
    prepare = script("prepare", "--config", data["file"])
    tasks = [Task("prepare", prepare, outputs=(f"{data['folder']}/manifest.json",))]
    scored = [run for run in runs if not run.is_trunk]
    last = []
    if config.law == "loss":
        last = forecast_first(scored, config.holdout, config.fit.get("where"))
    for run in runs:
        if run not in last:
            tasks += _run_tasks(config, run, script, "prepare")
    if last:
        tasks += _forecast_tasks(config, last, script, _scores(tasks))
    after = tasks[-1].name
    for run in last:
        tasks += _run_tasks(config, run, script, after)
    tasks.append(Task("collect", script("collect", study), _scores(tasks), (points,)))
    if config.law == "rates":
        found = f"{study}/{config.result}"
        sweep = script("scaling", "sweep", points, "--out", found)
        return [*tasks, Task("sweep", sweep, ("collect",), (found,))]
    holdout = ("--holdout", config.holdout)
    fit = script("scaling", "fit", points, "--out", study, *holdout, *flags(config.fit))
    report = script("scaling", "report", study)
    track = script("track", study, "--mode", os.environ.get("WANDB_MODE", "offline"))
    return [
        *tasks,
        Task("fit", fit, ("collect",), (f"{study}/laws.json",)),
        Task("report", report, ("fit",), (f"{study}/report.html",)),
        Task("track", track, ("report",)),
    ]


def _scores(tasks: list[Task]) -> tuple[str, ...]:
    return tuple(task.name for task in tasks if task.stage == "evaluate")


def _forecast_tasks(
    config: StudyConfig, last: list[PlannedRun], script: Script, after: tuple[str, ...]
) -> list[Task]:
    """Return the tasks that gather the other runs, fit them and write the forecast of ``last``."""
    study = f"studies/{config.name}"
    ahead = f"{study}/ahead"
    points, without = f"{ahead}/points.csv", json.dumps([run.name for run in last])
    collect = script("collect", study, "--without", without, "--out", points)
    fit = script("scaling", "fit", points, "--out", ahead, *flags(config.fit), "--holdout", "none")
    size = parse_columns(config.fit.get("columns")).get("N", "N")
    asked = request(last, size)
    forecast = script("scaling", "forecast", ahead, "--runs", asked, "--out", f"{study}/forecasts")
    return [
        Task("ahead-collect", collect, after, (points,)),
        Task("ahead-fit", fit, ("ahead-collect",), (f"{ahead}/laws.json",)),
        Task(FORECAST, forecast, ("ahead-fit",), (f"{study}/forecasts",)),
    ]


def _run_tasks(config: StudyConfig, run: PlannedRun, script: Script, after: str) -> list[Task]:
    folder = f"runs/{config.name}/{run.name}"
    scores = f"{folder}/evals/step-{run.recipe.steps:08d}"
    suites = ("--suites", ",".join(config.suites))
    # The suites last: a file of settings names its own.
    evaluate = (folder, *device_flags(config), *flags(config.evaluate), *suites)
    train = Task(
        f"train-{run.name}",
        script("train", *run.argv),
        inputs=(after, f"train-{run.trunk}") if run.trunk else (after,),
        outputs=(f"{folder}/result.json",),
        flops=run.spent,
        flops_before=run.flops - run.spent,
        metrics=f"{folder}/metrics.jsonl",
    )
    if run.is_trunk:
        return [train]
    outputs = tuple(f"{scores}/{suite}.json" for suite in config.suites)
    return [
        train,
        Task(f"evaluate-{run.name}", script("evaluate", *evaluate), (train.name,), outputs),
    ]


def keys(tasks: list[Task]) -> dict[str, str]:
    """Return a hash for each task of its command and those of all tasks that it follows.

    The interpreter's path is left out, so that a moved environment repeats nothing.
    """
    found: dict[str, str] = {}
    for task in tasks:
        parts = [*task.argv[1:], "", *(found[name] for name in sorted(task.inputs))]
        found[task.name] = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
    return found
