"""The training runs of a study: full schedules, or constant-rate trunks with cooldown branches."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from llama_scale.cli import parse
from llama_scale.config import ModelConfig, TrainConfig, flatten
from llama_scale.cost.accounting import count_parameters, flops_per_token
from llama_scale.errors import InputError
from llama_scale.scaling.study.grids import Grid, wanted
from llama_scale.scaling.study.settings import PlannedRun, StudyConfig
from llama_scale.scaling.study.tasks import device_flags, flags
from llama_scale.text import count_in_name
from llama_scale.training.recipe import Recipe, resolve, round_batch

STUDY_SETS = ("size", "tokens", "seed", "data", "run", "group", "device", "threads", "config")
STUDY_SETS += ("branch_from", "keep_steps")


def plan_runs(config: StudyConfig, data_folder: str) -> list[PlannedRun]:
    """Return every run of the study, in the order of the file.

    Raises InputError if a size does not exist, an override is unknown or set by the study itself,
    or a run is asked for twice.
    """
    overrides = flatten(config.train)
    for key in overrides:
        if key in STUDY_SETS:
            raise InputError(f"train.{key}: the study sets it for each run; leave it out")
    runs, total = _plan_grids(config, data_folder, 1.0), config.budget.total
    if total is None:
        return runs
    return _plan_grids(config, data_folder, total / sum(run.spent for run in runs))


def _plan_grids(config: StudyConfig, data_folder: str, factor: float) -> list[PlannedRun]:
    found: dict[str, PlannedRun] = {}
    for position, grid in enumerate(config.runs):
        plan = partial(_plan_run, config, data_folder, grid.variant)
        try:
            shapes = {size: _shape(config, size) for size in grid.sizes}
            asked = wanted(grid, shapes, factor)
            if grid.cooldown is not None and "optim.schedule" in flatten(config.train):
                raise InputError("cooldown: sets train.optim.schedule itself; leave that out")
            if grid.is_sweep:
                runs = [run for one in asked for run in _sweep(plan, grid, *one)]
            elif grid.cooldown is None:
                runs = [plan(size, count_in_name(D), D, seed) for size, D, seed in asked]
            else:
                runs = _grow(plan, asked, grid.cooldown)
            for run in runs:
                if run.name in found:
                    raise InputError(f"{run.name} is asked for twice; list it once")
                found[run.name] = run
        except InputError as error:
            raise InputError(f"runs[{position}]: {error}") from None
    if not found:
        raise InputError("runs: no size can spend its budget; see isoflop in --help")
    return list(found.values())


def _sweep(
    plan: Callable[..., PlannedRun], grid: Grid, size: str, tokens: float, seed: int
) -> list[PlannedRun]:
    """Return a run for each multiple of the law's batch and rate, all of equally many tokens."""
    sketch = plan(size, count_in_name(tokens), tokens, seed)
    context = sketch.recipe.batch_tokens // sketch.recipe.batch
    batches = {x: context * round_batch(x * sketch.recipe.batch) for x in grid.batch_factors}
    together = math.lcm(*batches.values())
    equal = together * max(1, round(tokens / together))
    return [
        plan(
            *(size, f"{count_in_name(tokens)}-batch{batch:g}x-lr{rate:g}x", equal, seed),
            *("--optim.batch_tokens", str(batches[batch])),
            *("--optim.lr", f"{rate * sketch.recipe.lr:.6g}"),
        )
        for batch in grid.batch_factors
        for rate in grid.lr_factors
    ]


def _grow(
    plan: Callable[..., PlannedRun], asked: list[tuple[str, float, int]], cooldown: float
) -> list[PlannedRun]:
    """Return a constant-rate trunk for each size and seed, and a branch of it for each budget.

    A branch of D tokens leaves its trunk at (1 - cooldown) D. Batch and rate are the trunk's.
    """
    if not 0 < cooldown < 1:
        raise InputError(f"cooldown: expected a share between 0 and 1, found {cooldown}")
    runs = []
    for size, seed in dict.fromkeys((size, seed) for size, _, seed in asked):
        budgets = sorted(D for s, D, r in asked if (s, r) == (size, seed))
        sketch = plan(size, "trunk", (1 - cooldown) * budgets[-1], seed)
        batch = sketch.recipe.batch_tokens
        ends = [round(D / batch) for D in budgets]
        leaves = [round((1 - cooldown) * end) for end in ends]
        for D, leave, end in zip(budgets, leaves, ends, strict=True):
            if not sketch.recipe.warmup_steps <= leave < end or not leave:
                raise InputError(
                    f"cooldown: {size} at {count_in_name(D)} tokens has {end} steps, too few for "
                    f"the warmup and a cooldown of {cooldown:g}; ask for more tokens"
                )
        trunk = plan(
            *(size, "trunk", leaves[-1] * batch, seed, "--optim.schedule", "constant"),
            *("--optim.batch_tokens", str(batch), "--keep_steps", json.dumps(leaves)),
        )
        runs.append(replace(trunk, is_trunk=True))
        runs += [
            _branch(plan, trunk, size, seed, *budget)
            for budget in zip(budgets, leaves, ends, strict=True)
        ]
    return runs


def _branch(
    plan: Callable[..., PlannedRun],
    trunk: PlannedRun,
    size: str,
    seed: int,
    tokens: float,
    leave: int,
    end: int,
) -> PlannedRun:
    """Return the run that leaves ``trunk`` after step ``leave`` and cools down to ``end``."""
    parent = f"{trunk.config.run}/checkpoints/step-{leave:08d}"
    recipe = replace(
        trunk.recipe,
        steps=end,
        tokens=end * trunk.recipe.batch_tokens,
        first_step=leave,
        parent=parent,
    )
    flags = ("--optim.schedule", "cooldown", "--branch_from", parent)
    run = plan(size, count_in_name(tokens), recipe.tokens, seed, *flags, recipe=recipe)
    return replace(run, trunk=trunk.name)


def _plan_run(
    config: StudyConfig,
    data_folder: str,
    variant: str,
    size: str,
    what: str,
    tokens: float,
    seed: int,
    *more: str,
    recipe: Recipe | None = None,
) -> PlannedRun:
    """Return a run called ``what``; its recipe is what the flags give, unless it is known."""
    name = "-".join(filter(None, [variant, f"{size}-{what}-seed{seed}"]))
    argv = (
        *("--size", size, "--tokens", f"{tokens:.12g}", "--seed", str(seed)),
        *("--data", data_folder, "--run", f"runs/{config.name}/{name}", "--group", config.name),
        *device_flags(config),
        *flags(config.train),
        *more,
    )
    train = parse(TrainConfig, "Pretrain one model.", list(argv))
    recipe = recipe or resolve(train)
    each = flops_per_token(train.model)
    return PlannedRun(
        name=name,
        argv=argv,
        config=train,
        recipe=recipe,
        n=count_parameters(train.model).non_embedding,
        flops=recipe.tokens * each,
        spent=(recipe.tokens - recipe.first_step * recipe.batch_tokens) * each,
    )


def _shape(config: StudyConfig, size: str) -> ModelConfig:
    """Return the model of a size as the study trains it."""
    argv = ["--size", size, *flags(config.train)]
    return parse(TrainConfig, "Pretrain one model.", argv).model
