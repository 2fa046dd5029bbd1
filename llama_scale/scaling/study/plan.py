"""A study as data: the runs it asks for and the commands that make, score and fit them.

Every stage is one of the launch scripts as a process of its own, so a plan can be carried out by
any executor: one machine, several GPUs, a cluster's queue.
"""

import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from llama_scale.cli import parse
from llama_scale.config import CONFIGS, flatten, load_size, read_yaml
from llama_scale.errors import InputError, nearest
from llama_scale.files import check_name
from llama_scale.scaling.fitting.points import conditions, parse_columns
from llama_scale.scaling.study.collect import HEADLINE, MODEL, RESULT
from llama_scale.scaling.study.runs import plan_runs
from llama_scale.scaling.study.settings import HEADLINE_SUITE, FitConfig, PlannedRun, StudyConfig
from llama_scale.scaling.study.tasks import Task, plan_tasks
from llama_scale.text import relative_path

REPOSITORY = CONFIGS.parent
NEEDED = "sizes", "seeds"
STUDY_SETS = {
    "evaluate": ("checkpoint", "suites", "all", "watch", "suite", "samples", "out"),
    "fit": ("points", "out", "holdout", "json"),
}
DATA = (
    "the YAML that launch/prepare.py --config takes, as configs/data/installed.yaml (the folder "
    "of its tokens is for launch/train.py --data)"
)


@dataclass(frozen=True)
class Study:
    """A study that has been checked: its file, runs, tasks, and the identity of what it trains.

    ``root`` is the working directory, below which data/, runs/ and studies/ lie. ``settings`` is
    what studies/<name>/study.yaml records, with the shapes of the sizes and the data's settings.
    """

    config: StudyConfig
    source: str
    root: Path
    runs: list[PlannedRun]
    tasks: list[Task]
    settings: dict[str, Any]

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


def read_study(root: Path, argv: list[str] | None = None) -> Study:
    """Read the study file that the command line names and plan it.

    Raises InputError naming the file and the field when something in it is wrong, before
    anything runs: an unknown key or size, a wrong type, a value out of range, an empty or doubled
    list, in the study's own settings and in those of its runs and its fit. Those of the
    evaluation are launch/study.py's to check.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    source = argv[0] if argv and not argv[0].startswith("-") else "the study"
    config = parse(StudyConfig, "Run a scaling study.", argv, positional="config")
    try:
        _check(config)
        data = _read_data(config, root)
        config = replace(config, evaluate=_evaluate_settings(config, root))
        runs = plan_runs(config, data["folder"])
        settings = asdict(config) | {
            "data": data["settings"],
            "sizes": {size: asdict(load_size(size)) for size in _sizes(config)},
            "train": flatten(config.train),
            "planned": [run.name for run in runs if not run.is_trunk],
        }
        tasks = plan_tasks(config, data, runs, str(relative_path(REPOSITORY / "launch", root)))
        if config.law == "loss":
            _check_fit(next(task.argv for task in tasks if task.name == "fit"))
        return Study(config, source, root, runs, tasks, settings)
    except InputError as error:
        raise InputError(f"{source}: {error}") from None


def _sizes(config: StudyConfig) -> list[str]:
    return sorted({size for grid in config.runs for size in grid.sizes})


def _check_rule(config: StudyConfig, field: str, rule: Any) -> None:
    if not isinstance(rule, str | None):
        raise InputError(f"{field}: expected a condition such as N>1e8, found {rule!r}")
    try:
        asked = conditions(rule) if rule and rule not in ("largest", "none") else []
    except InputError as error:
        raise InputError(f"{field}: {error}") from None
    _check_columns(config, field, [name for _, name, *_ in asked])


def _check_columns(config: StudyConfig, field: str, names: Iterable[str]) -> None:
    """Raise InputError on a name that the study's points.csv will not have."""
    known, scores = (*RESULT, *MODEL, *HEADLINE), tuple(f"{suite}_" for suite in config.suites)
    for name in names:
        if name not in known and not name.startswith(scores):
            raise InputError(
                f"{field}: the study's points will have no column {name!r}{nearest(name, known)}"
            )


def _check_fit(argv: tuple[str, ...]) -> None:
    """Raise InputError where the command of the fit is one that it would refuse."""
    try:
        parse(FitConfig, "", list(argv[3:]), positional="points")
    except InputError as error:
        raise InputError(f"fit: {error}") from None


def _check(config: StudyConfig) -> None:
    check_name("name", config.name)
    if config.parallel != "auto" and config.parallel < 1:
        raise InputError(f"parallel: expected at least 1 or auto, found {config.parallel}")
    if config.threads is not None and config.threads < 1:
        raise InputError(f"threads: expected at least 1 or null, found {config.threads}")
    if not 0 < config.noise < 1:
        raise InputError(f"noise: expected a share of the loss in (0, 1), found {config.noise}")
    for part, names in STUDY_SETS.items():
        for key in flatten(getattr(config, part)):
            if key in names:
                raise InputError(f"{part}.{key}: the study sets it; leave it out")
    _check_rule(config, "holdout", config.holdout)
    _check_rule(config, "fit.where", config.fit.get("where"))
    if isinstance(columns := config.fit.get("columns"), str):
        _check_columns(config, "fit.columns", parse_columns(columns).values())
    if HEADLINE_SUITE not in config.suites:
        raise InputError(
            f"suites: {HEADLINE_SUITE} is missing; the law is fitted to its loss, so add it"
        )
    lists = {"runs": config.runs, "suites": config.suites}
    for position, grid in enumerate(config.runs):
        if grid.variant:
            check_name(f"runs[{position}].variant", grid.variant)
        lists |= {
            f"runs[{position}].{key}": value
            for key, value in vars(grid).items()
            if isinstance(value, list) and (key in NEEDED or value)
        }
    for where, values in lists.items():
        if not values:
            raise InputError(f"{where}: the list is empty; name at least one")
        doubled = [value for value in values if values.count(value) > 1]
        if doubled and where != "runs":
            raise InputError(f"{where}: {doubled[0]} is listed twice; list each once")


def _find(name: str, field_name: str, root: Path, wanted: str) -> Path:
    """Return a settings file named from the working directory or from the repository."""
    for path in (root / name, REPOSITORY / name):
        if path.is_file():
            return path
    known = [str(path.relative_to(REPOSITORY)) for path in CONFIGS.glob("*/*.yaml")]
    raise InputError(f"{field_name}: no file {name}{nearest(name, known)}; give {wanted}")


def _evaluate_settings(config: StudyConfig, root: Path) -> dict[str, Any]:
    """Return the overrides of launch/evaluate.py, its file of settings first."""
    settings = flatten(config.evaluate)
    if "config" not in settings:
        return settings
    wanted = "the YAML of launch/evaluate.py, as configs/eval/quick.yaml"
    path = _find(str(settings.pop("config")), "evaluate.config", root, wanted)
    return {"config": str(relative_path(path, root))} | settings


def _read_data(config: StudyConfig, root: Path) -> dict[str, Any]:
    """Return the file and the settings of the data, and the folder that launch/prepare.py makes."""
    path = _find(config.data, "data", root, DATA)
    settings = read_yaml(path)
    if not isinstance(settings, dict) or not isinstance(settings.get("name"), str):
        raise InputError(f"data: {config.data} has no name; give {DATA}")
    folder = settings.get("out") or f"data/{settings['name']}"
    return {"file": str(relative_path(path, root)), "folder": folder, "settings": settings}
