"""A fine-tuning study as data: base, pairs, arms and the commands that make, score and compare them."""

import sys
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import Any

from llama_scale.cli import build, parse
from llama_scale.config import FinetuneConfig, TrainConfig, find_config, flatten, nest, read_yaml
from llama_scale.errors import InputError, prefix_errors
from llama_scale.files import check_name
from llama_scale.scaling.study.finetune.settings import BASE, FEW_SHOT, Arm, ArmGrid, ArmRun, TuningStudyConfig
from llama_scale.scaling.study.finetune.tasks import plan_tasks
from llama_scale.scaling.study.plan import DATA_HINT, SCRIPTS, Study
from llama_scale.scaling.study.runs import device_settings
from llama_scale.text import relative_path

SET_BY_STUDY = (
    "base", "train", "validation", "run", "method", "lora.rank", "examples", "draw", "seed", "epochs", "steps",
    "retain", "group", "device", "threads", "config", "optim.lr",
)  # fmt: skip
# Settings of study.yaml by which the runs of a study were trained.
IDENTITY = ("base", "pairs", "longest", "pool", "test", "train")
FLAWS = "flaws"


def is_tuning_study(argv: list[str], root: Path) -> bool:
    """Whether the first argument names a study of this kind; what cannot be read is left to others to refuse.

    Raises InputError where the file says another kind.
    """
    if not argv or argv[0].startswith("-"):
        return False
    try:
        settings = read_yaml(find_study(argv[0], root))
    except InputError:
        return False
    kind = settings.get("kind") if isinstance(settings, dict) else None
    if kind not in (None, "finetune"):
        raise InputError(f"{argv[0]}: kind: {kind!r:.60} is none; set finetune, or leave it out for a study of scaling")
    return kind == "finetune"


def find_study(name: str, root: Path) -> Path:
    """Return the file of a study; a bare name is looked for in configs/study, then in configs/finetune."""
    try:
        return find_config(name, "study", root)
    except InputError:
        return find_config(name, "finetune", root)


def read_study(root: Path, argv: list[str] | None = None, *, scripts: Path = SCRIPTS) -> Study:
    """Read the study file that the command line names and plan it; raise InputError on the first thing wrong in it."""
    argv = list(sys.argv[1:] if argv is None else argv)
    source = argv[0]
    path = str(relative_path(find_study(source, root)))
    config = parse(
        TuningStudyConfig, "Run a fine-tuning study.", [path, *argv[1:]], "config", "finetune", "quick --dry-run"
    )
    with prefix_errors(source):
        if config.profile == "seed":
            config = as_published(config)
        check_name("name", config.name)
        data = base_data(config, root)
        arms = plan_arms(config, data["folder"])
        tasks = plan_tasks(config, data, arms, str(relative_path(scripts, root)))
    settings = asdict(config) | {
        "train": flatten(config.train),
        "arms": [asdict(arm) for arm in arms],
        "runs": [run.name for run in arm_runs(arms)],
        "flaws": config.published.get(FLAWS, []) if config.profile == "seed" else [],
    }
    runs: list[Any] = arm_runs(arms)
    return Study(config, source, root, scripts, runs, tasks, settings, identity=IDENTITY)


def as_published(config: TuningStudyConfig) -> TuningStudyConfig:
    """Return the study as it was published: what ``published`` says goes over the rest, under a name of its own."""
    settings = flatten({k: v for k, v in asdict(config).items() if k not in ("published", "arms", "pairs")})
    over = {k: v for k, v in config.published.items() if k != FLAWS}
    arms = over.pop("arms", None) or [asdict(grid) for grid in config.arms]
    pairs = over.pop("pairs", None) or config.pairs
    merged = nest(settings | {"shots": 0} | flatten(over)) | {"pairs": pairs, "arms": arms}
    with prefix_errors("published"):
        built = build(TuningStudyConfig, merged | {"profile": "default", "name": f"{config.name}-seed"})
    return replace(built, profile="seed", published=config.published)


def base_data(config: TuningStudyConfig, root: Path) -> dict[str, Any]:
    """Return the file of the data of a base that the study trains and its folder; of another what it is measured on."""
    if config.base.model is not None:
        return {"file": None, "folder": config.base.retain}
    if not config.base.train:
        raise InputError("base: neither a model nor the settings to train one; set base.model or base.train")
    with prefix_errors("base.data"):
        path = find_config(config.base.data, "data", root, DATA_HINT)
    settings = read_yaml(path)
    if not isinstance(settings, dict) or not isinstance(settings.get("name"), str):
        raise InputError(f"base.data: {config.base.data} has no name; give {DATA_HINT}")
    folder = settings.get("out") or f"data/{settings['name']}"
    train = {"data": folder, "run": base_folder(config), "device": config.device, **config.base.train}
    with prefix_errors("base.train"):
        build(TrainConfig, train)
    return {"file": str(relative_path(path, root)), "folder": folder, "train": train}


def base_folder(config: TuningStudyConfig) -> str:
    """Return the base: what the study was given, or the run that it trains."""
    return config.base.model or f"runs/{config.name}-base"


def plan_arms(config: TuningStudyConfig, retain: str | None) -> list[Arm]:
    """Return the base in each language, as it is and shown pairs, and the arms of all grids.

    Raises InputError where one makes no sense.
    """
    if not config.arms:
        raise InputError("arms: the list is empty; name at least one")
    for language, source in config.pairs.items():
        if not isinstance(source, str | dict):
            raise InputError(
                f"pairs.{language}: expected a folder or settings of launch/prepare.py pairs, found {source!r}"
            )
    languages = list(dict.fromkeys(language for grid in config.arms for language in grid.languages))
    for language in languages:
        if language not in config.pairs:
            known = ", ".join(config.pairs)
            raise InputError(f"arms: there are no pairs in {language}; add them to pairs, which has {known}")
    for where, train in [("train", config.train), *((f"{g.name}.train", g.train) for g in config.arms)]:
        for key in flatten(train):
            if key in SET_BY_STUDY:
                raise InputError(f"{where}.{key}: the study sets it for each arm; leave it out")
    base = {"base": base_folder(config), "group": config.name, **({"retain": retain} if retain else {})}
    base |= device_settings(config)  # type: ignore[arg-type]
    arms = [
        Arm(
            BASE if len(languages) == 1 else f"{BASE}-{language}", BASE, BASE, None, 1, language, None, None, False,
            [0], nest(base | flatten(nest(config.train)) | {"method": BASE, "examples": 1}),
        )
        for language in languages
    ]  # fmt: skip
    if config.shots:
        draws = max((grid.draws for grid in config.arms), key=len)
        arms += [
            replace(arm, name=arm.name.replace(BASE, f"{config.shots}-shot", 1), grid=FEW_SHOT, method=FEW_SHOT,
                    examples=config.shots, draws=list(draws))
            for arm in arms
        ]  # fmt: skip
    for position, grid in enumerate(config.arms):
        with prefix_errors(f"arms[{position}]"):
            arms += grid_arms(config, grid, base)
    names = [arm.name for arm in arms]
    if doubled := [name for name in names if names.count(name) > 1]:
        raise InputError(f"arms: {doubled[0]} is asked for twice; list it once")
    return arms


def grid_arms(config: TuningStudyConfig, grid: ArmGrid, base: dict[str, Any]) -> list[Arm]:
    """Return the arms of a grid; raise InputError on an empty or doubled list and on settings that do not fit."""
    check_name("name", grid.name)
    ranks = grid.ranks if grid.method == "lora" else [None]
    for name, values in {"ranks": ranks, "examples": grid.examples, "languages": grid.languages,
                         "draws": grid.draws}.items():  # fmt: skip
        if not values:
            raise InputError(f"{name}: the list is empty; name at least one")
        if doubled := [value for value in values if values.count(value) > 1]:
            raise InputError(f"{name}: {doubled[0]} is listed twice; list each once")
    arms = []
    for language, rank, examples in product(grid.languages, ranks, grid.examples):
        parts = [grid.name, f"r{rank}" if rank else "", f"n{examples}" if examples else ""]
        name = "-".join([*filter(None, parts), *([language] if len(grid.languages) > 1 else [])])
        own: dict[str, Any] = {"method": grid.method, "examples": examples, "epochs": grid.epochs}
        own |= {"steps": grid.steps} if grid.steps else {}
        own |= {} if rank is None else {"lora.rank": rank}
        own |= {} if grid.rate == "tuned" else {"optim.lr": grid.rate}
        settings = nest(base | flatten(nest(config.train)) | flatten(nest(grid.train)) | own)
        build(FinetuneConfig, settings | {"train": "pool"})
        arms.append(
            Arm(
                name=name,
                grid=grid.name,
                method=grid.method,
                rank=rank,
                examples=examples,
                language=language,
                epochs=None if grid.steps else grid.epochs,
                steps=grid.steps,
                tuned=grid.rate == "tuned",
                draws=list(grid.draws),
                settings=settings,
            )
        )
    return arms


def arm_runs(arms: list[Arm]) -> list[ArmRun]:
    """Return the runs of arms."""
    return [ArmRun(arm.run_name(draw), arm, draw) for arm in arms for draw in arm.draws]
