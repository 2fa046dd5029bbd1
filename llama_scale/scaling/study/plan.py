"""A study as data: the runs it asks for and the commands that make, score and fit them.

Every stage is one of the launch scripts as a process of its own, so a plan can be carried out by any executor: one
machine, several GPUs, a cluster's queue.
"""

import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from llama_scale.cli import build, parse
from llama_scale.config import ROOT, find_config, flatten, load_size, read_yaml
from llama_scale.errors import InputError, nearest, prefix_errors
from llama_scale.files import check_name
from llama_scale.scaling.fitting.checks import RATIO
from llama_scale.scaling.fitting.points import parse_columns, parse_conditions
from llama_scale.scaling.study.backends.task import Task
from llama_scale.scaling.study.collect import HEADLINE, MODEL, RESULT, SHORT_NAMES, TRUNK
from llama_scale.scaling.study.runs import plan_runs
from llama_scale.scaling.study.settings import HEADLINE_SUITE, FitConfig, PlannedRun, StudyConfig
from llama_scale.scaling.study.tasks import plan_tasks
from llama_scale.text import relative_path

SCRIPTS = ROOT / "launch"
# Lists of a grid that may not be empty.
REQUIRED_LISTS = "sizes", "seeds"
SET_BY_STUDY = {
    "evaluate": ("checkpoint", "suites", "all", "watch", "suite", "samples", "out"),
    "fit": ("points", "out", "holdout", "json"),
}
DATA_HINT = (
    "the YAML that launch/prepare.py --config takes, as configs/data/installed.yaml (the folder "
    "of its tokens is for launch/train.py --data)"
)
EVALUATION_HINT = "the YAML of launch/evaluate.py, as configs/eval/quick.yaml"


@dataclass(frozen=True)
class Study:
    """A study that has been checked.

    Attributes:
        config: What its file says.
        source: The name of that file, for messages.
        root: The working directory, below which data/, runs/ and studies/ lie.
        scripts: Folder of the launch scripts, beside the package that they import.
        runs: Its training runs.
        tasks: Its tasks, each after those that it waits for.
        settings: What studies/<name>/study.yaml records, with the shapes of the sizes and the data's settings.
        identity: Those of the settings by which runs were trained: a study that has runs keeps them.
    """

    config: Any  # StudyConfig, or that of another kind with its name, result, device, threads, parallel and executor
    source: str
    root: Path
    scripts: Path
    runs: list[Any]  # PlannedRun, or what has its name and what it has spent
    tasks: list[Task]
    settings: dict[str, Any]
    identity: tuple[str, ...] = ("data", "sizes", "train")

    @property
    def points(self) -> list[PlannedRun]:
        """The runs that the law is fitted to: all but the trunks."""
        return [run for run in self.runs if not run.is_trunk]

    @property
    def folder(self) -> Path:
        """Folder of the study's results."""
        return self.root / "studies" / self.config.name

    @property
    def runs_folder(self) -> Path:
        """Folder of the study's training runs."""
        return self.root / "runs" / self.config.name


def read_study(root: Path, argv: list[str] | None = None, *, scripts: Path = SCRIPTS) -> Study:
    """Read the study file that the command line names and plan it.

    Args:
        root: The working directory.
        argv: The command line; None is that of this process.
        scripts: Folder of the launch scripts.

    Raises:
        InputError: Something in the file is wrong, named with the file before anything runs: an unknown key or size, a
            wrong type, a value out of range, an empty or doubled list, in the study's own settings and in those of its
            runs and its fit. Those of the evaluation are launch/study.py's to check.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    source = argv[0] if argv and not argv[0].startswith("-") else "the study"
    config = parse(StudyConfig, "Run a scaling study.", argv, "config", "study", "quickstart --dry-run")
    with prefix_errors(source):
        _check_settings(config)
        data = _read_data(config, root)
        evaluation_file, evaluation = _read_evaluation(config, root)
        runs = plan_runs(config, data["folder"])
        tasks = plan_tasks(config, data, runs, str(relative_path(scripts, root)), evaluation)
        for task in tasks:
            if task.name == "fit":
                with prefix_errors("fit"):
                    build(FitConfig, task.settings or {})
        evaluate = flatten(config.evaluate) | ({"config": evaluation_file} if evaluation_file else {})
        sizes = sorted({size for grid in config.runs for size in grid.sizes})
        settings = asdict(replace(config, evaluate=evaluate)) | {
            "data": data["settings"],
            "sizes": {size: asdict(load_size(size)) for size in sizes},
            "train": flatten(config.train),
            "planned": [run.name for run in runs if not run.is_trunk],
        }
        return Study(
            config=config, source=source, root=root, scripts=scripts, runs=runs, tasks=tasks, settings=settings
        )


def _check_settings(config: StudyConfig) -> None:
    """Raise InputError on the first setting that makes no sense."""
    check_name("name", config.name)
    if config.parallel != "auto" and config.parallel < 1:
        raise InputError(f"parallel: expected at least 1 or auto, found {config.parallel}")
    of_grids = [(f"runs[{position}].", grid.threads) for position, grid in enumerate(config.runs)]
    for where, threads in [("", config.threads), *of_grids]:
        if threads is not None and threads < 1:
            raise InputError(f"{where}threads: expected at least 1 or null, found {threads}")
    if not 0 < config.noise < 1:
        raise InputError(f"noise: expected a share of the loss in (0, 1), found {config.noise}")
    for part, names in SET_BY_STUDY.items():
        for key in flatten(getattr(config, part)):
            if key in names:
                raise InputError(f"{part}.{key}: the study sets it; leave it out")
    _check_condition(config, "holdout", config.holdout)
    _check_condition(config, "fit.where", config.fit.get("where"))
    if isinstance(columns := config.fit.get("columns"), str):
        _check_columns(config, "fit.columns", parse_columns(columns).values())
    if HEADLINE_SUITE not in config.suites:
        raise InputError(f"suites: {HEADLINE_SUITE} is missing; the law is fitted to its loss, so add it")
    _check_lists(config)


def _check_lists(config: StudyConfig) -> None:
    """Raise InputError on a list that is empty or names something twice."""
    lists: dict[str, list[Any]] = {"runs": config.runs, "suites": config.suites}
    for position, grid in enumerate(config.runs):
        if grid.variant:
            check_name(f"runs[{position}].variant", grid.variant)
        for key, value in vars(grid).items():
            if isinstance(value, list) and (key in REQUIRED_LISTS or value):
                lists[f"runs[{position}].{key}"] = value
    for name, values in lists.items():
        if not values:
            raise InputError(f"{name}: the list is empty; name at least one")
        doubled = [value for value in values if values.count(value) > 1]
        if doubled and name != "runs":
            raise InputError(f"{name}: {doubled[0]} is listed twice; list each once")


def _check_condition(config: StudyConfig, field: str, condition: Any) -> None:
    """Raise InputError where ``condition`` cannot be read or asks for what no run will have."""
    if not isinstance(condition, str | None):
        raise InputError(f"{field}: expected a condition such as N>1e8, found {condition!r}")
    if not condition or condition in ("largest", "none"):
        return
    with prefix_errors(field):
        names = [name for _, name, *_ in parse_conditions(condition)]
    _check_columns(config, field, names)


def _check_columns(config: StudyConfig, field: str, names: Iterable[str]) -> None:
    """Raise InputError on a name that the study's points.csv will not have."""
    known = (*SHORT_NAMES, RATIO, *RESULT, *MODEL, TRUNK, *HEADLINE)
    scores = tuple(f"{suite}_" for suite in config.suites)
    for name in names:
        if name not in known and not name.startswith(scores):
            raise InputError(f"{field}: the study's points will have no column {name!r}{nearest(name, known)}")


def _read_evaluation(config: StudyConfig, root: Path) -> tuple[str | None, dict[str, Any]]:
    """Return the file that evaluate.config names, from ``root`` where it lies there, and its settings."""
    name = config.evaluate.get("config")
    if name is None:
        return None, {}
    with prefix_errors("evaluate.config"):
        path = find_config(str(name), "eval", root, EVALUATION_HINT)
    settings = read_yaml(path)
    if not isinstance(settings, dict):
        raise InputError(f"evaluate.config: {path} has no settings; give {EVALUATION_HINT}")
    return str(relative_path(path, root)), settings


def _read_data(config: StudyConfig, root: Path) -> dict[str, Any]:
    """Return the file and the settings of the data, and the folder that launch/prepare.py makes."""
    with prefix_errors("data"):
        path = find_config(config.data, "data", root, DATA_HINT)
    settings = read_yaml(path)
    if not isinstance(settings, dict) or not isinstance(settings.get("name"), str):
        raise InputError(f"data: {config.data} has no name; give {DATA_HINT}")
    folder = settings.get("out") or f"data/{settings['name']}"
    return {"file": str(relative_path(path, root)), "folder": folder, "settings": settings}
