"""Profile intervals: how far a parameter can move before the fit becomes clearly worse.

One parameter is fixed at each value of a grid while all others are fitted again. Its interval is
where the objective stays within a limit of its least value, so unlike a bootstrap's it shows at
once when the points do not bound a parameter on one side.
"""

from dataclasses import dataclass

import numpy as np
from scipy.stats import norm, t

from llama_scale.bootstrap import LEVEL
from llama_scale.scaling.fitting.chinchilla import SurfaceModel
from llama_scale.scaling.fitting.fit import DELTA, Fit
from llama_scale.scaling.fitting.solver import Problems, minimize_huber

REACH, STEPS = 12.0, 30
FURTHER = 6.0  # times as far, where a side has no end yet
LOGARITHMIC = "A", "B", "E", "k"  # parameters that theta has as logarithms
LEAST_GAIN = 1e-3  # of an objective, for which a profile is solved once more
LEAST_RISE = 1e-18  # of an objective; less is rounding, as of points without noise


@dataclass(frozen=True)
class Profile:
    """A parameter's values (n,), and its interval, where ``excess`` <= 1.

    A side without an end within the bounds of the search is None: however far the parameter moves there, the others
    make good for it.
    """

    value: np.ndarray
    excess: np.ndarray  # of the objective over its least value, in units of the limit, (n,)
    low: float | None
    high: float | None


def profiles(fit: Fit) -> dict[str, Profile]:
    """Return the 95 % profile of each parameter of the law."""
    N, D = fit.points.N, fit.points.D
    centered = fit.form.model(N, D, natural=True)
    uncentered = fit.form.model(N, D, center=(0.0, 0.0), natural=True)
    # A is a parameter of the uncentered model; the centered one has A times e^(-alpha mean ln N).
    return {n: _profile(fit, uncentered if n in ("A", "B") else centered, n) for n in fit.form.parameters}


def objective_limit(residual: np.ndarray, parameters: int, delta: float = DELTA) -> float:
    """Return by how much the objective may rise within a 95 % interval of one parameter.

    Twice the rise of a sum of Huber losses is E[psi^2] / E[psi'] times chi-squared with one degree of freedom (Huber
    and Ronchetti 2009, section 7.10). psi is the clipped residual and E[psi'] the chance of one within delta, from a
    Gaussian kernel estimate since few lie there; n - k degrees of freedom enter through Student's t.
    """
    n = len(residual)
    residual = residual * np.sqrt(n / (n - parameters))
    low, high = np.percentile(residual, [25, 75])
    width = max(min(residual.std(), (high - low) / 1.349), 1e-9) * 1.06 * n**-0.2
    inside = norm.cdf((delta - residual) / width) - norm.cdf((-delta - residual) / width)
    scale = max(np.mean(np.clip(residual, -delta, delta) ** 2), LEAST_RISE) / inside.mean()
    return float(scale * t.ppf(0.5 + LEVEL / 2, n - parameters) ** 2 / 2)


def crossings(value: np.ndarray, excess: np.ndarray, center: float) -> tuple[float | None, float | None]:
    """Return where ``excess`` (n,) first passes 1 below and above ``center``; None where never.

    Each side is walked outwards from the center: of excess (3, .4, 0, .2, 2) at values (-2, -1, 0, 1, 2) the ends lie
    between -1 and -2 and between 1 and 2. A side whose first value is past 1 already has no end to find.
    """
    ends: list[float | None] = []
    for side in (value <= center, value >= center):
        x, y = value[side], excess[side]
        order = np.argsort(np.abs(x - center))
        x, y = x[order], y[order]
        past = np.flatnonzero(y > 1)
        if not len(past) or past[0] == 0:
            ends.append(None)
            continue
        i = past[0]
        # The objective is nearly a parabola: its root is nearly straight.
        a, b = np.sqrt(np.maximum(y[[i - 1, i]], 0))
        ends.append(float(x[i - 1] + (x[i] - x[i - 1]) * (1 - a) / (b - a)))
    return ends[0], ends[1]


def _profile(fit: Fit, model: SurfaceModel, name: str) -> Profile:
    k, best = model.names.index(name), model.theta_of(fit.law)  # (k,)
    lower, upper = (bound[k] for bound in model.bounds(fit.points.loss))
    sample = getattr(fit.resampled, name)
    logarithmic = name in LOGARITHMIC
    low, high = np.percentile(np.log(sample) if logarithmic else sample, [16, 84])
    reach = np.full(2, REACH * max((high - low) / 2, 1e-4))
    limit = objective_limit(fit.residual, len(fit.form.parameters), fit.delta)
    # The reach that the bootstrap suggests, and ever further on a side that has no end there, up to the bounds of the
    # search: a bootstrap whose resamples lie at a bound has next to no spread.
    while True:
        # Squared steps: dense around the optimum, where most intervals end, and far-reaching.
        sides = [best[k] + side * far * np.linspace(0, 1, STEPS) ** 2 for side, far in zip((-1, 1), reach, strict=True)]
        grid = np.unique(np.clip(np.concatenate(sides), lower, upper))  # (S,)
        excess = (_least_objectives(fit, model, k, best, grid) - fit.objective) / limit
        ends = crossings(grid, excess, best[k])
        more = [ends[0] is None and grid[0] > lower, ends[1] is None and grid[-1] < upper]
        if not any(more):
            break
        reach = np.where(more, reach * FURTHER, reach)
    if logarithmic:
        grid = np.exp(grid)
        ends = tuple(None if end is None else float(np.exp(end)) for end in ends)
    return Profile(grid, excess, *ends)


def _least_objectives(fit: Fit, model: SurfaceModel, k: int, best: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Return the least objective (S,) with entry ``k`` of theta fixed at each value of a grid (S,)."""
    rows = np.log(fit.points.loss), best, *model.bounds(fit.points.loss)
    target, theta, lower, upper = (np.tile(row, (len(grid), 1)) for row in rows)  # (S, n), then (S, k) each
    lower[:, k] = upper[:, k] = grid  # equal bounds leave the parameter no way to move
    problems = Problems(target, np.ones_like(target), lower, upper, fit.delta)
    # All values are solved side by side from the optimum, then again from what their neighbors on either side found,
    # for as long as that finds less: of grid values (1, 2, 3) the next tries of 2 start at the theta of 1 and of 3.
    theta, least, _ = minimize_huber(model, theta, problems)
    for _ in range(len(grid)):
        before = least
        for shift in (1, -1):
            again, other, _ = minimize_huber(model, np.roll(theta, shift, axis=0), problems)
            theta = np.where((other < least)[:, None], again, theta)
            least = np.minimum(least, other)
        if np.all(least > before * (1 - LEAST_GAIN)):
            break
    return least
