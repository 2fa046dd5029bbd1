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
DAMPINGS = np.array([0.1, 10.0])  # tried in each step, times that of the step before
CORRECTIONS = 2
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
        """Return the weighted sum (S,) of the Huber loss of target minus prediction (S, n), or (S, M) of (S, M, n)."""
        target, weight = (x[:, None] if prediction.ndim == 3 else x for x in (self.target, self.weight))
        residual = target - prediction
        clipped = np.clip(residual, -self.delta, self.delta)
        return (weight * clipped * (residual - 0.5 * clipped)).sum(-1)


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
        before = objective[active]
        trials = damping[active, None] * DAMPINGS  # (S, M)
        trial, after, best = _newton_step(model, theta[active], problems.at(active), trials)
        better = after < before
        theta[active[better]] = trial[better]
        objective[active] = np.where(better, after, before)
        # The damping that did best is the next middle one: small is plain Newton, large a short step downhill. Where
        # none helped it grows past all that were tried, and no step is taken.
        tried = trials[np.arange(len(active)), best]
        damping[active] = np.clip(np.where(better, tried, 4 * trials[:, -1]), 1e-14, 1e12)
        small = np.where(better, before - after < TOLERANCE * before, trials[:, -1] > 1e8)
        stalls[active] = np.where(small, stalls[active] + 1, np.where(better, 0, stalls[active]))
        active = active[stalls[active] < STALLS]
        if not len(active):
            break
    return theta, objective, stalls >= STALLS


def _newton_step(
    model: SurfaceModel, theta: np.ndarray, problems: Problems, damping: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the best parameters (S, k) of a step by each damping (S, M), its objective and its damping's index (S,).

    Huber's second derivative is 1 within ``delta`` and 0 beyond, so the exact Hessian may be singular or indefinite:
    its eigenvalues are made positive and raised by the damping, in units of the diagonal of the reweighted
    least-squares matrix, which is always positive. With eigenvalues (4, -2) and damping 1 the step is the descent
    direction over (5, 3): along the second, where plain Newton would climb to a saddle, it goes downhill.

    Runs within ``delta`` make a valley as narrow as delta, which bends where the law does: a straight step leaves it
    unless it is short. So each step is bent back, ``CORRECTIONS`` times, by what these runs' losses are beyond their
    linear prediction (the second-order correction of constrained optimization: Nocedal and Wright 2006, section 18.3).

    A parameter at a bound whose descent points outwards is taken out of the step: its row and
    column of the Hessian are zeroed, so the others move as if it were a constant.
    """
    value, gradient, curvature = model.expand(theta)  # (S, n), (S, k, n)
    residual = problems.target - value  # (S, n)
    size = np.abs(residual)
    slope = problems.weight * np.clip(residual, -problems.delta, problems.delta)
    inside = problems.weight * (size <= problems.delta)
    hessian = curvature(inside, slope)  # (S, k, k)
    reweighted = problems.weight / np.maximum(1, size / problems.delta)
    scale = np.sqrt((gradient**2 @ reweighted[..., None])[..., 0] + 1e-300)  # (S, k)
    descent = (gradient @ slope[..., None])[..., 0]
    at_lower = (theta <= problems.lower) & (descent < 0)
    free = ~(at_lower | ((theta >= problems.upper) & (descent > 0)))
    unit = np.where(free, 1 / scale, 0)
    hessian *= unit[:, :, None] * unit[:, None, :]
    values, vectors = np.linalg.eigh(hessian)  # (S, k), (S, k, k)
    vectors = vectors * unit[:, :, None]  # from eigenvectors to theta
    inverse = 1 / (np.abs(values)[:, :, None] + damping[:, None, :])  # (S, k, M)
    shape = (len(theta), 1, theta.shape[1])
    lower, upper = (np.broadcast_to(b, theta.shape).reshape(shape) for b in (problems.lower, problems.upper))

    def moved(start: np.ndarray, along: np.ndarray) -> np.ndarray:
        """Return start (S, M, k) after a damped Newton step against a gradient ``along`` (S, k, M)."""
        step = vectors @ (inverse * (vectors.transpose(0, 2, 1) @ along))  # (S, k, M)
        return np.clip(start + step.transpose(0, 2, 1), lower, upper)

    trial = moved(theta[:, None], descent[..., None])  # (S, M, k)
    linear = value[:, None] + (trial - theta[:, None]) @ gradient  # (S, M, n)
    tried, objectives = [trial], []
    for again in range(CORRECTIONS + 1):
        predicted = model.value(trial.reshape(-1, shape[2])).reshape(linear.shape)
        objectives.append(problems.objective(predicted))
        if again < CORRECTIONS:
            beyond = inside[:, None] * (linear - predicted)  # (S, M, n)
            trial = moved(trial, gradient @ beyond.transpose(0, 2, 1))
            tried.append(trial)
    rows, count = np.arange(len(theta)), damping.shape[1]
    everything = np.concatenate(objectives, axis=1)  # (S, (CORRECTIONS + 1) M)
    best = everything.argmin(1)
    return np.concatenate(tried, axis=1)[rows, best], everything[rows, best], best % count
