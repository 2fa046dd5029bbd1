"""Measurements of the scaling fit: its time beside a peer, the coverage of its intervals."""

import tempfile
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from benchmarks.tables import format_ratio, format_table
from benchmarks.timing import least_seconds, time_call
from llama_scale.bootstrap import percentile_interval
from llama_scale.errors import at_least_0, check_fields
from llama_scale.files import append_jsonl, read_jsonl
from llama_scale.scaling.fitting.chinchilla import BESIROGLU, Surface
from llama_scale.scaling.fitting.fit import DELTA, Fit, fit_surface, objective
from llama_scale.scaling.fitting.points import Points, parse_columns, read_points
from llama_scale.scaling.fitting.profile import profiles
from llama_scale.scaling.fitting.stated_law import form_of

COVERED_PARAMETERS = "alpha", "beta", "E", "k"
# Laws of the joint form: of large models, and of models of 10k to 1M parameters on Python.
LARGE = Surface(E=1.22, A=3355.0, alpha=0.408, B=18186.0, beta=0.431, k=0.452)
SMALL = Surface(E=0.6, A=300.0, alpha=0.5, B=900.0, beta=0.45, k=0.45)
SMALL_SIZES, SMALL_TOKENS = (13e3, 28e3, 67e3, 167e3), (0.5e6, 1e6, 2e6, 4e6)


@dataclass(frozen=True)
class Design:
    """A synthetic study: so many runs of a law with Gaussian log noise, some of it shared by the branches of a trunk.

    Attributes:
        runs: Runs, drawn as ``synthetic_points`` does; of a study of trunks their number follows.
        noise: Standard deviation of log loss of each run.
        law: The truth.
        trunk_noise: That of each trunk, all whose branches err by it; above 0 the study is 4 sizes by 4 budgets, two
            seeds of all but the largest size.
    """

    runs: int
    noise: float
    law: Surface = BESIROGLU
    trunk_noise: float = 0.0

    def points(self, seed: int) -> Points:
        """Return the study of a seed."""
        if self.trunk_noise:
            return trunk_points(self, seed)
        return synthetic_points(self.runs, self.noise, seed, self.law)

    @property
    def spread(self) -> float:
        """Standard deviation of the log loss of a new run."""
        return float(np.hypot(self.noise, self.trunk_noise))


DESIGNS = {
    "240 runs, .2 %": Design(240, 0.002),
    "48 runs, .5 %": Design(48, 0.005),
    "18 runs, .2 %": Design(18, 0.002),
    "joint, 240 runs, .2 %": Design(240, 0.002, LARGE),
    "joint, 48 runs, .5 %": Design(48, 0.005, LARGE),
    "joint, 7 trunks of 4, 1 % and .3 %": Design(28, 0.003, SMALL, 0.01),
}


@dataclass(frozen=True)
class FitBenchmark:
    """Speed of the scaling fit, beside the chinchilla package where it is installed.

    Args:
        points: CSV file to fit; null is 240 synthetic runs.
        columns: The file's own names, as N=n_params,D=tokens,loss=val_loss.
        where: Rows to keep, as N>5e7.
        coverage: Synthetic studies for the coverage of the intervals; 0 leaves it out.
        designs: Designs to take, by the beginning of their names, separated by semicolons; null is all.
        rows: JSON lines that keep each study's outcome, so that the same command goes on where it was stopped.
        out: JSON file for the measurements.
    """

    points: str | None = None
    columns: str | None = None
    where: str | None = None
    coverage: int = 0
    designs: str | None = None
    rows: str | None = None
    out: str | None = None

    def __post_init__(self) -> None:
        check_fields(self, "at least 0", at_least_0, "coverage")


def run(config: FitBenchmark) -> dict[str, Any]:
    """Return ``speed``, ``peer`` and, where asked for, ``coverage``, of each of ``DESIGNS``."""
    if config.points:
        points = read_points(config.points, parse_columns(config.columns), config.where)
    else:
        points = DESIGNS["240 runs, .2 %"].points(seed=0)
    result = {"speed": time_fit(points), "peer": compare_with_chinchilla(points)}
    if config.coverage:
        wanted = tuple(part.strip() for part in (config.designs or "").split(";"))
        rows = Path(config.rows) if config.rows else None
        result["coverage"] = {
            name: coverage(name, design, config.coverage, rows=rows)
            for name, design in DESIGNS.items()
            if name.startswith(wanted)
        }
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


def trunk_points(design: Design, seed: int) -> Points:
    """Return the branches of trunks: 4 sizes by 4 budgets, two seeds of all but the largest size (28 runs)."""
    rng = np.random.default_rng(seed)
    seeds = {size: range(2 if size < SMALL_SIZES[-1] else 1) for size in SMALL_SIZES}
    cells = [(N, D, f"{N:g}-{s}") for N in SMALL_SIZES for s in seeds[N] for D in SMALL_TOKENS]
    N, D = (np.array([cell[i] for cell in cells], dtype=float) for i in (0, 1))
    trunks = [cell[2] for cell in cells]
    shared = {trunk: design.trunk_noise * rng.standard_normal() for trunk in dict.fromkeys(trunks)}
    noise = np.array([shared[trunk] for trunk in trunks]) + design.noise * rng.standard_normal(len(N))
    loss, names = design.law.loss(N, D) * np.exp(noise), {"N": "N", "D": "D", "loss": "loss"}
    rows = [{"trunk": trunk} for trunk in trunks]
    return Points(N, D, loss, None, rows, np.arange(1, len(N) + 1), "synthetic", "", len(N), names)


def coverage(
    name: str, design: Design, replicates: int = 500, resamples: int = 400, rows: Path | None = None
) -> dict[str, Any]:
    """Return how often the 95 % intervals cover the truth, in percent, and the errors made.

    ``loss at 10x`` is the loss of the compute-optimal model at ten times the largest run (of trunks: the largest size
    on twice its tokens), where ``one run at 10x`` is one noisy run there and the interval that of one run. Each study's
    outcome is a line of the file ``rows``, and is taken from there where it has been made already.
    """
    fields = ("design", "seed", "covered", "errors", "half_width_percent")
    found = read_jsonl(rows, required=fields) if rows and rows.exists() else []
    known = {(str(row["design"]), str(row["seed"])): row for row in found}
    outcomes = []
    for seed in tqdm(range(replicates), desc=name, disable=None):
        key = name, str(seed)
        if key not in known:
            known[key] = {"design": name, "seed": seed} | outcome(design, seed, resamples)
            if rows:
                append_jsonl(rows, [known[key]])
        outcomes.append(known[key])
    covered = {key: [row["covered"][key] for row in outcomes] for key in outcomes[0]["covered"]}
    errors = {key: [row["errors"][key] for row in outcomes] for key in outcomes[0]["errors"]}
    return {
        "runs": design.runs,
        "noise_percent": 100 * design.spread,
        "replicates": replicates,
        "covered_percent": {key: float(100 * np.mean(values)) for key, values in covered.items()},
        "median_error": {key: float(np.median(values)) for key, values in errors.items()},
        "largest_error": {key: float(np.max(values)) for key, values in errors.items()},
        "half_width_percent": float(np.median([row["half_width_percent"] for row in outcomes])),
    }


def outcome(design: Design, seed: int, resamples: int) -> dict[str, Any]:
    """Return what the intervals of one study cover and by how much its parameters err."""
    fit = fit_surface(design.points(seed), resamples, seed, starts=16, form=form_of(design.law))
    losses, half_width = losses_covered(fit, design, seed)
    parameters = [name for name in COVERED_PARAMETERS if name in fit.form.parameters]
    return {
        "covered": parameters_covered(fit, design.law) | losses,
        "errors": {name: abs(float(getattr(fit.law, name) - getattr(design.law, name))) for name in parameters},
        "half_width_percent": half_width,
    }


def parameters_covered(fit: Fit, law: Surface) -> dict[str, bool]:
    """Say of each parameter and kind of interval whether the true value lies in it."""
    profile = profiles(fit)
    covers = {}
    for name in (name for name in COVERED_PARAMETERS if name in fit.form.parameters):
        truth = getattr(law, name)
        low, high = percentile_interval(getattr(fit.resampled, name))
        covers[f"{name}, bootstrap"] = bool(low <= truth <= high)
        low, high = profile[name].low or -np.inf, profile[name].high or np.inf
        covers[f"{name}, profile"] = bool(low <= truth <= high)
    return covers


def losses_covered(fit: Fit, design: Design, seed: int) -> tuple[dict[str, bool], float]:
    """Say whether the intervals beyond the runs hold the true loss and a run's, and half the latter's width in percent.

    That is at ten times the largest run, 20 tokens a parameter; of trunks the largest size on twice its tokens.
    """
    if design.trunk_noise:
        N, D = np.array([SMALL_SIZES[-1]]), np.array([2 * SMALL_TOKENS[-1]])
    else:
        C = 10 * fit.points.compute.max()
        N = np.array([np.sqrt(C / 6 / 20)])
        D = C / 6 / N
    predicted, truth = fit.predict(N, D), design.law.loss(N, D)[0]
    run = truth * np.exp(design.spread * np.random.default_rng([seed, 7]).standard_normal())
    low, high = predicted["run_low"][0], predicted["run_high"][0]
    covers = {
        "loss at 10x, bootstrap": bool(predicted["low"][0] <= truth <= predicted["high"][0]),
        "one run at 10x": bool(low <= run <= high),
    }
    return covers, float(50 * (high - low) / truth)


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
    names = list(dict.fromkeys(name for design in designs.values() for name in design["covered_percent"]))
    rows = [[name, *(_cell(design["covered_percent"], name, ".1f") for design in designs.values())] for name in names]
    return format_table(head, rows)


def error_table(designs: dict[str, dict[str, Any]]) -> str:
    """Return the median and the largest absolute error of each parameter."""
    rows = [
        [
            name,
            *(
                f"{_cell(design['median_error'], name, '.4f')} ({_cell(design['largest_error'], name, '.4f')})"
                for design in designs.values()
            ),
        ]
        for name in COVERED_PARAMETERS
        if any(name in design["median_error"] for design in designs.values())
    ]
    return format_table(["absolute error, median (largest)", *designs], rows)


def _cell(values: dict[str, float], name: str, show: str) -> str:
    return f"{values[name]:{show}}" if name in values else "-"


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
