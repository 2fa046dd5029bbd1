"""Huber regression on log loss for many problems at once: damped Newton with bounds.

A start of the multi-start search and a resample of the bootstrap are each one problem; all are
solved side by side, so that 4,000 resamples cost a few seconds on one core.
"""

from dataclasses import dataclass

import numpy as np

from llama_scale.scaling.fitting.chinchilla import SurfaceModel

CHUNK = 120_000
STALLS = 2
STEPS, TOLERANCE = 500, 1e-10
Solved = tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Problems:
    """S regressions: targets and weights (S, n), bounds (k,) or (S, k), and the Huber threshold."""

    target: np.ndarray
    weight: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    delta: float

    def at(self, index: np.ndarray | slice) -> "Problems":
        """Return the problems at ``index``."""
        lower, upper = (b if b.ndim == 1 else b[index] for b in (self.lower, self.upper))
        return Problems(self.target[index], self.weight[index], lower, upper, self.delta)

    def objective(self, prediction: np.ndarray) -> np.ndarray:
        """Return the weighted sum (S,) of the Huber loss of target minus prediction (S, n)."""
        residual = self.target - prediction
        clipped = np.clip(residual, -self.delta, self.delta)
        return (self.weight * clipped * (residual - 0.5 * clipped)).sum(1)


def minimize_huber(model: SurfaceModel, theta: np.ndarray, problems: Problems) -> Solved:
    """Minimize every problem from its start; return (S, k) parameters, (S,) objectives, bool (S,).

    The third array says which problems converged: two steps in a row that lower the objective by
    less than ``TOLERANCE`` of itself, or no step that lowers it at all.
    """
    size = max(1, CHUNK // problems.target.shape[1])
    batches = [slice(i, i + size) for i in range(0, len(theta), size)]
    parts = [_minimize_batch(model, theta[batch], problems.at(batch)) for batch in batches]
    theta, objective, converged = (np.concatenate(column) for column in zip(*parts, strict=True))
    return theta, objective, converged


def _minimize_batch(model: SurfaceModel, theta: np.ndarray, problems: Problems) -> Solved:
    theta = np.clip(theta, problems.lower, problems.upper)
    damping = np.full(len(theta), 1e-2)
    stalls = np.zeros(len(theta), dtype=int)
    objective = problems.objective(model.value(theta))  # (S,)
    # The problems still on their way: of S = 5 with the first and third done, [1, 3, 4]. Each step
    # works on these rows alone and writes its results back through the same index.
    active = np.arange(len(theta))
    for _ in range(STEPS):
        here, before, damp = problems.at(active), objective[active], damping[active]
        trial = _newton_step(model, theta[active], here, damp)
        after = here.objective(model.value(trial))
        better = after < before
        theta[active[better]] = trial[better]
        objective[active] = np.where(better, after, before)
        damping[active] = np.where(better, np.maximum(damp / 4, 1e-12), damp * 4)
        # A step that helped shrinks the damping (towards plain Newton), one that did not grows
        # it (towards a short step downhill) and is not taken.
        small = np.where(better, before - after < TOLERANCE * before, damp > 1e8)
        stalls[active] = np.where(small, stalls[active] + 1, np.where(better, 0, stalls[active]))
        active = active[stalls[active] < STALLS]
        if not len(active):
            break
    return theta, objective, stalls >= STALLS


def _newton_step(model: SurfaceModel, theta: np.ndarray, problems: Problems, damping: np.ndarray) -> np.ndarray:
    """Return the next trial parameters (S, k).

    Huber's second derivative is 1 within ``delta`` and 0 beyond, so the exact Hessian may be singular or indefinite:
    its eigenvalues are made positive and raised by the damping, in units of the diagonal of the reweighted
    least-squares matrix, which is always positive. With eigenvalues (4, -2) and damping 1 the step is the descent
    direction over (5, 3): along the second, where plain Newton would climb to a saddle, it goes downhill.

    A parameter at a bound whose descent points outwards is taken out of the step: its row and
    column of the Hessian are zeroed, so the others move as if it were a constant.
    """
    value, gradient, curvature = model.expand(theta)  # (S, n), (S, k, n)
    residual = problems.target - value  # (S, n)
    size = np.abs(residual)
    slope = problems.weight * np.clip(residual, -problems.delta, problems.delta)
    hessian = curvature(problems.weight * (size <= problems.delta), slope)  # (S, k, k)
    reweighted = problems.weight / np.maximum(1, size / problems.delta)
    scale = np.sqrt((gradient**2 @ reweighted[..., None])[..., 0] + 1e-300)  # (S, k)
    descent = (gradient @ slope[..., None])[..., 0]
    at_lower = (theta <= problems.lower) & (descent < 0)
    free = ~(at_lower | ((theta >= problems.upper) & (descent > 0)))
    descent = np.where(free, descent / scale, 0)
    hessian /= scale[:, :, None] * scale[:, None, :]
    hessian *= free[:, :, None] & free[:, None, :]
    values, vectors = np.linalg.eigh(hessian)  # (S, k), (S, k, k)
    along = (vectors.transpose(0, 2, 1) @ descent[..., None])[..., 0]
    along /= np.abs(values) + damping[:, None]
    step = (vectors @ along[..., None])[..., 0] / scale
    return np.clip(theta + np.where(free, step, 0), problems.lower, problems.upper)
