"""From a fit to ``FittedLaws``: everything that laws.json says about a study.

It holds no times and no paths, so equal points and settings give an equal file.
"""

import re
from dataclasses import asdict
from typing import Any, TypeVar

import numpy as np

from llama_scale.bootstrap import LEVEL
from llama_scale.scaling.fitting import fitted_laws as records
from llama_scale.scaling.fitting.chinchilla import Flops, Surface, fit_flops
from llama_scale.scaling.fitting.fit import Fit, HoldOut
from llama_scale.scaling.fitting.fitted_laws import Curve, Estimate, FittedLaws
from llama_scale.scaling.fitting.points import NON_EMBEDDING, Points
from llama_scale.scaling.fitting.profile import Profile, profiles
from llama_scale.scaling.fitting.residuals import seed_noise
from llama_scale.scaling.fitting.results.conventions import compare_approaches, fit_each_convention, power_laws
from llama_scale.scaling.fitting.results.downstream import link_record, thresholds
from llama_scale.scaling.fitting.results.repeats import epochs_vary, fit_repeats

T = TypeVar("T")
EMBEDDED, HEADED = "embeddings included", "output head included"
NEXT = 10
CLEARLY_LESS = 0.9  # of an objective
MOST_FLOPS_ERROR = 0.25  # of the FLOPs of a token as a function of size, relative
CURVE = 41
SAMPLE = 2_000  # resampled laws kept at most: by default all, so that a forecast has the interval of the hold-out


def summarize(
    fit: Fit, hold_out: HoldOut | None, notes: list[str] | None = None, forms: records.FormChoice | None = None
) -> FittedLaws:
    """Return what laws.json holds of a fit, with the digits that it keeps; ``notes`` are further warnings."""
    points, repeats = fit.points, None
    apart = points.select(~points.copies)
    if epochs_vary(points) and len(points) > len(fit.form.parameters) + 1:
        repeats = fit_repeats(fit)
    flops_counts, approaches = _flops_counts(points), compare_approaches(fit)
    levels, links = thresholds(fit, flops_counts[-1])
    profile = profiles(fit)
    warnings = [*points.warnings, *fit.warnings, *(notes or [])]
    if points.shares_trunks:
        trunks = points.trunks.max() + 1
        warnings.append(
            f"The {len(points)} runs are branches of {trunks} trunks (or alone), and branches of one err together: "
            "intervals are drawn by trunk; profiles take all runs for independent and are too narrow."
        )
    warnings += [*_open_profiles(profile), *_disagreeing(approaches.table), *_rough_flops(flops_counts)]
    warnings += _repeats_matter(fit, repeats) if repeats and repeats.identified else []
    if repeats and not repeats.identified:
        profile_ends, drawn = (_ends_text(ends) for ends in (repeats, repeats.bootstrap))
        warnings.append(
            f"The worth of repeated tokens is not identified: R = {repeats.R:.3g}, by its profile {profile_ends}, by "
            f"the bootstrap {drawn}."
        )
    warnings += _holdout_warnings(fit, hold_out) if hold_out else []
    source = {name: getattr(points, name) for name in ("file", "sha256", "columns", "where")}
    laws = FittedLaws(
        points=records.PointsFile(**source, rows=points.n_read, fitted=len(points)),
        conventions=conventions_of(points),
        model=shared_model(points),
        surface=_surface(fit, profile),
        power=power_laws(fit),
        repeats=repeats,
        side_by_side=fit_each_convention(fit),
        approaches=approaches,
        links={name: list(map(link_record, links[name])) for name in links if name != points.columns["loss"]},
        thresholds=levels,
        frontier=[_frontier(fit, flops) for flops in flops_counts],
        holdout=_holdout(hold_out) if hold_out else None,
        runs=_runs(fit, hold_out),
        warnings=warnings,
        forms=forms,
        noise=seed_noise(apart.N, apart.D, apart.loss, apart.trunks, apart.settings),
    )
    return FittedLaws.from_dict(laws.to_dict())


def _flops_counts(points: Points) -> list[Flops]:
    """Return the ways to count the FLOPs of a token: 6ND, then the file's where it differs."""
    counts = [Flops("6ND")]
    if np.abs(points.compute / (6 * points.N * points.D) - 1).max() > 0.01:
        name = f"exact, {points.compute_name}" if points.of_this_project else points.compute_name
        counts.append(fit_flops(name, points.N, points.D, points.compute))
    return counts


def _holdout_warnings(fit: Fit, hold_out: HoldOut) -> list[str]:
    """Return the warnings of the hold-out's fit that are not the fit's, and of its intervals."""

    def words(warning: str) -> str:
        return re.sub(r"[-+.\de]*\d", "", warning)

    known = set(map(words, fit.warnings))
    warnings = [f"Hold-out fit: {text}" for text in hold_out.fit.warnings if words(text) not in known]
    if len(hold_out.points) >= 4 and hold_out.covered.mean() < 0.8:
        warnings.append(
            f"Only {hold_out.covered.sum()} of {len(hold_out.points)} held-out runs lie inside their 95 % interval: "
            "so far beyond the fitted runs the law errs by more than its intervals say."
        )
    return warnings


def conventions_of(points: Points) -> records.Conventions:
    """Return what N, D, loss and compute mean in these points, in words."""
    own, column = points.of_this_project, points.columns["N"]
    sizes = {
        **dict.fromkeys(NON_EMBEDDING, "non-embedding parameters"),
        "n_params": f"all parameters, {EMBEDDED}",
        "n_params_matmul": f"parameters of matrix products, {HEADED}",
    }
    tokens = f"training tokens, column {points.columns['D']!r}" if "D" in points.columns else ""
    unit = " in nats per token" if own and points.columns["loss"] == "loss" else ""
    flops = "6ND, for lack of a column of counted FLOPs"
    if points.flops is not None:
        counted = " exactly, with attention (causal) and output head" if own else " in the file"
        flops = f"{points.compute_name}: training FLOPs as counted{counted}"
    return records.Conventions(
        model_size=(own and sizes.get(column)) or f"column {column!r}",
        tokens=tokens or f"{points.columns['flops']} / 6N",
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


def _ends_text(bounds: records.Bounds | records.RepeatedTokens | None) -> str:
    if bounds is None:
        return "unknown"
    return " to ".join("open" if end is None else f"{end:.3g}" for end in (bounds.low, bounds.high))


def _open_profiles(profile: dict[str, Profile]) -> list[str]:
    """Return a warning for each parameter whose profile has no end on a side."""
    warnings = []
    for name, ends in profile.items():
        sides = [word for word, end in (("below", ends.low), ("above", ends.high)) if end is None]
        if sides:
            warnings.append(f"The profile of {name} is flat: the points do not bound it {' or '.join(sides)}.")
    return warnings


def _disagreeing(table: list[records.ApproachExponent]) -> list[str]:
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


def _repeats_matter(fit: Fit, repeats: records.RepeatedTokens) -> list[str]:
    """Return a warning where the law that takes repeated tokens for fresh is clearly worse than the one with R."""
    if repeats.objective > CLEARLY_LESS * fit.objective:
        return []
    moved = ", ".join(
        f"{name} from {getattr(fit.law, name):.3g} to {repeats.parameters[name]:.3g}" for name in ("alpha", "beta")
    )
    return [
        f"Repeated tokens counted by R = {repeats.R:.3g} take the objective from {fit.objective:.3g} to "
        f"{repeats.objective:.3g} and {moved}: the law here, its sizes and its forecasts take them for fresh. Fit the "
        "runs without repeats (where epochs<=1) for those."
    ]


def _rough_flops(counts: list[Flops]) -> list[str]:
    """Return a warning for each count of FLOPs that is far from what any function of size gives."""
    return [
        f"The FLOPs of {count.name} follow no function of N: {count.formula()} a token, the nearest, is off by up to "
        f"{100 * count.error:.0f} %. What is best for a budget is as rough."
        for count in counts
        if count.error > MOST_FLOPS_ERROR
    ]


def _surface(fit: Fit, profile: dict[str, Profile]) -> records.FittedSurface:
    parameters, sample, error = {}, vars(fit.resampled), np.abs(fit.residual)
    for name in fit.form.parameters:
        ends = Estimate.of(getattr(fit.law, name), sample[name])
        bounds = records.Bounds(profile[name].low, profile[name].high)
        parameters[name] = records.ProfiledEstimate(**vars(ends), profile=bounds)
    limits = {}
    if "k" in fit.form.parameters:
        for name in ("alpha", "beta"):
            value, values = (law.k * getattr(law, name) for law in (fit.law, fit.resampled))
            limits[f"k {name}"] = Estimate.of(value, values)
    drawn = records.TRUNKS if fit.points.shares_trunks else "runs"
    return records.FittedSurface(
        formula=fit.form.formula,
        parameters=parameters,
        sample={name: sample[name][:SAMPLE].tolist() for name in fit.form.parameters},
        objective=records.Objective(f"sum of Huber({fit.delta:g}) of log loss", fit.objective),
        starts=fit.starts,
        share_of_starts_at_optimum=fit.share_at_optimum,
        second_optimizer=records.SecondOptimizer(
            kind="SciPy L-BFGS-B then Nelder-Mead, no gradient",
            objective=fit.check.objective,
            relative_excess=fit.check.excess,
            parameters=_parameters(fit, fit.check.law),
        ),
        bootstrap=records.Bootstrap(
            kind=f"{drawn} resampled with replacement, percentiles",
            resamples=len(sample["A"]),
            seed=fit.seed,
            level=round(100 * LEVEL),
        ),
        residual_percent=records.Residuals(
            rms=100 * np.sqrt(np.mean(error**2)), median_absolute=100 * np.median(error), largest=100 * error.max()
        ),
        form=fit.form.name,
        limits=limits,
    )


def _parameters(fit: Fit, law: Surface) -> dict[str, float]:
    """Return the parameters of a law that its form fits."""
    return {name: float(getattr(law, name)) for name in fit.form.parameters}


def _frontier(fit: Fit, flops: Flops) -> records.Frontier:
    """Return the compute-optimal sizes from the least compute fitted to ten times the greatest."""
    points = fit.points
    compute = 6 * points.N * points.D if flops.name == "6ND" else points.compute
    top = compute.max()
    # The curve, and behind it two points on which the numbers stand: the largest run's compute
    # (index -2) and ten times that (index -1).
    C = np.append(np.geomspace(compute.min(), NEXT * top, CURVE), [top, NEXT * top])
    best, sample = {}, {}  # (n,) and (S, n) each
    best["N"], best["D"] = fit.law.optimum(C, flops)
    sample["N"], sample["D"] = fit.resampled.optimum(C, flops)
    best["loss"], sample["loss"] = fit.law.loss(**best), fit.resampled.loss(**sample)

    def exponent(sizes: np.ndarray) -> np.ndarray:
        return np.log(sizes[..., -1] / sizes[..., -2]) / np.log(NEXT)

    def point(index: int, factor: int) -> records.FrontierPoint:
        at: dict[str, Any] = {name: Estimate.of(best[name][index], sample[name][:, index]) for name in best}
        run = fit.predict(best["N"][index], best["D"][index])
        ends = {name: float(run[name][0]) for name in ("run_low", "run_high")}
        at["loss"] = records.RunEstimate(**vars(at["loss"]), **ends)
        return records.FrontierPoint(C=float(C[index]), **at, factor=factor)

    return records.Frontier(
        convention=flops.name,
        determined=fit.determined,
        flops_per_token=flops.formula(),
        flops=records.FlopsFormula(flops.c, flops.g, flops.power),
        largest_deviation=flops.error,
        exponent=Estimate.of(exponent(best["N"]), exponent(sample["N"])),
        C=C[:CURVE].tolist(),
        **{name: Curve.of(best[name][:CURVE], sample[name][:, :CURVE]) for name in best},
        largest=point(-2, factor=1),
        next=point(-1, factor=NEXT),
        undetermined=fit.undetermined,
    )


def _holdout(hold_out: HoldOut) -> records.HoldOutSummary:
    columns = {  # (n,) each
        "measured": hold_out.points.loss,
        "predicted": hold_out.predicted["value"],
        "low": hold_out.predicted["run_low"],
        "high": hold_out.predicted["run_high"],
        "error_percent": 100 * hold_out.error,
        "covered": hold_out.covered,
    }
    return records.HoldOutSummary(
        fitted_runs=len(hold_out.fit.points),
        compute_factor=hold_out.factor,
        interval=f"{round(100 * LEVEL)} % for one run: bootstrap of the law times a residual drawn at random",
        parameters=asdict(hold_out.fit.law),
        runs=_run_records(records.HeldOutRun, hold_out.points, columns),
        median_absolute_error_percent=100 * np.median(np.abs(hold_out.error)),
        covered=hold_out.covered.sum(),
    )


def _runs(fit: Fit, hold_out: HoldOut | None) -> list[records.FittedRun]:
    points, fitted = fit.points, fit.law.loss(fit.points.N, fit.points.D)
    columns = {  # (n,) each
        "row": points.row_numbers,
        "loss": points.loss,
        "fitted": fitted,
        "residual_percent": 100 * (points.loss / fitted - 1),
        "held_out": np.isin(points.row_numbers, hold_out.points.row_numbers if hold_out else []),
    }
    return _run_records(records.FittedRun, points, columns)


def _run_records(kind: type[T], points: Points, columns: dict[str, np.ndarray]) -> list[T]:
    """Return a record of each run: what the points know of it and its value in each column."""
    runs = range(len(points))
    return [kind(**points.describe(i), **{name: column[i] for name, column in columns.items()}) for i in runs]
