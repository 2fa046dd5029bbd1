"""Measurements of the scaling fit: its time beside a peer, the coverage of its intervals."""

import tempfile
from collections import defaultdict
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
from tqdm import tqdm

from benchmarks.tables import format_ratio, format_table
from benchmarks.timing import least_seconds, time_call
from llama_scale.bootstrap import percentile_interval
from llama_scale.errors import at_least_0, check_fields
from llama_scale.scaling.fitting.chinchilla import BESIROGLU, Surface
from llama_scale.scaling.fitting.fit import DELTA, Fit, fit_surface, objective
from llama_scale.scaling.fitting.points import Points, parse_columns, read_points
from llama_scale.scaling.fitting.profile import profiles

COVERED_PARAMETERS = "alpha", "beta", "E"
DESIGNS = {"240 runs, .2 %": (240, 0.002), "48 runs, .5 %": (48, 0.005), "18 runs, .2 %": (18, 0.002)}


@dataclass(frozen=True)
class FitBenchmark:
    """Speed of the scaling fit, beside the chinchilla package where it is installed.

    Args:
        points: CSV file to fit; null is 240 synthetic runs.
        columns: The file's own names, as N=n_params,D=tokens,loss=val_loss.
        where: Rows to keep, as N>5e7.
        coverage: Synthetic studies for the coverage of the intervals; 0 leaves it out.
        out: JSON file for the measurements.
    """

    points: str | None = None
    columns: str | None = None
    where: str | None = None
    coverage: int = 0
    out: str | None = None

    def __post_init__(self) -> None:
        check_fields(self, "at least 0", at_least_0, "coverage")


def run(config: FitBenchmark) -> dict[str, Any]:
    """Return ``speed``, ``peer`` and, where asked for, ``coverage``, of each of ``DESIGNS``."""
    if config.points:
        points = read_points(config.points, parse_columns(config.columns), config.where)
    else:
        points = synthetic_points(*DESIGNS["240 runs, .2 %"], seed=0)
    result = {"speed": time_fit(points), "peer": compare_with_chinchilla(points)}
    if config.coverage:
        result["coverage"] = {name: coverage(*design, config.coverage) for name, design in DESIGNS.items()}
    return result


def synthetic_points(n: int, noise: float, seed: int, law: Surface = BESIROGLU) -> Points:
    """Return n runs of a law with Gaussian log noise: sizes 4e7 to 1.6e10 at 9 budgets.

    Sizes are drawn at random, and budgets so that tokens for each parameter lie between .5 and
    500, as in Hoffmann et al. 2022.
    """
    rng = np.random.default_rng(seed)
    N, D = np.empty(0), np.empty(0)
    while len(N) < n:
        size = 10 ** rng.uniform(7.6, 10.2, n)
        data = rng.choice(np.geomspace(6e18, 3e21, 9), n) / 6 / size
        sensible = (data / size > 0.5) & (data / size < 500)
        N, D = np.append(N, size[sensible])[:n], np.append(D, data[sensible])[:n]
    loss = law.loss(N, D) * np.exp(noise * rng.standard_normal(n))
    names = {"N": "N", "D": "D", "loss": "loss"}
    numbers = np.arange(1, n + 1)
    return Points(N, D, loss, None, [{} for _ in N], numbers, "synthetic", "", n, names)


def coverage(n: int, noise: float, replicates: int = 500, resamples: int = 400) -> dict[str, Any]:
    """Return how often the 95 % intervals cover the truth, in percent, and the errors made.

    ``loss at 10x`` is the loss of the compute-optimal model at ten times the largest run, where
    ``one run at 10x`` is one noisy run there and the interval that of one run.
    """
    covered: dict[str, list[bool]] = defaultdict(list)
    errors: dict[str, list[float]] = defaultdict(list)
    for seed in tqdm(range(replicates), disable=None):
        fit = fit_surface(synthetic_points(n, noise, seed), resamples, seed, starts=16)
        for name, covers in parameters_covered(fit).items():
            covered[name].append(covers)
        for name, covers in losses_covered(fit, noise, seed).items():
            covered[name].append(covers)
        for name in COVERED_PARAMETERS:
            errors[name].append(abs(getattr(fit.law, name) - getattr(BESIROGLU, name)))
    return {
        "runs": n,
        "noise_percent": 100 * noise,
        "replicates": replicates,
        "covered_percent": {name: float(100 * np.mean(row)) for name, row in covered.items()},
        "median_error": {name: float(np.median(row)) for name, row in errors.items()},
        "largest_error": {name: float(np.max(row)) for name, row in errors.items()},
    }


def parameters_covered(fit: Fit) -> dict[str, bool]:
    """Say of each parameter and kind of interval whether the true value lies in it."""
    profile = profiles(fit)
    covers = {}
    for name in COVERED_PARAMETERS:
        truth = getattr(BESIROGLU, name)
        low, high = percentile_interval(getattr(fit.resampled, name))
        covers[f"{name}, bootstrap"] = bool(low <= truth <= high)
        low, high = profile[name].low or -np.inf, profile[name].high or np.inf
        covers[f"{name}, profile"] = bool(low <= truth <= high)
    return covers


def losses_covered(fit: Fit, noise: float, seed: int) -> dict[str, bool]:
    """Say whether the intervals at ten times the largest run hold the true loss and a run's."""
    C = 10 * fit.points.compute.max()
    N = np.array([np.sqrt(C / 6 / 20)])  # 20 tokens a parameter
    predicted, truth = fit.predict(N, C / 6 / N), BESIROGLU.loss(N, C / 6 / N)[0]
    run = truth * np.exp(noise * np.random.default_rng([seed, 7]).standard_normal())
    return {
        "loss at 10x, bootstrap": bool(predicted["low"][0] <= truth <= predicted["high"][0]),
        "one run at 10x": bool(predicted["run_low"][0] <= run <= predicted["run_high"][0]),
    }


def time_fit(points: Points) -> dict[str, Any]:
    """Return the seconds of a fit with its check, and of 4,000 resamples on top of it."""
    plain = least_seconds(lambda: fit_surface(points, resamples=1), 3)
    whole = least_seconds(lambda: fit_surface(points, resamples=4_000), 1)
    return {"runs": len(points), "fit_s": plain, "bootstrap_4000_s": whole - plain}


def compare_with_chinchilla(points: Points) -> dict[str, Any]:
    """Return time and objective of the ``chinchilla`` package on the same points, beside ours.

    Its grid search and its own optimizer are used with the same Huber objective on log loss.
    ``absent`` says so where the package is not installed.
    """
    try:
        release = version("chinchilla")
    except PackageNotFoundError:
        return {"absent": "the package chinchilla is not installed (pip install chinchilla)"}
    own_fit = fit_surface(points, resamples=1)
    own_seconds = least_seconds(lambda: fit_surface(points, resamples=1), 3)
    peer_fit = time_call(lambda: fit_with_chinchilla(points))
    return {
        "release": release,
        "runs": len(points),
        "ours_s": own_seconds,
        "theirs_s": peer_fit.seconds,
        "ratio": peer_fit.seconds / own_seconds,
        "ours_objective": own_fit.objective,
        "theirs_objective": objective(peer_fit.value, points),
    }


def table(result: dict[str, Any]) -> str:
    """Return the measurements as text for the terminal."""
    parts = [speed_table(result["speed"], result["peer"])]
    if "absent" in result["peer"]:
        parts.append(result["peer"]["absent"])
    if "coverage" in result:
        parts += [coverage_table(result["coverage"]), error_table(result["coverage"])]
    return "\n\n".join(parts)


def speed_table(speed: dict[str, Any], peer: dict[str, Any]) -> str:
    """Return the seconds of each; ratios say how many times as fast our fit is."""
    head = [f"fit of {speed['runs']:,} runs", "seconds"]
    resamples = ["llama_scale, 4,000 resamples", f"{speed['bootstrap_4000_s']:.2f}"]
    if "absent" in peer:
        return format_table(head, [["llama_scale", f"{speed['fit_s']:.2f}"], resamples])
    rows = [
        [
            "llama_scale", f"{peer['ours_s']:.2f}", f"{peer['ours_objective']:.9g}",
            format_ratio(1),
        ],
        [
            f"chinchilla {peer['release']}", f"{peer['theirs_s']:.2f}",
            f"{peer['theirs_objective']:.9g}", format_ratio(peer["ratio"]),
        ],
        [*resamples, "-", "-"],
    ]  # fmt: skip
    return format_table([*head, "objective", "llama_scale is"], rows)


def coverage_table(designs: dict[str, dict[str, Any]]) -> str:
    """Return the share of studies whose interval covers the truth, a column for each design."""
    first = next(iter(designs.values()))
    head = [f"covered by 95 % intervals ({first['replicates']:,} studies), %", *designs]
    rows = [
        [name, *(f"{design['covered_percent'][name]:.1f}" for design in designs.values())]
        for name in first["covered_percent"]
    ]
    return format_table(head, rows)


def error_table(designs: dict[str, dict[str, Any]]) -> str:
    """Return the median and the largest absolute error of each parameter."""
    rows = [
        [
            name,
            *(
                f"{design['median_error'][name]:.4f} ({design['largest_error'][name]:.4f})"
                for design in designs.values()
            ),
        ]
        for name in COVERED_PARAMETERS
    ]
    return format_table(["absolute error, median (largest)", *designs], rows)


def fit_with_chinchilla(points: Points) -> Surface:
    """Fit by the ``chinchilla`` package: 72 starts of its BFGS, on one core, our objective.

    Its Huber loss is scaled by delta^2, without which its default tolerance stops far too early.
    """
    from chinchilla import Chinchilla

    def loss_fn(measured: np.ndarray, predicted: np.ndarray) -> np.ndarray:
        residual = np.abs(np.log(measured) - np.log(predicted)) / DELTA
        return np.where(residual < 1, residual**2 / 2, residual - 0.5)

    starts = {"E": [0.5, 1.5], "a": [2.0, 6.0, 10.0], "b": [2.0, 6.0, 10.0], "alpha": [0.3, 0.6], "beta": [0.3, 0.6]}
    with tempfile.TemporaryDirectory() as folder:
        peer = Chinchilla(folder, param_grid=starts, loss_fn=loss_fn, log_level=50)
        for N, D, loss in zip(points.N, points.D, points.loss, strict=True):
            peer.append(N=float(N), D=float(D), loss=float(loss))
        peer.fit(parallel=False)
    return Surface(*(float(getattr(peer, name)) for name in ("E", "A", "alpha", "B", "beta")))
