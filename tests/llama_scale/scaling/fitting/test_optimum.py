"""The optimum of the surface fit against many starts of SciPy on problems drawn at random."""

import numpy as np
import pytest
from scipy.optimize import minimize

from llama_scale.scaling.fitting.chinchilla import Surface
from llama_scale.scaling.fitting.fit import DELTA, fit_surface
from llama_scale.scaling.fitting.forms import JOINT
from llama_scale.scaling.fitting.points import Points
from llama_scale.scaling.fitting.solver import Problems, minimize_huber


def draw(seed):
    """Return points of a law with parameters from wide ranges; noise .1 to 3 %, outliers."""
    rng = np.random.default_rng(seed)
    E, A, B = rng.uniform(0.2, 3), *10 ** rng.uniform(0.5, 4, 2)
    law = Surface(E, A, rng.uniform(0.1, 0.8), B, rng.uniform(0.1, 0.8))
    n = int(rng.integers(8, 80))
    N = 10 ** rng.uniform(5, 10, n)
    D = N * 10 ** rng.uniform(0, 3, n)
    loss = law.loss(N, D) * np.exp(10 ** rng.uniform(-3, -1.5) * rng.standard_normal(n))
    if rng.random() < 0.3:
        loss[rng.integers(n)] *= 1.3
    names = {"N": "N", "D": "D", "loss": "loss"}
    rows = [{} for _ in range(n)]
    return Points(N, D, loss, None, rows, np.arange(1, n + 1), "drawn", "", n, names), law


def brute(points, law, starts=12):
    """Return the least objective that L-BFGS-B finds from many starts and the truth."""
    x, y, target = np.log(points.N), np.log(points.D), np.log(points.loss)

    def value(theta):
        a, b, alpha, beta, e = theta
        terms = np.stack([a - alpha * x, b - beta * y, np.full_like(x, e)])  # (3, n)
        total = np.logaddexp.reduce(terms)
        slope = np.clip(total - target, -DELTA, DELTA)
        size = np.abs(total - target)
        loss = np.where(size < DELTA, size**2 / 2, DELTA * (size - DELTA / 2)).sum()
        p, q, r = np.exp(terms - total) * slope
        gradient = np.array([p.sum(), q.sum(), -(p * x).sum(), -(q * y).sum(), r.sum()])
        return loss / DELTA**2, gradient / DELTA**2

    rng = np.random.default_rng(0)
    begin = [[np.log(law.A), np.log(law.B), law.alpha, law.beta, np.log(law.E)]]
    for _ in range(starts):
        begin.append([*rng.uniform(0, 15, 2), *rng.uniform(0.05, 1, 2), rng.uniform(-3, 1.3)])
    bounds = [(None, None), (None, None), (0.01, 3), (0.01, 3), (None, None)]
    options = {"maxiter": 3_000, "maxfun": 20_000, "ftol": 1e-15, "gtol": 1e-9}
    runs = (minimize(value, s, jac=True, method="L-BFGS-B", bounds=bounds, options=options) for s in begin)
    return min(run.fun for run in runs) * DELTA**2


@pytest.mark.parametrize("seed", range(30))
def test_no_start_of_a_plain_optimiser_ends_lower(seed):
    points, law = draw(seed)
    assert fit_surface(points, resamples=1).objective <= brute(points, law) * (1 + 1e-6)


def test_a_step_follows_a_valley_as_narrow_as_delta():
    """Noise of ten times delta, resamples that leave out half the runs: each start must reach the least of many."""
    rng = np.random.default_rng(0)
    law = Surface(E=0.6, A=300.0, alpha=0.5, B=900.0, beta=0.45, k=0.45)
    N, D = (x.ravel() for x in np.meshgrid([13e3, 28e3, 67e3, 167e3], [0.5e6, 1e6, 2e6, 4e6]))
    N, D = np.tile(N, 2), np.tile(D, 2)
    loss = law.loss(N, D) * np.exp(0.01 * rng.standard_normal(32))
    model, weight = JOINT.model(N, D), rng.poisson(1.0, (12, 32)).astype(float)
    starts = np.concatenate([model.theta_of(law)[None], model.starts(loss, 6)])  # (T, 6)

    def least(theta):
        targets = np.tile(np.log(loss), (len(theta), 1))
        repeated = np.repeat(weight, len(theta) // len(weight), axis=0)
        _, objective, done = minimize_huber(model, theta, Problems(targets, repeated, *model.bounds(loss), DELTA))
        return objective.reshape(len(weight), -1), done.reshape(len(weight), -1)

    objective, done = least(np.tile(starts, (len(weight), 1)))  # (12, T)
    assert done[:, 0].all()
    assert np.mean(objective[:, 0] <= objective.min(1) * (1 + 1e-6)) >= 0.9
