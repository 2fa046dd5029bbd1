"""Measurements of the fit itself: coverage of its intervals, recovery, time, and a peer.

Each function returns plain rows; ``fit`` runs all of them and returns what docs/scaling.md shows.
"""

import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
from tqdm import tqdm

from llama_scale.scaling.fitting.chinchilla import BESIROGLU, Surface
from llama_scale.scaling.fitting.fit import DELTA, fit_surface, interval, objective
from llama_scale.scaling.fitting.points import Points
from llama_scale.scaling.fitting.profile import profiles

SHOWN = "alpha", "beta", "E"
DESIGNS = {
    "240 runs, .2 %": (240, 0.002),
    "48 runs, .5 %": (48, 0.005),
    "18 runs, .2 %": (18, 0.002),
}


def synthetic(n: int, noise: float, seed: int, law: Surface = BESIROGLU) -> Points:
    """Return n runs of a law with Gaussian log noise: sizes 4e7 to 1.6e10 at 9 budgets.

    Sizes are drawn at random, and budgets so that tokens for each parameter lie between .5 and
    500, as in Hoffmann et al. 2022.
    """
    rng = np.random.default_rng(seed)
    N, D = np.empty(0), np.empty(0)
    while len(N) < n:
        size = 10 ** rng.uniform(7.6, 10.2, n)
        data = rng.choice(np.geomspace(6e18, 3e21, 9), n) / 6 / size
        kept = (data / size > 0.5) & (data / size < 500)
        N, D = np.append(N, size[kept])[:n], np.append(D, data[kept])[:n]
    loss = law.loss(N, D) * np.exp(noise * rng.standard_normal(n))
    names = {"N": "N", "D": "D", "loss": "loss"}
    numbers = np.arange(1, n + 1)
    return Points(N, D, loss, None, [{} for _ in N], numbers, "synthetic", "", n, names)


def coverage(n: int, noise: float, replicates: int = 500, resamples: int = 400) -> dict[str, Any]:
    """Return how often the 95 % intervals held the truth, in percent, and the errors made.

    ``loss_10x`` is the loss of the compute-optimal model at ten times the largest run, where
    ``run_10x`` is one noisy run there and the interval that of one run.
    """
    inside: dict[str, list[bool]] = {}
    errors: dict[str, list[float]] = {name: [] for name in SHOWN}
    for seed in tqdm(range(replicates), disable=None):
        points = synthetic(n, noise, seed)
        fit = fit_surface(points, resamples, seed, starts=16)
        found = profiles(fit)
        for name in SHOWN:
            truth, value = getattr(BESIROGLU, name), getattr(fit.law, name)
            low, high = interval(getattr(fit.resampled, name))
            inside.setdefault(f"{name}, bootstrap", []).append(low <= truth <= high)
            low, high = found[name].low or -np.inf, found[name].high or np.inf
            inside.setdefault(f"{name}, profile", []).append(low <= truth <= high)
            errors[name].append(abs(value - truth))
        C = 10 * points.compute.max()
        N = np.array([np.sqrt(C / 6 / 20)])
        predicted, truth = fit.predict(N, C / 6 / N), BESIROGLU.loss(N, C / 6 / N)[0]
        run = truth * np.exp(noise * np.random.default_rng([seed, 7]).standard_normal())
        for name, value, low, high in (
            ("loss at 10x, bootstrap", truth, "low", "high"),
            ("one run at 10x", run, "run_low", "run_high"),
        ):
            held = predicted[low][0] <= value <= predicted[high][0]
            inside.setdefault(name, []).append(bool(held))
    return {
        "runs": n,
        "noise_percent": 100 * noise,
        "replicates": replicates,
        "covered_percent": {name: 100 * np.mean(found) for name, found in inside.items()},
        "median_error": {name: float(np.median(e)) for name, e in errors.items()},
        "largest_error": {name: float(np.max(e)) for name, e in errors.items()},
    }


def seconds(work: Callable[[], Any], repeats: int = 3) -> float:
    """Return the least time of some calls."""
    took = []
    for _ in range(repeats):
        begun = time.perf_counter()
        work()
        took.append(time.perf_counter() - begun)
    return min(took)


def speed(points: Points) -> dict[str, Any]:
    """Return the seconds of a fit with its check, and of the same with 4,000 resamples."""
    plain = seconds(lambda: fit_surface(points, resamples=1))
    whole = seconds(lambda: fit_surface(points, resamples=4_000), repeats=1)
    return {"runs": len(points), "fit_s": plain, "bootstrap_4000_s": whole - plain}


def peer(points: Points, repeats: int = 1) -> dict[str, Any]:
    """Return time and objective of the ``chinchilla`` package on the same points, beside ours.

    Its grid search and its own optimiser are used with the same Huber objective on log loss.
    ``absent`` says so where the package is not installed.
    """
    try:
        release = version("chinchilla")
    except PackageNotFoundError:
        return {"absent": "the package chinchilla is not installed (pip install chinchilla)"}
    own = fit_surface(points, resamples=1)
    ours = seconds(lambda: fit_surface(points, resamples=1))
    laws: list[Surface] = []
    theirs = seconds(lambda: laws.append(_chinchilla(points)), repeats)
    found = objective(laws[-1], points)
    return {
        "release": release,
        "runs": len(points),
        "ours_s": ours,
        "theirs_s": theirs,
        "ratio": theirs / ours,
        "ours_objective": own.objective,
        "theirs_objective": found,
    }


def _chinchilla(points: Points) -> Surface:
    """Fit by the ``chinchilla`` package: 72 starts of its BFGS, on one core, our objective.

    Its Huber loss is scaled by delta^2, without which its default tolerance stops far too early.
    """
    import tempfile

    from chinchilla import Chinchilla

    def loss_fn(measured: np.ndarray, predicted: np.ndarray) -> np.ndarray:
        residual = np.abs(np.log(measured) - np.log(predicted)) / DELTA
        return np.where(residual < 1, residual**2 / 2, residual - 0.5)

    starts = {
        "E": [0.5, 1.5],
        "a": [2.0, 6.0, 10.0],
        "b": [2.0, 6.0, 10.0],
        "alpha": [0.3, 0.6],
        "beta": [0.3, 0.6],
    }
    with tempfile.TemporaryDirectory() as folder:
        peer = Chinchilla(folder, param_grid=starts, loss_fn=loss_fn, log_level=50)
        for N, D, loss in zip(points.N, points.D, points.loss, strict=True):
            peer.append(N=float(N), D=float(D), loss=float(loss))
        peer.fit(parallel=False)
    return Surface(*(float(getattr(peer, name)) for name in ("E", "A", "alpha", "B", "beta")))


def fit(replicates: int = 500, points: Points | None = None) -> dict[str, Any]:
    """Return every measurement; ``points`` are those of the comparison with the peer."""
    own = synthetic(*DESIGNS["240 runs, .2 %"], seed=0)
    return {
        "speed": speed(own),
        "peer": peer(points or own),
        "coverage": {name: coverage(*design, replicates) for name, design in DESIGNS.items()},
    }
