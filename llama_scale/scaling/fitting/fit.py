"""Fit L(N, D) = E + A N^-alpha + B D^-beta to runs, with intervals, a check and a hold-out.

The objective is the sum over the runs of the Huber loss (delta 1e-3) of log L - log L(N, D), the
choice of Hoffmann et al. 2022 (arXiv 2203.15556). Its sum, not its mean, is minimised to tight
tolerance: averaged over the runs it is so small that common default tolerances stop far from the
optimum (Besiroglu et al. 2024, arXiv 2404.10102).
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from scipy.optimize import minimize
from scipy.special import huber

from llama_scale.errors import InputError
from llama_scale.scaling.fitting.chinchilla import (
    LOWER_EXPONENT,
    UPPER_EXPONENT,
    Surface,
    SurfaceModel,
)
from llama_scale.scaling.fitting.points import Points
from llama_scale.scaling.fitting.solver import Problems, minimise

DELTA = 1e-3
STARTS = 72
SAME = 1e-6
FLOOR = 1e-12
USUAL = 0.05, 1.5
RESAMPLES = 2_000
LEVEL = 95
PARAMETERS = tuple(field.name for field in fields(Surface))
Solver = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Check:
    """The optimum of a second optimiser (SciPy's L-BFGS-B, then Nelder-Mead; no gradient given)."""

    law: Surface
    objective: float
    excess: float
    parameter_difference: float


@dataclass(frozen=True)
class Fit:
    """A fitted law: its optimum, how it was found, and its bootstrap.

    ``residual`` (n,) is log measured minus log fitted loss; ``resampled`` holds (S,) laws, one a
    resample of the runs; ``noise`` is the seed of the residuals drawn for predictions.
    """

    points: Points
    law: Surface
    objective: float
    starts: int
    at_optimum: float
    check: Check
    residual: np.ndarray
    resampled: Surface
    seed: int
    warnings: list[str]

    def predict(self, N: np.ndarray, D: np.ndarray) -> dict[str, np.ndarray]:
        """Return the loss at N, D (n,) with two 95 % intervals: of the law and of one run there.

        ``low``, ``high`` bound the law (bootstrap over the runs). ``run_low``, ``run_high``
        bound the loss that a run would measure: each resampled law is multiplied by exp(e), e a
        residual of the fit drawn at random, centred and enlarged by sqrt(n / (n - 5)) for the
        five parameters that were fitted to the residuals.
        """
        return predict(self.law, self.resampled, self.residual, self.seed, N, D)


def predict(
    law: Surface,
    resampled: Surface,
    residual: np.ndarray,
    seed: int,
    N: np.ndarray,
    D: np.ndarray,
) -> dict[str, np.ndarray]:
    """Return what ``Fit.predict`` does, of a law, its resamples (S,) and its residuals (n,)."""
    N, D = np.atleast_1d(N), np.atleast_1d(D)
    sample = resampled.loss(N, D)  # (S, n)
    spread = residual - residual.mean()
    spread *= np.sqrt(len(spread) / (len(spread) - len(PARAMETERS)))
    noise = np.random.default_rng([seed, 1]).choice(spread, size=sample.shape)
    low, high = interval(sample)
    run_low, run_high = interval(sample * np.exp(noise))
    value = law.loss(N, D)
    return {"value": value, "low": low, "high": high, "run_low": run_low, "run_high": run_high}


@dataclass(frozen=True)
class HoldOut:
    """Runs left out of a fit and predicted by it; ``predicted`` is as ``Fit.predict`` returns."""

    fit: Fit
    points: Points
    predicted: dict[str, np.ndarray]

    @property
    def error(self) -> np.ndarray:
        """Signed relative error (n,): predicted over measured loss, minus 1."""
        return self.predicted["value"] / self.points.loss - 1

    @property
    def covered(self) -> np.ndarray:
        """Whether the 95 % interval of a run contains the measured loss, bool (n,)."""
        low, high = self.predicted["run_low"], self.predicted["run_high"]
        return (low <= self.points.loss) & (self.points.loss <= high)

    @property
    def factor(self) -> float:
        """Largest compute predicted over largest compute fitted."""
        return float(self.points.compute.max() / self.fit.points.compute.max())


def interval(sample: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the 95 % percentile interval over the first axis."""
    tail = (100 - LEVEL) / 2
    return tuple(np.percentile(sample, [tail, 100 - tail], axis=0))


def estimate(value: float | np.ndarray, sample: np.ndarray) -> dict[str, Any]:
    """Return a value () or (n,) with the ends of its interval from a sample (S,) or (S, n)."""
    low, high = interval(sample)
    return {"value": value, "low": low, "high": high}


def objective(law: Surface, points: Points) -> float:
    """Return the sum over the points of the Huber loss of log measured minus log predicted."""
    return float(huber(DELTA, np.log(points.loss / law.loss(points.N, points.D))).sum())


def fit_surface(
    points: Points, resamples: int = RESAMPLES, seed: int = 0, starts: int = STARTS
) -> Fit:
    """Fit the law to ``points``.

    Args:
        points: The runs.
        resamples: Number of bootstrap resamples of the runs (with replacement).
        seed: Seed of the resampling.
        starts: Number of starts of the search.

    Raises:
        InputError: Too few runs for five parameters, sizes or numbers of tokens.
    """
    check_design(points)
    model = SurfaceModel(points.N, points.D)
    lower, upper = model.bounds(points.loss)
    target = np.log(points.loss)[None]

    def solve(theta: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        shape = len(theta), len(points)
        weight, targets = np.broadcast_to(weight, shape), np.broadcast_to(target, shape)
        return minimise(model, theta, Problems(targets, weight, lower, upper, DELTA))[:2]

    begin = model.starts(points.loss, starts)
    thetas, objectives = solve(begin, np.ones(1))
    other, found = _second_optimiser(model, points.loss, begin, (lower, upper))
    if found < objectives.min() * (1 - SAME):
        polished = solve(other[None], np.ones(1))
        thetas, objectives = (
            np.concatenate(p) for p in zip((thetas, objectives), polished, strict=True)
        )
    best, least = thetas[objectives.argmin()], float(objectives.min())
    at_optimum = float(np.mean(objectives[: len(begin)] <= least * (1 + SAME)))
    excess, apart = (found - least) / max(least, FLOOR), float(np.abs(other - best).max())
    check = Check(model.natural(other), found, excess, apart)
    sample = _bootstrap(solve, best, len(points), resamples, seed)
    fit = Fit(
        points,
        model.natural(best),
        least,
        len(begin),
        at_optimum,
        check,
        target[0] - model.value(best[None])[0],
        model.natural(sample),
        seed,
        [],
    )
    fit.warnings.extend(_diagnose(fit, sample))
    return fit


def hold_out(points: Points, rule: str, resamples: int = RESAMPLES, seed: int = 0) -> HoldOut:
    """Fit without the held-out runs and predict them.

    Args:
        points: The runs.
        rule: ``largest`` (the run or runs of greatest compute) or a condition on the rows left
            out, such as ``flops>=1e20`` (see ``Points.match``).
        resamples: Number of bootstrap resamples.
        seed: Seed of the resampling.

    Raises:
        InputError: The rule leaves out nothing, or what is left cannot be fitted.
    """
    out = held_out(points, rule)
    fit = fit_surface(points.select(~out), resamples, seed)
    held = points.select(out)
    return HoldOut(fit, held, fit.predict(held.N, held.D))


def try_hold_out(
    points: Points, rule: str, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[HoldOut | None, list[str]]:
    """Return ``hold_out`` and no notes, or None and the reason in words.

    Only the rules ``largest`` and ``none`` may fail to leave a fit; a condition that was asked
    for raises InputError instead.
    """
    if rule == "none":
        return None, ["No run was held out, so nothing shows how well the law predicts."]
    try:
        return hold_out(points, rule, resamples, seed), []
    except InputError as error:
        if rule != "largest":
            raise
        return None, [f"No run was held out: without the largest, {error}."]


def held_out(points: Points, rule: str) -> np.ndarray:
    """Return the mask (n,) of the runs that a rule of ``hold_out`` leaves out."""
    if rule == "largest":
        out = points.compute >= points.compute.max() * (1 - 1e-6)
    else:
        out = points.match(rule)
    if not out.any() or out.all():
        raise InputError(
            f"--holdout {rule!r} leaves out {out.sum()} of {len(points)} runs; leave out some"
        )
    return out


def check_design(points: Points) -> None:
    """Raise InputError if a law cannot be fitted: too few runs, sizes or numbers of tokens."""
    need = len(PARAMETERS) + 1
    if len(points) < need:
        raise InputError(
            f"{points.file}: {len(points)} runs cannot fit the law's {len(PARAMETERS)} parameters "
            f"and judge the fit; give at least {need}"
        )
    for name, what in (("N", "model sizes"), ("D", "numbers of tokens")):
        values = np.unique(getattr(points, name))
        if len(values) < 3:
            found = " and ".join(f"{value:g}" for value in values)
            raise InputError(
                f"{points.file}: all {len(points)} runs have {name} = {found}; a constant and an "
                f"exponent cannot be told apart with fewer than 3 {what}: add runs"
            )


def _second_optimiser(
    model: SurfaceModel, loss: np.ndarray, starts: np.ndarray, bounds: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, float]:
    """Return the optimum found by SciPy from two starts with its own functions, no gradient."""
    target = np.log(loss)

    def scaled(theta: np.ndarray) -> float:
        a, alpha, b, beta, e = theta
        log_loss = np.logaddexp(np.logaddexp(a - alpha * model.x, b - beta * model.y), e)
        return float(huber(DELTA, target - log_loss).sum() / DELTA**2)

    box = list(zip(*bounds, strict=True))
    runs = [
        minimize(
            scaled,
            starts[i],
            method="L-BFGS-B",
            bounds=box,
            options={"maxiter": 2_000, "maxfun": 20_000, "ftol": 1e-15, "gtol": 1e-10},
        )
        for i in (len(starts) // 3, len(starts) // 2)
    ]
    best = min(runs, key=lambda run: run.fun)
    best = minimize(
        scaled,
        best.x,
        method="Nelder-Mead",
        bounds=box,
        options={"maxfev": 4_000, "xatol": 1e-9, "fatol": 1e-9},
    )
    return best.x, best.fun * DELTA**2


def _bootstrap(solve: Solver, best: np.ndarray, n: int, resamples: int, seed: int) -> np.ndarray:
    """Refit resamples of the runs; return theta (S, 5).

    Each starts from the optimum of all runs, then again from the solution of its neighbour, which
    lies as far from the optimum as its own does.
    """
    counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples)
    weight = counts.astype(float)  # (S, n)
    first, low = solve(np.tile(best, (resamples, 1)), weight)
    second, high = solve(np.roll(first, 1, axis=0), weight)
    return np.where((low <= high)[:, None], first, second)


def _diagnose(fit: Fit, sample: np.ndarray) -> list[str]:
    """Return what a reader of the fit must know, in words; ``sample`` (S, 5) is centred theta."""
    found, law, points = [], fit.law, fit.points
    if len(points) < 10:
        found.append(
            f"{len(points)} runs for {len(PARAMETERS)} parameters: intervals from so few are rough."
        )
    if 0.01 * points.loss.min() > law.E:
        found.append(
            f"E is {law.E:.2g}, almost 0: the points do not show where the loss levels off, so "
            "predictions far beyond them are too low."
        )
    names = (
        "the N term at the middle of the points",
        "alpha",
        "the D term at the middle of the points",
        "beta",
        "E",
    )
    low, high = interval(sample)
    for i, name in enumerate(names):
        exponent = name in ("alpha", "beta")
        a, b = (low[i], high[i]) if exponent else np.exp((low[i], high[i]))
        edge = exponent and (a <= LOWER_EXPONENT * 1.001 or b >= UPPER_EXPONENT * 0.999)
        value = getattr(law, name) if exponent else None
        if exponent and not USUAL[0] <= value <= USUAL[1]:
            found.append(
                f"{name} = {value:.3g} lies outside [{USUAL[0]}, {USUAL[1]}], where those of "
                "language models lie; check the points."
            )
        if edge or b > 10 * a:
            found.append(f"The points do not identify {name}: its interval is {a:.3g} to {b:.3g}.")
    if fit.at_optimum < 0.5:
        found.append(
            f"Only {fit.at_optimum:.0%} of {fit.starts} starts reached the optimum: there are "
            "other minima nearly as good."
        )
    if abs(fit.check.excess) > 1e-4 or fit.check.parameter_difference > 0.05:
        found.append(
            f"A second optimiser ends {fit.check.excess:+.1e} (relative) from the objective, its "
            f"parameters up to {fit.check.parameter_difference:.2g} away: the optimum is flat."
        )
    return found
