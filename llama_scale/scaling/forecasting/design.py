"""What a set of runs would tell: the width of the forecast it buys, and the set that buys most.

Studies are simulated: losses of a law assumed before a study has one of its own (that of Besiroglu et al.), with a
stated noise, fitted as measured ones are.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import ArrayLike

from llama_scale.bootstrap import percentile_interval
from llama_scale.scaling.fitting.chinchilla import BESIROGLU, Flops, Surface
from llama_scale.scaling.fitting.fit import DELTA
from llama_scale.scaling.fitting.fitted_laws import FittedLaws
from llama_scale.scaling.fitting.solver import Problems, minimize_huber
from llama_scale.scaling.fitting.stated_law import form_of

NOISE = 0.002
BEYOND = 10  # times the compute C
STUDIES = 300
# Grids are ranked by few studies, the best of them again by many.
QUICK_STUDIES, FINALISTS = 40, 6
MOST_RUNS = 36
RATIOS = ((10, 20, 40), (5, 20, 80), (2.5, 20, 160), (5, 14, 40, 110), (1, 5, 25, 125))
USUAL_RATIO = 2.0, 2_000


@dataclass(frozen=True)
class Rung:
    """A size that runs can have: its name, parameters N and training FLOPs of a token."""

    name: str
    N: float
    flops_per_token: float


@dataclass(frozen=True)
class Design:
    """A set of runs (n,) and half the width of its forecast, in percent of the loss."""

    rungs: list[Rung]
    D: np.ndarray
    width: float

    @property
    def flops(self) -> float:
        """Training FLOPs of all runs."""
        return float(sum(r.flops_per_token * d for r, d in zip(self.rungs, self.D, strict=True)))


def forecast_width(
    N: ArrayLike,
    D: ArrayLike,
    target: tuple[float, float],
    noise: float = NOISE,
    studies: int = STUDIES,
    law: Surface = BESIROGLU,
) -> float:
    """Return half the 95 % range of the loss forecast at ``target`` (N, D), in percent; infinite where no law fits.

    ``law`` is assumed to be the truth, of runs at N, D (n,), and is fitted in its own form.
    """
    N, D = np.asarray(N, dtype=float), np.asarray(D, dtype=float)
    form = form_of(law)
    if len(N) <= len(form.parameters) or min(len(np.unique(N)), len(np.unique(D))) < 3:
        return math.inf
    model, truth = form.model(N, D), law.loss(N, D)
    scatter = np.random.default_rng(0).standard_normal((studies, len(N)))  # (S, n)
    targets = np.log(truth) + noise * scatter
    problems = Problems(targets, np.ones_like(targets), *model.bounds(truth), DELTA)
    theta = np.tile(model.theta_of(law), (studies, 1))
    laws = model.law_of(minimize_huber(model, theta, problems)[0])
    low, high = percentile_interval(laws.loss(*target))
    return float(100 * (high - low) / 2 / law.loss(*target))


def measured_noise(laws: FittedLaws) -> float | None:
    """Return the relative scatter between the seeds of a study that was fitted, which a design is to reckon with."""
    return laws.noise.percent / 100 if laws.noise else None


def target_beyond(C: float, law: Surface = BESIROGLU) -> tuple[float, float]:
    """Return N and D of the compute-optimal model at ten times the compute C, by 6ND."""
    N, D = law.optimum(np.array([BEYOND * C]), Flops("6ND"))
    return float(N[0]), float(D[0])


def best_design(
    rungs: list[Rung], flops: float, target: tuple[float, float], noise: float = NOISE, law: Surface = BESIROGLU
) -> Design | None:
    """Return the grid of least forecast width among those that cost ``flops``; None without one.

    Tried are three to seven neighboring rungs with tokens in several spreads, in proportion to
    the size or equal for all, scaled together to spend the budget.
    """
    grids = list(_grids(sorted(rungs, key=lambda rung: rung.N), flops))
    for studies, finalists in ((QUICK_STUDIES, FINALISTS), (STUDIES, 1)):
        widths = [forecast_width([r.N for r in sizes], D, target, noise, studies, law) for sizes, D in grids]
        order = np.argsort(widths)[:finalists]
        grids = [grids[i] for i in order]
    return Design(grids[0][0], grids[0][1], widths[order[0]]) if grids else None


def _grids(rungs: list[Rung], flops: float) -> Iterator[tuple[list[Rung], np.ndarray]]:
    # Runs of n neighboring rungs, all or every second: of S1 to S5 for n = 3 S1-S2-S3, S2-S3-S4,
    # S3-S4-S5 and, by steps of two, S1-S3-S5.
    spans = [
        rungs[i : i + (n - 1) * step + 1 : step]
        for step in (1, 2)
        for n in range(3, 8)
        for i in range(len(rungs) - (n - 1) * step)
    ]
    for sizes, ratios, equal in product(spans, RATIOS, (False, True)):
        if len(sizes) * len(ratios) > MOST_RUNS:
            continue
        middle = math.exp(np.mean([math.log(rung.N) for rung in sizes]))
        grid = [(r, x * (middle if equal else r.N)) for r in sizes for x in ratios]
        D = np.array([tokens for _, tokens in grid], dtype=float)
        D *= flops / sum(rung.flops_per_token * tokens for rung, tokens in grid)
        share = D / [rung.N for rung, _ in grid]
        if USUAL_RATIO[0] <= share.min() and share.max() <= USUAL_RATIO[1]:
            yield [rung for rung, _ in grid], D
