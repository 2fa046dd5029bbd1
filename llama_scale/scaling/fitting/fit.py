"""Fit a law of the loss, L(N, D), to runs in one of its forms, with intervals, a check and a hold-out.

The objective is the sum over the runs of the Huber loss (delta 1e-3) of log L - log L(N, D), the choice of Hoffmann et
al. 2022 (arXiv 2203.15556). Its sum, not its mean, is minimized to tight tolerance: averaged over the runs it is so
small that common default tolerances stop far from the optimum (Besiroglu et al. 2024, arXiv 2404.10102).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import minimize
from scipy.special import huber

from llama_scale.bootstrap import RESAMPLES, percentile_interval, resample_counts
from llama_scale.errors import InputError
from llama_scale.scaling.fitting.chinchilla import LOWER_EXPONENT, UPPER_EXPONENT, Surface, SurfaceModel
from llama_scale.scaling.fitting.forms import ADDITIVE, Form
from llama_scale.scaling.fitting.points import Points
from llama_scale.scaling.fitting.residuals import LEAST_P, SAME_COUNT, near_values, trends
from llama_scale.scaling.fitting.solver import Problems, minimize_huber

DELTA = 1e-3
STARTS = 72
SAME_OBJECTIVE = 1e-6  # relative
FLOOR = 1e-12  # of an objective that something is divided by
USUAL_EXPONENTS = 0.05, 1.5
SAME_BUDGET = 0.05
EQUAL_LOSS = 1e-9  # relative difference below which losses are one
LEAST_SPREAD = 0.1  # root mean square distance of the runs from a line in ln N and ln D
OUTSIDE = "an exponent lies outside the usual range, so no best size can be given"
UNIDENTIFIED = 10  # high end of an interval over its low end
MISFIT = 4.5  # rms of the residuals in percent that is said
MOST_POOR = 0.2  # of the resamples
FAR, FAR_TIMES, FEW_FAR = 0.05, 15.0, 4  # log residual of a run that is named, also in medians of them; how many
NEAR_BOUND = 1e-6  # of the width of the search
# A and B stand in theta as the terms at the middle of the points.
TERMS = {"A": "the N term at the middle of the points", "B": "the D term at the middle of the points"}
Solver = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Check:
    """The optimum of a second optimizer (SciPy's L-BFGS-B, then Nelder-Mead; no gradient given)."""

    law: Surface
    objective: float
    excess: float
    parameter_difference: float


@dataclass(frozen=True)
class Search:
    """The best theta (k,) of all starts, its objective, and the share of starts that reached it."""

    theta: np.ndarray
    objective: float
    starts: int
    share_at_optimum: float
    check: Check


@dataclass(frozen=True, kw_only=True)
class Fit(Search):
    """A fitted law: its optimum, how it was found, and its bootstrap."""

    points: Points
    form: Form
    delta: float  # where the Huber loss turns from square to straight
    law: Surface
    residual: np.ndarray  # log measured minus log fitted loss, (n,)
    resampled: Surface  # (S,) laws, one a resample of the runs
    seed: int  # of the resamples, and of the residuals that predictions draw
    warnings: list[str]

    @property
    def undetermined(self) -> str | None:
        """Why the runs show no best size, so that none is given; None where they show one.

        They do where N and D vary on their own and both exponents, where one of the two limits, lie where those of
        language models do.
        """
        if line := common_line(self.points.N, self.points.D):
            return f"{line}, so that size and data cannot be told apart and no best size can be given"
        least, most = USUAL_EXPONENTS
        usual = all(least <= self.law.k * x <= most for x in (self.law.alpha, self.law.beta))
        return None if usual else OUTSIDE

    @property
    def determined(self) -> bool:
        """Whether the runs show a best size."""
        return self.undetermined is None

    def predict(self, N: np.ndarray, D: np.ndarray) -> dict[str, np.ndarray]:
        """Return the loss at N, D (n,) with two 95 % intervals: of the law and of one run there.

        ``low``, ``high`` bound the law (bootstrap over the runs). ``run_low``, ``run_high`` bound the loss that a run
        would measure: each resampled law is multiplied by exp(e), e a residual of the fit drawn at random, centered and
        enlarged by sqrt(n / (n - k)) for the k parameters that were fitted to the residuals.
        """
        parameters = len(self.form.parameters)
        return predict(self.law, self.resampled, self.residual, self.seed, N, D, parameters=parameters)


def predict(
    law: Surface,
    resampled: Surface,
    residual: np.ndarray,
    seed: int,
    N: np.ndarray,
    D: np.ndarray,
    parameters: int = len(ADDITIVE.parameters),
) -> dict[str, np.ndarray]:
    """Return what ``Fit.predict`` does, of a law with so many ``parameters``, its resamples (S,) and residuals (n,)."""
    N, D = np.atleast_1d(N), np.atleast_1d(D)
    sample = resampled.loss(N, D)  # (S, n)
    spread = residual - residual.mean()
    spread *= np.sqrt(len(spread) / (len(spread) - parameters))
    noise = np.random.default_rng([seed, 1]).choice(spread, size=sample.shape)
    low, high = percentile_interval(sample)
    run_low, run_high = percentile_interval(sample * np.exp(noise))
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


def objective(law: Surface, points: Points, delta: float = DELTA) -> float:
    """Return the sum over the points of the Huber loss of log measured minus log predicted."""
    return float(huber(delta, np.log(points.loss / law.loss(points.N, points.D))).sum())


def fit_surface(
    points: Points,
    resamples: int = RESAMPLES,
    seed: int = 0,
    starts: int = STARTS,
    form: Form = ADDITIVE,
    delta: float = DELTA,
) -> Fit:
    """Fit a form of the law from so many starts, and to resamples drawn by ``seed``.

    Raises InputError as ``check_design``, and where all losses are equal.
    """
    check_design(points, form)
    if np.ptp(points.loss) <= EQUAL_LOSS * points.loss.max():
        raise InputError(f"{points.file}: all {len(points)} runs have a loss of {points.loss[0]:g}; no law is in them")
    model = form.model(points.N, points.D)
    lower, upper = model.bounds(points.loss)
    target = np.log(points.loss)[None]

    def solve(theta: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        shape = len(theta), len(points)
        weight, targets = np.broadcast_to(weight, shape), np.broadcast_to(target, shape)
        return minimize_huber(model, theta, Problems(targets, weight, lower, upper, delta))[:2]

    search = _search(model, solve, points.loss, starts, delta)
    sample = _bootstrap(solve, search.theta, points.trunks, resamples, seed)
    fit = Fit(
        **vars(search),
        points=points,
        form=form,
        delta=delta,
        law=model.law_of(search.theta),
        residual=target[0] - model.value(search.theta[None])[0],
        resampled=model.law_of(sample),
        seed=seed,
        warnings=[],
    )
    fit.warnings.extend(_fit_warnings(fit, model, sample))
    return fit


def _search(model: SurfaceModel, solve: Solver, loss: np.ndarray, starts: int, delta: float) -> Search:
    """Return the best optimum of many starts; the second optimizer's, polished, where lower."""
    begin = model.starts(loss, starts)  # (S, k)
    thetas, objectives = solve(begin, np.ones(1))
    other, other_objective = _second_optimizer(model, loss, begin, model.bounds(loss), delta)
    if other_objective < objectives.min() * (1 - SAME_OBJECTIVE):
        polished, its_objective = solve(other[None], np.ones(1))
        thetas, objectives = np.append(thetas, polished, axis=0), np.append(objectives, its_objective)
    best, least = thetas[objectives.argmin()], float(objectives.min())
    share = float(np.mean(objectives[: len(begin)] <= least * (1 + SAME_OBJECTIVE) + FLOOR))
    check = Check(
        law=model.law_of(other),
        objective=other_objective,
        excess=(other_objective - least) / max(least, FLOOR),
        parameter_difference=float(np.abs(other - best).max()),
    )
    return Search(best, least, len(begin), share, check)


def hold_out(points: Points, rule: str, resamples: int = RESAMPLES, seed: int = 0, **how: Any) -> HoldOut:
    """Fit without the runs of ``held_out_mask`` and predict them; InputError where that or a fit is impossible.

    ``how`` are the form and the delta of ``fit_surface``.
    """
    out = held_out_mask(points, rule)
    fit = fit_surface(points.select(~out), resamples, seed, **how)
    left_out = points.select(out)
    return HoldOut(fit, left_out, fit.predict(left_out.N, left_out.D))


def try_hold_out(
    points: Points, rule: str, resamples: int = RESAMPLES, seed: int = 0, **how: Any
) -> tuple[HoldOut | None, list[str]]:
    """Return ``hold_out`` and no notes, or None and the reason; a condition that fails raises InputError instead."""
    if rule == "none":
        return None, ["No run was held out, so nothing shows how well the law predicts."]
    try:
        return hold_out(points, rule, resamples, seed, **how), []
    except InputError as error:
        if rule != "largest":
            raise
        return None, [f"No run was held out: without the largest, {error}."]


def held_out_mask(points: Points, rule: str) -> np.ndarray:
    """Return which runs (n,) a rule leaves out, ``largest`` or a condition; InputError where none or all.

    ``largest`` is the whole greatest budget, every run within 5 % of the greatest compute: the others of the same
    budget would tell what it gives, and nothing were extrapolated.
    """
    out = largest_budget(points.compute) if rule == "largest" else points.match(rule)
    if rule == "largest" and out.all():
        raise InputError(
            f"all {len(points)} runs have the greatest compute, within {SAME_BUDGET:.0%}; add other budgets"
        )
    if not out.any() or out.all():
        raise InputError(f"holdout {rule!r} leaves out {out.sum()} of {len(points)} runs; leave out some")
    return out


def largest_budget(compute: np.ndarray) -> np.ndarray:
    """Return which runs (n,) are within 5 % of the greatest compute."""
    return compute * (1 + SAME_BUDGET) >= compute.max()


def check_design(points: Points, form: Form = ADDITIVE) -> None:
    """Raise InputError if a law cannot be fitted: too few runs, sizes or numbers of tokens."""
    n, k = len(points), len(form.parameters)
    if n <= k:
        raise InputError(
            f"{points.file}: {n} runs cannot fit the law's {k} parameters and judge the fit; give at least {k + 1}"
        )
    for name, what in (("N", "model sizes"), ("D", "numbers of tokens")):
        column = getattr(points, name)
        values = [column[group[0]] for group in near_values(column, SAME_COUNT)]
        if len(values) < 3:
            all_values = " and ".join(f"{value:g}" for value in values)
            raise InputError(
                f"{points.file}: all {n} runs have {name} = {all_values}; a constant and an exponent cannot be told "
                f"apart with fewer than 3 {what}: add runs"
            )


def common_line(N: np.ndarray, D: np.ndarray) -> str | None:
    """Return in words the line that all runs (n,) lie on in ln N and ln D, as D = 20 N; None where they lie on none.

    Along a line the two terms of a law are two powers of one quantity, and any other split between them fits as well.
    """
    x, y = (np.log(values) - np.log(values).mean() for values in (N, D))
    across, along = np.linalg.eigh(np.cov(x, y, bias=True))  # variances, the lesser first, and their directions
    if across[0] > LEAST_SPREAD**2:
        return None
    slope = along[1, 1] / along[0, 1]
    factor = math.exp(np.log(D).mean() - slope * np.log(N).mean())
    return f"all {len(N)} runs lie close to one line, D = {factor:.3g} N^{slope:.3g}"


def _second_optimizer(
    model: SurfaceModel, loss: np.ndarray, starts: np.ndarray, bounds: tuple[np.ndarray, np.ndarray], delta: float
) -> tuple[np.ndarray, float]:
    """Return the optimum found by SciPy from two starts with its own functions, no gradient."""
    target, (lower, upper) = np.log(loss), bounds
    free = lower < upper

    def scaled(some: np.ndarray) -> float:
        theta = lower.copy()
        theta[free] = some
        a, alpha, b, beta, e, *rest = theta
        k = np.exp(rest[0]) if rest else 1.0
        # log(e^w + (e^u + e^v)^k) by logaddexp, which takes out the largest first: terms of e^800
        # would be infinite, their log is 800.
        reducible = k * np.logaddexp((a - alpha * model.x) / k, (b - beta * model.y) / k)
        return float(huber(delta, target - np.logaddexp(reducible, e)).sum() / delta**2)

    box = list(zip(lower[free], upper[free], strict=True))
    options = {"maxiter": 2_000, "maxfun": 20_000, "ftol": 1e-15, "gtol": 1e-10}
    begin = starts[len(starts) // 3, free], starts[len(starts) // 2, free]
    runs = [minimize(scaled, theta, method="L-BFGS-B", bounds=box, options=options) for theta in begin]
    best = min(runs, key=lambda run: run.fun)
    options = {"maxfev": 4_000, "xatol": 1e-9, "fatol": 1e-9}
    best = minimize(scaled, best.x, method="Nelder-Mead", bounds=box, options=options)
    theta = lower.copy()
    theta[free] = best.x
    return theta, best.fun * delta**2


def _bootstrap(solve: Solver, best: np.ndarray, trunks: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Refit resamples of the runs, those of one trunk (n,) drawn together; return theta (S, k)."""
    # A run drawn twice has weight 2 in the objective, one not drawn weight 0: the S resamples are S problems on the
    # same n runs, solved side by side, each from the optimum of all runs.
    # Of trunks (0, 0, 1) drawn as [2, 1] times the weights of the runs are [2, 2, 1].
    weight = resample_counts(int(trunks.max()) + 1, resamples, seed).astype(float)[:, trunks]  # (S, n)
    return solve(np.tile(best, (resamples, 1)), weight)[0]


def poor_resamples(points: Points, resamples: int, seed: int) -> float:
    """Return the share of the bootstrap's resamples whose runs have fewer than three sizes or numbers of tokens.

    No law follows from those: the search stays where it began, and their spread is less than the truth's.
    """
    weight = resample_counts(int(points.trunks.max()) + 1, resamples, seed)[:, points.trunks] > 0  # (S, n)
    poor = np.zeros(resamples, dtype=bool)
    for column in (points.N, points.D):
        there = [weight[:, group].any(axis=1) for group in near_values(column, SAME_COUNT)]
        poor |= np.sum(there, axis=0) < 3
    return float(poor.mean())


def _fit_warnings(fit: Fit, model: SurfaceModel, sample: np.ndarray) -> list[str]:
    """Return what a reader of the fit must know, in words; ``sample`` (S, k) is centered theta."""
    warnings, n, k = [], len(fit.points), len(fit.form.parameters)
    if n < 2 * k:
        warnings.append(f"{n} runs for {k} parameters: intervals from so few are rough.")
    share = poor_resamples(fit.points, len(sample), fit.seed)
    if share > MOST_POOR:
        drawn = f"{fit.points.trunks.max() + 1} trunks" if fit.points.shares_trunks else f"the {n} runs"
        warnings.append(
            f"{share:.0%} of the resamples of {drawn} have two sizes or numbers of tokens at most, which many laws "
            "fit: the intervals are far too narrow and miss the truth as often as not. Train more sizes, or other "
            "seeds of them."
        )
    if "E" in fit.form.parameters and 0.01 * fit.points.loss.min() > fit.law.E:
        warnings.append(
            f"E is {fit.law.E:.2g}, below 1 % of the least loss: the points do not show where the loss levels off, so "
            "predictions far beyond them may be too low."
        )
    warnings += _misfit_warnings(fit)
    if line := common_line(fit.points.N, fit.points.D):
        warnings.append(
            f"{line[0].upper()}{line[1:]}: along it nothing tells the part of size from that of data. The law "
            "predicts runs on this line alone, and its parameters mean little: add runs of one size with other tokens."
        )
    warnings += _trend_warnings(fit, model)
    warnings += _bound_warnings(fit, model)
    warnings += _parameter_warnings(fit, model, sample)
    if fit.share_at_optimum < 0.5:
        warnings.append(
            f"Only {fit.share_at_optimum:.0%} of {fit.starts} starts reached the optimum: there "
            "are other minima nearly as good."
        )
    if abs(fit.check.excess) > 1e-4 or fit.check.parameter_difference > 0.05:
        warnings.append(
            f"A second optimizer ends {fit.check.excess:+.1e} (relative) from the objective, its "
            f"parameters up to {fit.check.parameter_difference:.2g} away: the optimum is flat."
        )
    return warnings


def _misfit_warnings(fit: Fit) -> list[str]:
    """Return a warning that names the runs far from a law that the others follow, and one where they follow none."""
    warnings, off = [], np.abs(fit.residual)
    far = np.flatnonzero((off > FAR) & (off > FAR_TIMES * np.median(off)))
    if len(far):
        far = far[np.argsort(-off[far])]
        named = ", ".join(
            f"{fit.points.label(int(i))} by {100 * np.expm1(fit.residual[i]):+.0f} %" for i in far[:FEW_FAR]
        )
        more = f" and {len(far) - FEW_FAR} more" if len(far) > FEW_FAR else ""
        warnings.append(
            f"Far from the law that the others follow within {100 * np.median(off):.2g} % (median): {named}{more}. Did "
            "they diverge? The intervals of one run reckon with such errors; leave the runs out by a condition (where)."
        )
    rest = np.delete(off, far)
    rms = 100 * float(np.sqrt(np.mean(rest**2)))
    if rms > MISFIT:
        worst = int(np.argmax(np.where(np.isin(np.arange(len(off)), far), 0, off)))
        warnings.append(
            f"The law misses its own runs by {rms:.2g} % (rms), the worst ({fit.points.label(worst)}) by "
            f"{100 * off[worst]:.0f} %: they do not follow it. Look for other units or other settings."
        )
    return warnings


def _trend_warnings(fit: Fit, model: SurfaceModel) -> list[str]:
    """Return a warning where the residuals depend on N and D, of their interaction where that shows."""
    _, gradient, _ = model.expand(fit.theta[None])
    found = trends(fit.residual, gradient[0], model.x, model.y)
    interaction, curvature = found.get("interaction"), found.get("curvature")
    if interaction and interaction.p < LEAST_P:
        more, joint = ("more" if interaction.slope < 0 else "less"), "k" in fit.form.parameters
        return [
            f"The residuals have an N x D interaction, up to {interaction.reach:.2g} % of the loss: larger models gain "
            f"{more} from data than the law says{'' if joint else '; the joint form can say so'}."
        ]
    if curvature and curvature.p < LEAST_P:
        return [
            f"The residuals depend on N and D, by up to {curvature.reach:.2g} % of the loss: the law has the wrong "
            "shape here, and errs by more than its intervals say beyond the runs."
        ]
    return []


def _bound_warnings(fit: Fit, model: SurfaceModel) -> list[str]:
    """Return a warning for each parameter that the search could not move on."""
    warnings = []
    for name, value, low, high in zip(model.names, fit.theta, *model.bounds(fit.points.loss), strict=True):
        edge = NEAR_BOUND * (high - low)
        if low < high and not low + edge < value < high - edge:
            side = "lower" if value <= low + edge else "upper"
            warnings.append(
                f"{TERMS.get(name, name)} lies at the {side} bound of the search ({getattr(fit.law, name):.3g}): the "
                "points do not determine it, and a second optimizer has the same bounds."
            )
    return warnings


def _parameter_warnings(fit: Fit, model: SurfaceModel, sample: np.ndarray) -> list[str]:
    """Return a warning for each parameter that is unusual or that the points do not identify."""
    warnings = []
    least, most = USUAL_EXPONENTS
    for i, key in enumerate(model.names):
        if key not in fit.form.parameters:
            continue
        name, is_exponent = TERMS.get(key, key), key in ("alpha", "beta")
        # In theta the exponents of the joint form are k times those of the formula: where one of N and D limits. The
        # other entries are logarithms.
        value = fit.theta[i] if is_exponent else math.exp(fit.theta[i])
        name = f"k {name}" if is_exponent and "k" in fit.form.parameters else name
        a, b = percentile_interval(sample[:, i] if is_exponent else np.exp(sample[:, i]))
        if is_exponent and not least <= value <= most:
            warnings.append(
                f"{name} = {value:.3g} lies outside [{least}, {most}], where those of "
                "language models lie; check the points."
            )
        at_bound = a <= LOWER_EXPONENT * 1.001 or b >= UPPER_EXPONENT * 0.999
        if (is_exponent and at_bound) or b > UNIDENTIFIED * a:
            warnings.append(f"The points do not identify {name}: its interval is {a:.3g} to {b:.3g}.")
    return warnings
