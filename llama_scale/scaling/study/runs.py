"""The training runs of a study: full schedules, or constant-rate trunks with cooldown branches."""

import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from llama_scale.cli import build
from llama_scale.config import ModelConfig, TrainConfig, flatten, nest, read_yaml, size_path, with_new_names
from llama_scale.cost.accounting import count_parameters, flops_per_token
from llama_scale.errors import InputError, prefix_errors
from llama_scale.scaling.study.grids import Grid, GridRun, grid_runs
from llama_scale.scaling.study.settings import PlannedRun, StudyConfig
from llama_scale.text import count_in_name
from llama_scale.training.recipe import Recipe, resolve, round_batch

SET_BY_STUDY = (
    "size", "tokens", "seed", "data_seed", "data", "run", "group", "device", "threads", "config", "branch_from",
    "keep_steps",
)  # fmt: skip


def plan_runs(config: StudyConfig, data_folder: str) -> list[PlannedRun]:
    """Return every run of the study, in the order of the file.

    Raises InputError if a size does not exist, an override is unknown or set by the study itself, or a run is asked for
    twice.
    """
    for where, train in [("", config.train), *((f"runs[{i}].", grid.train) for i, grid in enumerate(config.runs))]:
        for key in flatten(train):
            if key in SET_BY_STUDY:
                raise InputError(f"{where}train.{key}: the study sets it for each run; leave it out")
    runs, total = _plan_grids(config, data_folder, 1.0), config.budget.total
    if total is None:
        return runs
    return _plan_grids(config, data_folder, total / sum(run.spent for run in runs))


def _plan_grids(config: StudyConfig, data_folder: str, factor: float) -> list[PlannedRun]:
    """Return the runs of all grids, their tokens times ``factor``."""
    planned: dict[str, PlannedRun] = {}
    for position, grid in enumerate(config.runs):
        with prefix_errors(f"runs[{position}]"):
            train = flatten(nest(config.train)) | flatten(nest(grid.train))
            train |= {"threads": grid.threads} if grid.threads else {}
            for run in _plan_grid(RunPlanner(config, data_folder, grid.variant, train), grid, factor):
                if run.name in planned:
                    raise InputError(f"{run.name} is asked for twice; list it once")
                planned[run.name] = run
    if not planned:
        raise InputError("runs: no size can spend its budget; see isoflop in --help")
    return _continue_trunks(list(planned.values()))


def _plan_grid(planner: "RunPlanner", grid: Grid, factor: float) -> list[PlannedRun]:
    shapes = {size: planner.shape(size) for size in grid.sizes}
    requested = [r._replace(seed=r.seed + planner.study.seed) for r in grid_runs(grid, shapes, factor)]
    if grid.cooldown is not None:
        if "optim.schedule" in planner.train:
            raise InputError("cooldown: sets train.optim.schedule itself; leave that out")
        return _trunks_and_branches(planner, requested, grid.cooldown)
    if grid.is_sweep:
        return [run for request in requested for run in _sweep(planner, grid, *request)]
    return [planner.plan(r.size, count_in_name(r.tokens), r.tokens, r.seed) for r in requested]


@dataclass(frozen=True)
class RunPlanner:
    """Makes the runs of one grid of a study: names them and fills their TrainConfig.

    ``train`` are the dotted overrides of the study and of the grid.
    """

    study: StudyConfig
    data_folder: str
    variant: str
    train: dict[str, Any]

    def shape(self, size: str) -> ModelConfig:
        """Return the model of a size as the study trains it."""
        return build(TrainConfig, nest(self.train) | {"model": self._model_fields(size)}).model

    def plan(
        self,
        size: str,
        tokens_label: str,
        tokens: float,
        seed: int,
        overrides: dict[str, Any] | None = None,
        recipe: Recipe | None = None,
    ) -> PlannedRun:
        """Return a run called <variant>-<size>-<tokens_label>-seed<seed>.

        ``overrides`` go over the study's own. The recipe is what the settings give, unless it is known, as a branch's
        is from its trunk.
        """
        name = "-".join(filter(None, [self.variant, f"{size}-{tokens_label}-seed{seed}"]))
        settings = {
            "size": size,
            "model": self._model_fields(size),
            "tokens": float(f"{tokens:.12g}"),
            "seed": seed,
            **({} if self.study.data_seed is None else {"data_seed": self.study.data_seed + self.study.seed}),
            "data": self.data_folder,
            "run": f"runs/{self.study.name}/{name}",
            "group": self.study.name,
            **device_settings(self.study),
        }
        settings = nest(flatten(settings) | self.train | (overrides or {}))
        config = build(TrainConfig, settings)
        recipe = recipe or resolve(config)
        flops_each = flops_per_token(config.model)
        return PlannedRun(
            name=name,
            settings=settings,
            config=config,
            recipe=recipe,
            n_params_non_embedding=count_parameters(config.model).non_embedding,
            flops=recipe.tokens * flops_each,
            spent=(recipe.tokens - recipe.first_step * recipe.batch_tokens) * flops_each,
        )

    def _model_fields(self, size: str) -> dict[str, Any]:
        """Return the shape of a size with the study's overrides of it."""
        overrides = nest(self.train).get("model", {})
        if not isinstance(overrides, dict):
            raise InputError(f"train.model: expected fields, found {overrides!r:.80}")
        return read_yaml(size_path(size)) | with_new_names(overrides, ModelConfig)


def device_settings(config: StudyConfig) -> dict[str, Any]:
    """Return the settings of where the study's runs are trained and scored."""
    threads = {"threads": config.threads} if config.threads else {}
    return {"device": config.device, **threads}


def _sweep(planner: RunPlanner, grid: Grid, size: str, tokens: float, seed: int) -> list[PlannedRun]:
    """Return a run for each multiple of the law's batch and rate, all of equally many tokens.

    Batches of 512 and 768 tokens, for example, both divide multiples of 1,536: the tokens are rounded to one of those.
    """
    by_law = planner.plan(size, count_in_name(tokens), tokens, seed).recipe
    context = by_law.batch_tokens // by_law.batch
    batches = {x: context * round_batch(x * by_law.batch) for x in grid.batch_factors}
    common = math.lcm(*batches.values())
    equal_tokens = common * max(1, round(tokens / common))
    return [
        planner.plan(
            size,
            f"{count_in_name(tokens)}-batch{batch:g}x-lr{rate:g}x",
            equal_tokens,
            seed,
            {"optim.batch_tokens": batches[batch], "optim.lr": float(f"{rate * by_law.lr:.6g}")},
        )
        for batch in grid.batch_factors
        for rate in grid.lr_factors
    ]


def _trunks_and_branches(planner: RunPlanner, requested: list[GridRun], cooldown: float) -> list[PlannedRun]:
    """Return a constant-rate trunk for each size and seed, and a branch of it for each budget.

    A branch of D tokens leaves its trunk at (1 - cooldown) D. Batch and rate are the trunk's, which are those of a run
    as long as the trunk.
    """
    if not 0 < cooldown < 1:
        raise InputError(f"cooldown: expected a share between 0 and 1, found {cooldown}")
    runs = []
    for size, seed in dict.fromkeys((r.size, r.seed) for r in requested):
        budgets = sorted(r.tokens for r in requested if (r.size, r.seed) == (size, seed))
        by_law = planner.plan(size, "trunk", (1 - cooldown) * budgets[-1], seed).recipe
        batch = by_law.batch_tokens
        last_steps = [round(D / batch) for D in budgets]
        branches = [(count_in_name(D), round((1 - cooldown) * n), n) for D, n in zip(budgets, last_steps, strict=True)]
        for label, branch_step, last_step in branches:
            if not by_law.warmup_steps <= branch_step < last_step or not branch_step:
                raise InputError(
                    f"cooldown: {size} at {label} tokens has {last_step} steps, too few for the warmup and a cooldown "
                    f"of {cooldown:g}; ask for more tokens"
                )
        keep = [branch_step for _, branch_step, _ in branches]
        constant = {"optim.schedule": "constant", "optim.batch_tokens": batch, "keep_steps": keep}
        trunk = replace(planner.plan(size, "trunk", keep[-1] * batch, seed, constant), is_trunk=True)
        runs += [trunk, *(_branch(planner, trunk, *branch) for branch in branches)]
    return runs


def _branch(planner: RunPlanner, trunk: PlannedRun, tokens_label: str, branch_step: int, last_step: int) -> PlannedRun:
    """Return the run that leaves ``trunk`` at ``branch_step`` and cools down to ``last_step``."""
    parent = f"{trunk.config.run}/checkpoints/step-{branch_step:08d}"
    tokens = last_step * trunk.recipe.batch_tokens
    recipe = replace(trunk.recipe, steps=last_step, tokens=tokens, first_step=branch_step, parent=parent)
    cooldown = {"optim.schedule": "cooldown", "branch_from": parent}
    run = planner.plan(trunk.config.size, tokens_label, tokens, trunk.config.seed, cooldown, recipe)
    return replace(run, trunk=trunk.name)


def _continue_trunks(runs: list[PlannedRun]) -> list[PlannedRun]:
    """Let each trunk continue the longest earlier one that is the same run so far: those steps are trained once.

    A grid whose runs are forecast before they are trained has trunks of its own, which would begin with the same steps.
    """
    result: list[PlannedRun] = []
    for run in runs:
        earlier = [trunk for trunk in result if run.is_trunk and _continues(run, trunk)]
        if earlier:
            trunk = max(earlier, key=lambda trunk: trunk.recipe.steps)
            parent = f"{trunk.config.run}/checkpoints/step-{trunk.recipe.steps:08d}"
            run = replace(
                run,
                settings=run.settings | {"branch_from": parent},
                config=replace(run.config, branch_from=parent),
                recipe=replace(run.recipe, first_step=trunk.recipe.steps, parent=parent),
                spent=run.flops - trunk.flops,
                trunk=trunk.name,
            )
        result.append(run)
    return result


def _continues(run: PlannedRun, trunk: PlannedRun) -> bool:
    """Whether a trunk's steps are the first of ``run``'s, and all that branch from ``run`` leave it later."""
    if not trunk.is_trunk or not run.config.keep_steps or min(run.config.keep_steps) <= trunk.recipe.steps:
        return False
    may_differ = {"run", "tokens", "keep_steps", "branch_from", "threads"}
    ours, theirs = ({k: v for k, v in flatten(asdict(r.config)).items() if k not in may_differ} for r in (run, trunk))
    optim = ("lr", "batch_tokens", "warmup_steps", "init_std")
    return ours == theirs and all(getattr(run.recipe, name) == getattr(trunk.recipe, name) for name in optim)


def trained_as_planned(run: PlannedRun, config_file: Path) -> bool:
    """Whether ``config_file``, the config.yaml of a run folder, is what ``run`` would be trained by.

    What the plan leaves to the machine (auto), and where it is trained, may be anything.
    """
    try:
        resolved = read_yaml(config_file)
        past = flatten(asdict(build(TrainConfig, resolved if isinstance(resolved, dict) else {})))
    except InputError:
        return False
    recipe = run.recipe
    optim = {f"optim.{name}": getattr(recipe, name) for name in ("lr", "batch_tokens", "warmup_steps")}
    planned = flatten(asdict(run.config)) | {"tokens": recipe.tokens} | optim
    anywhere = {"device", "threads", "run"}
    return all(value == "auto" or past[name] == value for name, value in planned.items() if name not in anywhere)
