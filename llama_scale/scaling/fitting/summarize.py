"""From a fit to ``FittedLaws``: everything that laws.json says about a study.

It holds no times and no paths, so equal points and settings give an equal file.
"""

import re
from dataclasses import asdict
from typing import Any

import numpy as np

from llama_scale.bootstrap import LEVEL
from llama_scale.scaling.fitting.chinchilla import Flops, fit_flops
from llama_scale.scaling.fitting.conventions import compare_approaches, fit_each_convention, power_laws
from llama_scale.scaling.fitting.downstream import link_record, thresholds
from llama_scale.scaling.fitting.fit import DELTA, PARAMETERS, USUAL_EXPONENTS, Fit, HoldOut
from llama_scale.scaling.fitting.fitted_laws import (
    ApproachExponent,
    Bootstrap,
    Bounds,
    Conventions,
    Curve,
    Estimate,
    FittedLaws,
    FittedRun,
    FittedSurface,
    FlopsFormula,
    Frontier,
    FrontierPoint,
    HeldOutRun,
    HoldOutSummary,
    Objective,
    PointsFile,
    ProfiledEstimate,
    RepeatedTokens,
    Residuals,
    RunEstimate,
    SecondOptimizer,
)
from llama_scale.scaling.fitting.points import NON_EMBEDDING, Points
from llama_scale.scaling.fitting.profile import Profile, profiles
from llama_scale.scaling.fitting.repeats import epochs_vary, fit_repeats

EMBEDDED, HEADED = "embeddings included", "output head included"
NEXT = 10
CURVE = 41
SAMPLE = 400


def summarize(fit: Fit, hold_out: HoldOut | None, notes: list[str] | None = None) -> FittedLaws:
    """Return what laws.json holds of a fit, with the digits that the file keeps.

    Args:
        fit: The law of all points.
        hold_out: The hold-out, or None where there is none.
        notes: Further warnings, such as why there is no hold-out.
    """
    points = fit.points
    flops_counts = _flops_counts(points)
    approaches, repeats = compare_approaches(fit), _repeats(fit)
    levels, links = thresholds(fit, flops_counts[-1])
    profile = profiles(fit)
    warnings = [*points.warnings, *fit.warnings, *(notes or [])]
    warnings += [*_open_profiles(profile), *_disagreeing(approaches.table)]
    if repeats and not repeats.identified:
        warnings.append("The worth of repeated tokens is not identified: the runs give R no end on one side or both.")
    warnings += _holdout_warnings(fit, hold_out) if hold_out else []
    laws = FittedLaws(
        points=PointsFile(
            file=points.file,
            sha256=points.sha256,
            rows=points.n_read,
            fitted=len(points),
            columns=points.columns,
            where=points.where,
        ),
        conventions=_conventions(points),
        model=shared_model(points),
        surface=_surface(fit, profile),
        power=power_laws(fit),
        repeats=repeats,
        side_by_side=fit_each_convention(fit),
        approaches=approaches,
        links={
            column: [link_record(link) for link in of_column]
            for column, of_column in links.items()
            if column != points.columns["loss"]
        },
        thresholds=levels,
        frontier=[_frontier(fit, flops) for flops in flops_counts],
        holdout=_holdout(hold_out) if hold_out else None,
        runs=_runs(fit, hold_out),
        warnings=warnings,
    )
    return laws.rounded()


def _flops_counts(points: Points) -> list[Flops]:
    """Return the ways to count the FLOPs of a token: 6ND, then the file's where it differs."""
    counts = [Flops("6ND")]
    if points.flops is None:
        return counts
    name = f"exact, {points.compute_name}" if points.of_this_project else points.compute_name
    if np.abs(points.flops / (6 * points.N * points.D) - 1).max() > 0.01:
        counts.append(fit_flops(name, points.N, points.D, points.flops))
    return counts


def _holdout_warnings(fit: Fit, hold_out: HoldOut) -> list[str]:
    """Return the warnings of the hold-out's fit that are not the fit's, and of its intervals."""
    known = {_without_numbers(text) for text in fit.warnings}
    warnings = [f"Hold-out fit: {w}" for w in hold_out.fit.warnings if _without_numbers(w) not in known]
    if len(hold_out.points) >= 4 and hold_out.covered.mean() < 0.8:
        warnings.append(
            f"Only {hold_out.covered.sum()} of {len(hold_out.points)} held-out runs lie inside their 95 % interval: "
            "so far beyond the fitted runs the law errs by more than its intervals say."
        )
    return warnings


def _without_numbers(warning: str) -> str:
    return re.sub(r"[-+.\de]*\d", "", warning)


def _conventions(points: Points) -> Conventions:
    """Return what N, D, loss and compute mean in these points, in words."""
    own = points.of_this_project
    column = points.columns["N"]
    sizes = {
        **dict.fromkeys(NON_EMBEDDING, "non-embedding parameters"),
        "n_params": f"all parameters, {EMBEDDED}",
        "n_params_matmul": f"parameters of matrix products, {HEADED}",
    }
    tokens = f"{points.columns['flops']} / 6N" if "D" not in points.columns else None
    unit = " in nats per token" if own and points.columns["loss"] == "loss" else ""
    flops = "6ND, for lack of a column of counted FLOPs"
    if points.flops is not None:
        counted = " exactly, with attention (causal) and output head" if own else " in the file"
        flops = f"{points.compute_name}: training FLOPs as counted{counted}"
    return Conventions(
        model_size=(own and sizes.get(column)) or f"column {column!r}",
        tokens=tokens or f"training tokens, column {points.columns['D']!r}",
        loss=f"column {points.columns['loss']!r}{unit}",
        flops=flops,
    )


def shared_model(points: Points) -> dict[str, Any]:
    """Return what all models of a study's runs have in common beside their size."""
    shared: dict[str, Any] = {}
    if not points.of_this_project:
        return shared
    for name in ("vocab_size", "context_length"):
        values = np.unique(points.numeric(name)) if points.has(name) else []
        if len(values) == 1 and np.isfinite(values[0]):
            shared[name] = int(values[0])
    if points.has("tie_embeddings"):
        tied = points.match("tie_embeddings==true")
        if tied.all() or not tied.any():
            shared["tie_embeddings"] = bool(tied[0])
    return shared


def _repeats(fit: Fit) -> RepeatedTokens | None:
    if not epochs_vary(fit.points) or len(fit.points) < len(PARAMETERS) + 2:
        return None
    repeats = fit_repeats(fit)
    return RepeatedTokens(
        formula="D' = U + U R (1 - exp(-(epochs - 1) / R)), U = D / epochs",
        R=repeats.R,
        low=repeats.low,
        high=repeats.high,
        identified=repeats.identified,
        parameters=asdict(repeats.law),
        objective=repeats.objective,
    )


def _open_profiles(profile: dict[str, Profile]) -> list[str]:
    """Return a warning for each parameter whose profile has no end on a side."""
    warnings = []
    for name, ends in profile.items():
        sides = [word for word, end in (("below", ends.low), ("above", ends.high)) if end is None]
        if sides:
            warnings.append(f"The profile of {name} is flat: the points do not bound it {' or '.join(sides)}.")
    return warnings


def _disagreeing(table: list[ApproachExponent]) -> list[str]:
    """Return a warning for each approach whose interval lies clear of the surface's."""
    warnings = []
    surface = {row.compute: row.exponent for row in table if row.approach[0] == "3"}
    for row in table:
        own, other = row.exponent, surface[row.compute]
        if own and other and (own.high < other.low or own.low > other.high):
            warnings.append(
                f"Approach {row.approach} gives the exponent of the optimal size as {own.value:.3f} (C = "
                f"{row.compute}), clear of the surface's {other.value:.3f}: the exponent is not settled."
            )
    return warnings


def _surface(fit: Fit, profile: dict[str, Profile]) -> FittedSurface:
    parameters = {}
    for name in PARAMETERS:
        ends = Estimate.of(getattr(fit.law, name), getattr(fit.resampled, name))
        bounds = Bounds(profile[name].low, profile[name].high)
        parameters[name] = ProfiledEstimate(**vars(ends), profile=bounds)
    return FittedSurface(
        formula="L(N, D) = E + A N^-alpha + B D^-beta",
        parameters=parameters,
        sample={name: getattr(fit.resampled, name)[:SAMPLE].tolist() for name in PARAMETERS},
        objective=Objective(f"sum of Huber({DELTA}) of log loss", fit.objective),
        starts=fit.starts,
        share_of_starts_at_optimum=fit.share_at_optimum,
        second_optimizer=SecondOptimizer(
            kind="SciPy L-BFGS-B then Nelder-Mead, no gradient",
            objective=fit.check.objective,
            relative_excess=fit.check.excess,
            parameters=asdict(fit.check.law),
        ),
        bootstrap=Bootstrap(
            kind="runs resampled with replacement, percentiles",
            resamples=len(fit.resampled.E),
            seed=fit.seed,
            level=round(100 * LEVEL),
        ),
        residual_percent=Residuals(
            rms=100 * np.sqrt(np.mean(fit.residual**2)),
            median_absolute=100 * np.median(np.abs(fit.residual)),
            largest=100 * np.abs(fit.residual).max(),
        ),
    )


def _frontier(fit: Fit, flops: Flops) -> Frontier:
    """Return the compute-optimal sizes from the least compute fitted to ten times the greatest."""
    points = fit.points
    compute = 6 * points.N * points.D if flops.name == "6ND" else points.compute
    top = compute.max()
    # The curve, and behind it two points on which the numbers stand: the largest run's compute
    # (index -2) and ten times that (index -1).
    C = np.append(np.geomspace(compute.min(), NEXT * top, CURVE), [top, NEXT * top])
    N, D = fit.law.optimum(C, flops)
    sample_N, sample_D = fit.resampled.optimum(C, flops)  # (S, n)
    curves = {
        "N": Curve.of(N, sample_N),
        "D": Curve.of(D, sample_D),
        "loss": Curve.of(fit.law.loss(N, D), fit.resampled.loss(sample_N, sample_D)),
    }

    def exponent(sizes: np.ndarray) -> np.ndarray:
        return np.log(sizes[..., -1] / sizes[..., -2]) / np.log(NEXT)

    def point(index: int, factor: int) -> FrontierPoint:
        run = fit.predict(N[index], D[index])
        ends = {name: float(run[name][0]) for name in ("run_low", "run_high")}
        return FrontierPoint(
            C=float(C[index]),
            N=curves["N"].at(index),
            D=curves["D"].at(index),
            loss=RunEstimate(**vars(curves["loss"].at(index)), **ends),
            factor=factor,
        )

    least, most = USUAL_EXPONENTS
    return Frontier(
        convention=flops.name,
        determined=all(least <= x <= most for x in (fit.law.alpha, fit.law.beta)),
        flops_per_token=flops.formula(),
        flops=FlopsFormula(flops.c, flops.g, flops.power),
        largest_deviation=flops.error,
        exponent=Estimate.of(exponent(N), exponent(sample_N)),
        C=C[:CURVE].tolist(),
        **{name: curve.first(CURVE) for name, curve in curves.items()},
        largest=point(-2, factor=1),
        next=point(-1, factor=NEXT),
    )


def _holdout(hold_out: HoldOut) -> HoldOutSummary:
    points, level = hold_out.points, round(100 * LEVEL)
    runs = [
        HeldOutRun(
            run=points.label(i),
            model_size=points.N[i],
            tokens=points.D[i],
            flops=points.compute[i],
            measured=points.loss[i],
            predicted=hold_out.predicted["value"][i],
            low=hold_out.predicted["run_low"][i],
            high=hold_out.predicted["run_high"][i],
            error_percent=100 * hold_out.error[i],
            covered=hold_out.covered[i],
        )
        for i in range(len(points))
    ]
    return HoldOutSummary(
        fitted_runs=len(hold_out.fit.points),
        compute_factor=hold_out.factor,
        interval=f"{level} % for one run: bootstrap of the law times a residual drawn at random",
        parameters=asdict(hold_out.fit.law),
        runs=runs,
        median_absolute_error_percent=100 * np.median(np.abs(hold_out.error)),
        covered=hold_out.covered.sum(),
    )


def _runs(fit: Fit, hold_out: HoldOut | None) -> list[FittedRun]:
    points = fit.points
    held_out = set() if hold_out is None else set(hold_out.points.row_numbers.tolist())
    fitted = fit.law.loss(points.N, points.D)
    return [
        FittedRun(
            run=points.label(i),
            row=points.row_numbers[i],
            model_size=points.N[i],
            tokens=points.D[i],
            flops=points.compute[i],
            loss=points.loss[i],
            fitted=fitted[i],
            residual_percent=100 * (points.loss[i] / fitted[i] - 1),
            held_out=int(points.row_numbers[i]) in held_out,
        )
        for i in range(len(points))
    ]
