"""What repeated tokens are worth: the data-constrained law of Muennighoff et al. 2023.

Of U unique tokens seen for e epochs the law takes D' = U + U R (1 - exp(-(e - 1) / R)) in place
of D (arXiv 2305.16264, equation 5, for the data alone): the first repeats count almost as fresh,
none after many times R. R is found by fitting the surface at each value of a grid.
"""

from dataclasses import asdict

import numpy as np

from llama_scale.errors import InputError
from llama_scale.scaling.fitting.fit import Fit
from llama_scale.scaling.fitting.fitted_laws import RepeatedTokens
from llama_scale.scaling.fitting.points import Points
from llama_scale.scaling.fitting.profile import crossings, objective_limit
from llama_scale.scaling.fitting.solver import Problems, minimize_huber

GRID = np.geomspace(0.1, 1e4, 51)
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


def fit_repeats(fit: Fit) -> RepeatedTokens:
    """Fit R and the surface together; raise InputError where no run repeats its data."""
    points = fit.points
    if not epochs_vary(points):
        raise InputError(f"{points.file}: the number of epochs does not vary above 1")
    epochs, target = points.numeric("epochs"), np.log(points.loss)[None]
    models = [fit.form.model(points.N, effective_tokens(points.D, epochs, R)) for R in GRID]
    lower, upper = models[0].bounds(points.loss)
    targets = np.repeat(target, 2, axis=0)
    problem = Problems(targets, np.ones_like(targets), lower, upper, fit.delta)
    objectives, thetas = np.full(len(GRID), np.inf), [model.theta_of(fit.law) for model in models]
    # Up the grid, then down: each R starts from its own theta and from the one just solved, so
    # that a better optimum found at one R spreads to all. Going down, the neighbor of 3 is 4.
    last = len(GRID) - 1
    for step, order in ((-1, range(len(GRID))), (1, range(last, -1, -1))):
        for i in order:
            neighbor = min(max(i + step, 0), last)
            begin = np.stack([thetas[i], thetas[neighbor]])
            theta, objective, _ = minimize_huber(models[i], begin, problem)
            objectives[i], thetas[i] = objective.min(), theta[objective.argmin()]
    best = int(objectives.argmin())
    residual = target[0] - models[best].value(thetas[best][None])[0]
    excess = (objectives - objectives[best]) / objective_limit(residual, len(fit.form.parameters) + 1, fit.delta)
    ends = crossings(np.log(GRID), excess, np.log(GRID[best]))
    low, high = (None if end is None else float(np.exp(end)) for end in ends)
    return RepeatedTokens(
        formula="D' = U + U R (1 - exp(-(epochs - 1) / R)), U = D / epochs",
        R=float(GRID[best]),
        low=low,
        high=high,
        identified=low is not None and high is not None,
        parameters=asdict(models[best].law_of(thetas[best])),
        objective=float(objectives[best]),
    )
