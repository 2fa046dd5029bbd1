"""A study's tasks: the processes that make, score and fit its runs, and what each waits for."""

import importlib.util
import json
import math
import os
import sys
from dataclasses import dataclass
from typing import Any

from llama_scale.config import flatten, nest
from llama_scale.scaling.fitting.points import parse_columns
from llama_scale.scaling.forecasting.holdout import forecast_request, runs_to_forecast
from llama_scale.scaling.study.backends.task import Task
from llama_scale.scaling.study.runs import device_settings
from llama_scale.scaling.study.settings import PlannedRun, StudyConfig
from llama_scale.training.wandb_log import pick_mode

FORECAST = "holdout-forecast"


def plan_tasks(
    config: StudyConfig,
    data: dict[str, Any],
    runs: list[PlannedRun],
    scripts: str,
    evaluation_file: dict[str, Any] | None = None,
) -> list[Task]:
    """Return the study's tasks: prepare, then train and evaluate each run, then the results.

    The held-out runs come last, after the others' forecast of them has been written.

    Args:
        config: The study.
        data: The file of its data's settings and the folder that they make.
        runs: Its runs, trunks before their branches.
        scripts: Folder of the launch scripts.
        evaluation_file: What the file says that the study's evaluation names.
    """
    make = TaskMaker(config, evaluation_settings(config, evaluation_file), scripts)
    manifest = f"{data['folder']}/manifest.json"
    tasks = [make.task("prepare", "prepare", "--config", data["file"], outputs=(manifest,))]
    held_out = []
    if config.law == "loss":
        scored = [run for run in runs if not run.is_trunk]
        held_out = runs_to_forecast(scored, config.holdout, config.fit.get("where"))
    # A trunk that serves held-out runs alone is trained after their forecast, too.
    forked = {run.trunk for run in runs if run not in held_out}
    last = [run for run in runs if run in held_out or (held_out and run.is_trunk and run.name not in forked)]
    for run in runs:
        if run not in last:
            tasks += make.train_and_evaluate(run, "prepare")
    if held_out:
        tasks += make.forecast(held_out, _evaluations(tasks))
    after = tasks[-1].name
    for run in last:
        tasks += make.train_and_evaluate(run, after)
    return [*tasks, *make.results(_evaluations(tasks))]


def _evaluations(tasks: list[Task]) -> tuple[str, ...]:
    return tuple(task.name for task in tasks if task.stage == "evaluate")


@dataclass(frozen=True)
class TaskMaker:
    """Makes the tasks of one study, all of whose runs are scored by the same ``evaluation``."""

    config: StudyConfig
    evaluation: dict[str, Any]
    scripts: str

    @property
    def folder(self) -> str:
        """Folder of the study's results."""
        return f"studies/{self.config.name}"

    def task(self, name: str, script: str, *arguments: str, file: str = "", **fields: Any) -> Task:
        """Return a task that runs a launch script, its ``settings``, if any, in configs/<``file`` or ``name``>.yaml."""
        argv = (sys.executable, f"{self.scripts}/{script}.py", *arguments)
        if "settings" not in fields:
            return Task(name, argv, **fields)
        config_file = f"{self.folder}/configs/{file or name}.yaml"
        return Task(name, (*argv, "--config", config_file), config_file=config_file, **fields)

    def train_and_evaluate(self, run: PlannedRun, after: str) -> list[Task]:
        """Return the tasks that train a run, once ``after`` is done, and score it."""
        folder = f"runs/{self.config.name}/{run.name}"
        train = self.task(
            f"train-{run.name}",
            "train",
            inputs=(after, f"train-{run.trunk}") if run.trunk else (after,),
            outputs=(f"{folder}/result.json",),
            flops=run.spent,
            flops_before=run.flops - run.spent,
            metrics=f"{folder}/metrics.jsonl",
            settings=run.settings,
            places=math.ceil((run.config.threads or 1) / (self.config.threads or run.config.threads or 1)),
        )
        if run.is_trunk:
            return [train]
        evaluate = self.task(
            f"evaluate-{run.name}",
            "evaluate",
            folder,
            inputs=(train.name,),
            outputs=tuple(f"{folder}/evals/step-{run.recipe.steps:08d}/{suite}.json" for suite in self.config.suites),
            settings=self.evaluation,
            file="evaluate",
        )
        return [train, evaluate]

    def forecast(self, held_out: list[PlannedRun], after: tuple[str, ...]) -> list[Task]:
        """Return the tasks that fit the other runs and write the forecast of ``held_out``."""
        folder, out = f"{self.folder}/holdout", f"{self.folder}/forecasts"
        points, without = f"{folder}/points.csv", json.dumps([run.name for run in held_out])
        collect = "collect", self.folder, "--without", without, "--out", points
        column = parse_columns(self.config.fit.get("columns")).get("N", "N")
        forecast = "scaling", "forecast", folder, "--runs", forecast_request(held_out, column), "--out", out
        return [
            self.task("holdout-collect", *collect, inputs=after, outputs=(points,)),
            self._fit("holdout-fit", "holdout-collect", folder, "none"),
            self.task(FORECAST, *forecast, inputs=("holdout-fit",), outputs=(out,)),
        ]

    def results(self, evaluations: tuple[str, ...]) -> list[Task]:
        """Return the tasks that gather what all runs scored and make the study's result of it."""
        study, points, result = self.folder, f"{self.folder}/points.csv", f"{self.folder}/{self.config.result}"
        collect = self.task("collect", "collect", study, inputs=evaluations, outputs=(points,))
        if self.config.law == "rates":
            sweep = "scaling", "sweep", points, "--out", result
            return [collect, self.task("sweep", *sweep, inputs=("collect",), outputs=(result,))]
        report = self.task("report", "scaling", "report", study, inputs=("fit",), outputs=(result,))
        tasks = [collect, self._fit("fit", "collect", study, self.config.holdout), report]
        if can_track():
            tasks.append(self.task("track", "track", study, "--mode", pick_mode(), inputs=("report",)))
        return tasks

    def _fit(self, name: str, after: str, folder: str, holdout: str) -> Task:
        """Return the task that fits ``folder``/points.csv and writes the law beside it."""
        settings = {"points": f"{folder}/points.csv", "out": folder, "holdout": holdout}
        settings = nest(flatten(self.config.fit) | settings)
        outputs = (f"{folder}/laws.json",)
        return self.task(name, "scaling", "fit", inputs=(after,), outputs=outputs, settings=settings)


def can_track() -> bool:
    """Whether a study ends with its mirror: Weights & Biases is installed, or asked for by WANDB_MODE."""
    package = importlib.util.find_spec("wandb")  # a folder of that name, which runs leave behind, has no origin
    return "WANDB_MODE" in os.environ or (package is not None and package.origin is not None)


def evaluation_settings(config: StudyConfig, evaluation_file: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the settings of launch/evaluate.py for every run of a study.

    The study's own go over those of the file that it names; its suites are its own.
    """
    settings = device_settings(config) | flatten(evaluation_file or {}) | flatten(config.evaluate)
    settings.pop("config", None)
    return nest(settings | {"suites": ",".join(config.suites)})
