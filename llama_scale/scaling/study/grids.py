"""Which runs a study asks for: token budgets, tokens for each parameter, or equal compute."""

from dataclasses import dataclass, field
from itertools import product
from typing import Any, NamedTuple

from llama_scale.config import ModelConfig
from llama_scale.cost.accounting import count_parameters, flops_per_token
from llama_scale.cost.hardware import DEFAULT_MFU
from llama_scale.errors import InputError
from llama_scale.scaling.forecasting.recommend import budget

LEAST_TOKENS = 1
# Tokens for each parameter that an equal-compute run may have, from and to.
TOKENS_PER_PARAMETER = 0.5, 5_000


@dataclass(frozen=True)
class Grid:
    """Runs of every size at every token budget with every seed.

    Give one of tokens, tokens_per_parameter and isoflop.

    Args:
        sizes: Names of rungs, configs/size/NAME.yaml.
        tokens: Token budgets, each with its own full schedule.
        tokens_per_parameter: Tokens for each non-embedding parameter (a Chinchilla grid).
        isoflop: Compute budgets in exact training FLOPs: each size takes the tokens that spend it. A size whose run
            would have fewer than .5 or more than 5,000 tokens for each parameter is left out.
        seeds: Seeds of the initial weights and, unless the study has a data_seed, of the data order.
        cooldown: Share of a run in which its rate falls. Given, each size and seed trains one run at a constant rate,
            and every token budget is a branch of it, whose rate falls linearly (.1 to .2 is usual); null is a full
            schedule of its own for each run.
        lr_factors: Multiples of the law's peak learning rate, a run for each.
        batch_factors: Multiples of the law's batch, a run for each; the tokens are rounded so that every batch sees
            equally many.
        variant: Prefix of the runs' names, to tell a grid apart.
        train: Overrides of launch/train.py for these runs, over the study's own.
        threads: CPU threads of each of these runs; null is the study's own. Twice those take the places of two runs.
    """

    sizes: list[str]
    tokens: list[float] = field(default_factory=list)
    tokens_per_parameter: list[float] = field(default_factory=list)
    isoflop: list[float] = field(default_factory=list)
    seeds: list[int] = field(default_factory=lambda: [0])
    cooldown: float | None = None
    lr_factors: list[float] = field(default_factory=lambda: [1.0])
    batch_factors: list[float] = field(default_factory=lambda: [1.0])
    variant: str = ""
    train: dict[str, Any] = field(default_factory=dict)
    threads: int | None = None

    def __post_init__(self) -> None:
        for name in ("lr_factors", "batch_factors"):
            values = getattr(self, name)
            if not values or not all(0 < value < float("inf") for value in values):
                raise InputError(f"{name}: expected positive multiples, found {values}")
            if self.cooldown is not None and values != [1.0]:
                raise InputError(f"{name}: branches take both from their trunk; leave cooldown out")

    @property
    def is_sweep(self) -> bool:
        """Whether rates or batches are tried beside the law's."""
        return self.lr_factors != [1.0] or self.batch_factors != [1.0]


@dataclass(frozen=True)
class Budget:
    """What all runs of a study may cost: FLOPs, or hours of GPUs.

    The tokens of every grid are scaled by one factor so that the runs cost it together.

    Args:
        flops: Exact training FLOPs.
        gpu_hours: GPU-hours, instead of FLOPs.
        gpu: The GPU, as h200; the hours of the dry run are those of one of them.
        mfu: Share of the GPU's dense bf16 peak that training reaches; null is .4 for a budget of hours, and else what
            a step's parts take where they were measured.
    """

    flops: float | None = None
    gpu_hours: float | None = None
    gpu: str = "h200"
    mfu: float | None = None

    @property
    def share_of_peak(self) -> float:
        """The share of the peak that hours and FLOPs are converted with."""
        return DEFAULT_MFU if self.mfu is None else self.mfu

    @property
    def by_parts(self) -> bool:
        """Whether hours are those of each run's steps by their parts, not its FLOPs at a share of the peak."""
        return self.mfu is None and self.gpu_hours is None

    @property
    def total(self) -> float | None:
        """The budget in FLOPs; None where the grids alone say what is run."""
        if self.flops is None and self.gpu_hours is None:
            return None
        return budget(self.flops, self.gpu_hours, self.gpu, self.share_of_peak)


class GridRun(NamedTuple):
    """A run that a grid asks for: the name of its size, its tokens and its seed."""

    size: str
    tokens: float
    seed: int


def grid_runs(grid: Grid, shapes: dict[str, ModelConfig], factor: float = 1.0) -> list[GridRun]:
    """Return the runs of a grid, their tokens times ``factor``.

    Tokens that are computed are rounded to four digits, which keeps names short. ``shapes`` are the models by size, as
    trained. Raises InputError unless exactly one kind of budget is given and it is positive.
    """
    kinds = ("tokens", "tokens_per_parameter", "isoflop")
    given = [kind for kind in kinds if getattr(grid, kind)]
    if len(given) != 1:
        raise InputError(f"expected one of {', '.join(kinds)}, found {' and '.join(given) or 'none'}")
    kind, values = given[0], getattr(grid, given[0])
    for value in values:
        tokens = value * 1e9 if kind == "tokens_per_parameter" else value
        if not LEAST_TOKENS <= tokens < float("inf"):
            raise InputError(f"{kind}: expected at least {LEAST_TOKENS}, found {value}")
    runs = []
    for size in grid.sizes:
        n_params, flops_each = count_parameters(shapes[size]).non_embedding, flops_per_token(shapes[size])
        for value, seed in product(values, grid.seeds):
            tokens = {"tokens": value, "tokens_per_parameter": value * n_params, "isoflop": value / flops_each}[kind]
            if kind == "isoflop" and not TOKENS_PER_PARAMETER[0] <= tokens / n_params <= TOKENS_PER_PARAMETER[1]:
                continue
            if kind != "tokens" or factor != 1:
                tokens = float(f"{tokens * factor:.4g}")
            runs.append(GridRun(size, tokens, seed))
    return runs
