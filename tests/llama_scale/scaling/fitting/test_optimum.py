"""The optimum of the surface fit against many starts of SciPy on problems drawn at random."""

import numpy as np
import pytest
from scipy.optimize import minimize

from llama_scale.scaling.fitting.chinchilla import Surface
from llama_scale.scaling.fitting.fit import DELTA, fit_surface
from llama_scale.scaling.fitting.points import Points


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
