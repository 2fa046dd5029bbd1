"""What repeated tokens are worth: the data-constrained law of Muennighoff et al. 2023.

Of U unique tokens seen for e epochs the law takes D' = U + U R (1 - exp(-(e - 1) / R)) in place
of D (arXiv 2305.16264, equation 5, for the data alone): the first repeats count almost as fresh,
none after many times R. R is found by fitting the surface at each value of a grid, finer around the best.
"""

from dataclasses import asdict, replace

import numpy as np

from llama_scale.bootstrap import percentile_interval, resample_counts
from llama_scale.errors import InputError
from llama_scale.scaling.fitting.chinchilla import SurfaceModel
from llama_scale.scaling.fitting.fit import MOST_POOR, UNIDENTIFIED, Fit, poor_resamples
from llama_scale.scaling.fitting.fitted_laws import Bounds, RepeatedTokens
from llama_scale.scaling.fitting.points import Points
from llama_scale.scaling.fitting.profile import crossings, objective_limit
from llama_scale.scaling.fitting.solver import Problems, minimize_huber

GRID, COARSE = np.geomspace(0.1, 1e4, 51), np.geomspace(0.1, 1e4, 18)
FINER = 3  # times that the grid is refined around its best value
RESAMPLES = 150
LEAST_EPOCHS = 1.1


def effective_tokens(D: np.ndarray, epochs: np.ndarray, R: float) -> np.ndarray:
    """Return the fresh tokens (n,) that D tokens (n,) of ``epochs`` passes (n,) are worth."""
    # With R = 15, 100M unique tokens seen four times (D = 400M) count as 100M (1 + 15 (1 - e^(-3/15))) = 372M.
    epochs = np.maximum(epochs, 1)
    return D / epochs * (1 - R * np.expm1(-(epochs - 1) / R))


def epochs_vary(points: Points) -> bool:
    """Return whether some runs repeat their data and the number of epochs differs."""
    if not points.has("epochs"):
        return False
    epochs = points.numeric("epochs")
    return bool(np.isfinite(epochs).all() and epochs.max() > LEAST_EPOCHS and np.ptp(epochs) > LEAST_EPOCHS - 1)


def fit_repeats(fit: Fit, resamples: int = RESAMPLES) -> RepeatedTokens:
    """Fit R and the surface together; raise InputError where no run repeats its data.

    R is identified where its profile and its bootstrap have both ends and these lie within a factor of ten: either
    alone has been seen to stop at a local minimum (docs/scaling.md). It is not where too few trunks are resampled.
    """
    points = fit.points
    if not epochs_vary(points):
        raise InputError(f"{points.file}: the number of epochs does not vary above 1")
    ones = np.ones((1, len(points)))
    objectives, thetas = _along(fit, GRID, ones)  # (R, 1), (R, 1, k)
    grid, objectives, thetas = _refined(fit, GRID, objectives[:, 0], thetas[:, 0])
    best = int(objectives.argmin())
    model = _model(fit, grid[best])
    residual = np.log(points.loss) - model.value(thetas[best][None])[0]
    limit = objective_limit(residual, len(fit.form.parameters) + 1, fit.delta)
    ends = crossings(np.log(grid), (objectives - objectives[best]) / limit, np.log(grid[best]))
    low, high = (None if end is None else float(np.exp(end)) for end in ends)
    bootstrap = _bootstrap(fit, resamples)
    lows, highs = (low, bootstrap.low), (high, bootstrap.high)
    closed = None not in lows and None not in highs and poor_resamples(points, resamples, fit.seed) <= MOST_POOR
    return RepeatedTokens(
        formula="D' = U + U R (1 - exp(-(epochs - 1) / R)), U = D / epochs",
        R=float(grid[best]),
        low=low,
        high=high,
        identified=closed and max(filter(None, highs)) <= UNIDENTIFIED * min(filter(None, lows)),
        parameters=asdict(model.law_of(thetas[best])),
        objective=float(objectives[best]),
        bootstrap=bootstrap,
    )


def _model(fit: Fit, R: float) -> SurfaceModel:
    points = fit.points
    return fit.form.model(points.N, effective_tokens(points.D, points.numeric("epochs"), R))


def _along(fit: Fit, grid: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the least objectives (R, S) and their theta (R, S, k) at each R of a grid, of runs weighted by (S, n)."""
    models = [_model(fit, R) for R in grid]
    lower, upper = models[0].bounds(fit.points.loss)
    target = np.broadcast_to(np.log(fit.points.loss), weight.shape)
    problems = Problems(target, weight, lower, upper, fit.delta)
    thetas = np.stack([np.tile(model.theta_of(fit.law), (len(weight), 1)) for model in models])
    objectives = np.full((len(grid), len(weight)), np.inf)
    # Up the grid, then down: each R starts from the theta just solved, so that a better optimum found at one R spreads
    # to all; on the way up also from its own. Going down, the neighbor of 3 is 4.
    last = len(grid) - 1
    for step, order in ((-1, range(len(grid))), (1, range(last, -1, -1))):
        for i in order:
            neighbor = min(max(i + step, 0), last)
            begins = (
                [thetas[neighbor]]
                if step == 1 or (len(weight) > 1 and i != neighbor)
                else [thetas[i], thetas[neighbor]]
            )
            for begin in begins:
                theta, objective, _ = minimize_huber(models[i], begin, problems)
                better = objective < objectives[i]
                thetas[i] = np.where(better[:, None], theta, thetas[i])
                objectives[i] = np.where(better, objective, objectives[i])
    return objectives, thetas


def _refined(
    fit: Fit, grid: np.ndarray, objectives: np.ndarray, thetas: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return a grid (R,) with its objectives (R,) and theta (R, k), finer around the least of them."""
    for _ in range(FINER):
        best = int(objectives.argmin())
        ends = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
        between = np.setdiff1d(np.geomspace(*ends, 7)[1:-1], grid[best])
        fine = replace(fit, law=_model(fit, grid[best]).law_of(thetas[best]))
        more, theirs = _along(fine, between, np.ones((1, len(fit.points))))
        order = np.argsort(np.append(grid, between))
        grid, objectives = np.append(grid, between)[order], np.append(objectives, more[:, 0])[order]
        thetas = np.append(thetas, theirs[:, 0], axis=0)[order]
    return grid, objectives, thetas


def _bootstrap(fit: Fit, resamples: int) -> Bounds:
    """Return the 95 % percentile interval of R over resampled runs; an end at the end of the grid is open."""
    trunks = fit.points.trunks
    weight = resample_counts(int(trunks.max()) + 1, resamples, fit.seed).astype(float)[:, trunks]  # (S, n)
    drawn = _least_R(COARSE, _along(fit, COARSE, weight)[0])
    if (drawn > 0).all() and (drawn < np.inf).all():
        # Again on as fine a grid as the resamples are close: the parabola of a wide step is off by more than they vary.
        step = COARSE[1] / COARSE[0]
        near = np.geomspace(drawn.min() / step, drawn.max() * step, len(COARSE))
        drawn = _least_R(near, _along(fit, near, weight)[0])
    low, high = (float(end) for end in percentile_interval(drawn, method="inverted_cdf"))
    return Bounds(low if 0 < low < np.inf else None, high if 0 < high < np.inf else None)


def _least_R(grid: np.ndarray, objectives: np.ndarray) -> np.ndarray:
    """Return where objectives (R, S) at an even grid of ln R (R,) are least, (S,): 0 or infinity at its ends.

    Between the points it is the vertex of the parabola through the least objective and its neighbors.
    """
    best, column = objectives.argmin(0), np.arange(objectives.shape[1])
    i, step = np.clip(best, 1, len(grid) - 2), np.log(grid[1] / grid[0])
    before, least, after = (objectives[i + shift, column] for shift in (-1, 0, 1))
    bend = np.maximum(before - 2 * least + after, 1e-300)
    vertex = grid[i] * np.exp(step * np.clip((before - after) / 2 / bend, -1, 1))
    return np.where(best == 0, 0.0, np.where(best == len(grid) - 1, np.inf, vertex))
