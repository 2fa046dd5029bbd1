"""What repeated tokens are worth: the data-constrained law of Muennighoff et al. 2023.

Of U unique tokens seen for e epochs the law takes D' = U + U R (1 - exp(-(e - 1) / R)) in place
of D (arXiv 2305.16264, equation 5, for the data alone): the first repeats count almost as fresh,
none after many times R. R is found by fitting the surface at each value of a grid.
"""

from dataclasses import dataclass

import numpy as np

from llama_scale.errors import InputError
from llama_scale.scaling.fitting.chinchilla import Surface, SurfaceModel
from llama_scale.scaling.fitting.fit import DELTA, PARAMETERS, Fit
from llama_scale.scaling.fitting.points import Points
from llama_scale.scaling.fitting.profile import crossings, limit
from llama_scale.scaling.fitting.solver import Problems, minimise

GRID = np.geomspace(0.1, 1e4, 51)
MOST = 1.1


@dataclass(frozen=True)
class Repeats:
    """The fitted R, its 95 % profile interval (None where open) and the law beside it."""

    R: float
    low: float | None
    high: float | None
    law: Surface
    objective: float
    grid: np.ndarray
    excess: np.ndarray

    @property
    def identified(self) -> bool:
        """Whether the points bound R on both sides."""
        return self.low is not None and self.high is not None


def worth(D: np.ndarray, epochs: np.ndarray, R: float) -> np.ndarray:
    """Return the fresh tokens that are worth D tokens (n,) of ``epochs`` passes (n,)."""
    unique = D / np.maximum(epochs, 1)
    return unique * (1 - R * np.expm1(-(np.maximum(epochs, 1) - 1) / R))


def varies(points: Points) -> bool:
    """Return whether some runs repeat their data and the number of epochs differs."""
    if not points.has("epochs"):
        return False
    epochs = points.numeric("epochs")
    return bool(np.isfinite(epochs).all() and epochs.max() > MOST and np.ptp(epochs) > MOST - 1)


def fit_repeats(fit: Fit) -> Repeats:
    """Fit R and the surface together; raise InputError where no run repeats its data."""
    points = fit.points
    if not varies(points):
        raise InputError(f"{points.file}: the number of epochs does not vary above 1")
    epochs, target = points.numeric("epochs"), np.log(points.loss)[None]
    models = [SurfaceModel(points.N, worth(points.D, epochs, R)) for R in GRID]
    lower, upper = models[0].bounds(points.loss)
    targets = np.repeat(target, 2, axis=0)
    problem = Problems(targets, np.ones_like(targets), lower, upper, DELTA)
    found, thetas = np.full(len(GRID), np.inf), [model.theta(fit.law) for model in models]
    for order in (range(len(GRID)), range(len(GRID) - 1, -1, -1)):
        for i in order:
            # From the nearer end of the grid: its neighbour's law, or the fit of fresh tokens.
            near = thetas[max(i - 1, 0)] if order.step > 0 else thetas[min(i + 1, len(GRID) - 1)]
            begin = np.stack([thetas[i], near])
            theta, objective, _ = minimise(models[i], begin, problem)
            found[i], thetas[i] = objective.min(), theta[objective.argmin()]
    i = int(found.argmin())
    residual = target[0] - models[i].value(thetas[i][None])[0]
    excess = (found - found[i]) / limit(residual, len(PARAMETERS) + 1)
    low, high = crossings(np.log(GRID), excess, np.log(GRID[i]))
    return Repeats(
        float(GRID[i]),
        None if low is None else float(np.exp(low)),
        None if high is None else float(np.exp(high)),
        models[i].natural(thetas[i]),
        float(found[i]),
        GRID,
        excess,
    )
