"""Figures of compute: the loss, the compute-optimal frontier, IsoFLOP curves, cost, outcomes."""

from html import escape

import numpy as np

from llama_scale.cost.hardware import DEFAULT_MFU
from llama_scale.plotting.figure import Axis, Figure, Panel, Series, axis, symmetric_axis
from llama_scale.scaling.fitting.fitted_laws import Frontier
from llama_scale.scaling.fitting.results.approaches import pareto_front
from llama_scale.scaling.forecasting.forecast import ScoredForecast
from llama_scale.scaling.forecasting.recommend import HOUR, peak
from llama_scale.scaling.report.series import ACCENT, GREY, HELD_OUT, FittedStudy, color_ramp, predicted_losses
from llama_scale.text import between, count, digits, power

GPU = "H200"
APPROACHES = {"1": "#8a6bb8", "2": "#3d87c4", "3": ACCENT}


def compute_figures(study: FittedStudy, scored: list[ScoredForecast]) -> tuple[list[Figure], list[str]]:
    """Return the figures that the runs allow, and what was left out and why.

    ``scored`` are forecasts of the study with their outcomes, as ``forecast.score`` returns them.
    """
    figures, left_out = [], []
    if study.laws.approaches.isoflop:
        figures.append(isoflop(study))
    else:
        left_out.append("IsoFLOP curves (no four sizes share a budget)")
    if any(row.exponent for row in study.laws.approaches.table):
        figures.append(exponents(study))
    figures.append(cost(study))
    if any(row.measured for forecast in scored for row in forecast.runs):
        figures.append(outcome(scored))
    else:
        left_out.append("forecast against outcome (no forecast has been measured yet)")
    return figures, left_out


def loss_compute(study: FittedStudy) -> Figure:
    """Return loss against compute: the runs, a curve for each size, and the frontier."""
    points, best = study.points, study.laws.best_frontier
    sizes = [
        Series(group.label, "line", C, loss, group.color, legend=False, width=1.3)
        for group, C, loss in study.fitted_curves(per_token=True)
    ]
    runs = [*study.points_by_size(points.compute, points.loss), *study.held_out_rings(points.compute, points.loss)]
    series, across, up = [*sizes, *runs], [points.compute], [points.loss]
    title, caption = "Loss against compute", f"Compute is {study.laws.conventions.flops}."
    if best.determined:
        band, *lines = optimal_curve(best, "loss", ("compute-optimal frontier", "next 10× of compute"), True)
        series, across, up = [band, *series, *lines], [*across, best.C], [*up, best.loss.value]
        title += ", and the best that any size reaches"
        caption += (
            " The red line is the least loss at each compute according to the fit, its band the 95 % interval of the "
            "law; dashes extrapolate to ten times the largest run."
        )
    x, y = axis("training compute (FLOP)", across, show="power"), axis("validation loss", up)
    return Figure("loss-compute", title, caption, [Panel("loss-compute", x, y, series)])


def frontier(study: FittedStudy) -> Figure:
    """Return N*(C) and D*(C) with the runs behind them."""
    points, best = study.points, study.laws.best_frontier
    panels = []
    for name, label, measured in (("N", "parameters N", points.N), ("D", "tokens D", points.D)):
        curve = getattr(best, name)
        value = np.array(curve.value)
        shown = np.clip([curve.low, curve.high], value / 10, value * 10)
        across = axis("training compute (FLOP)", [points.compute, best.C], show="power")
        up = axis(f"{label}, and optimal {name}*(C)", [measured, value, shown], show="count")
        band, *lines = optimal_curve(best, name, (f"{name}*(C)", f"{name}*(C), extrapolated"), False)
        runs = study.points_by_size(points.compute, measured)
        panels.append(Panel(f"frontier-{name}", across, up, [band, *runs, *lines]))
    return Figure(
        "frontier",
        "The size and the data that make the best of a compute budget",
        f"Around the largest run the optimal size N* grows as compute to the power "
        f"{between(best.exponent, lambda value: digits(value, 2))}, the optimal data D* with the rest. Points "
        "are the runs; bands are 95 % intervals of the law.",
        panels,
    )


def optimal_curve(best: Frontier, what: str, names: tuple[str, str], legend: bool) -> list[Series]:
    """Return the curve ``what`` (N, D or loss): its band, and its line solid to the largest run, dashed on."""
    curve = getattr(best, what)
    C, value, low, high = (np.array(values) for values in (best.C, curve.value, curve.low, curve.high))
    last = np.searchsorted(C, best.largest.C * 1.0001)
    line = {"width": 2.6, "legend": legend}
    return [
        Series("95 % interval", "band", C, value, ACCENT, low, high, legend=False),
        Series(names[0], "line", C[:last], value[:last], ACCENT, **line),
        Series(names[1], "line", C[last - 1 :], value[last - 1 :], ACCENT, dash=True, **line),
    ]


def isoflop(study: FittedStudy) -> Figure:
    """Return loss against size at equal compute, with the parabolas and their minima."""
    points, groups = study.points, study.laws.approaches.isoflop
    curves, minima = [], []
    where = {int(number): i for i, number in enumerate(points.row_numbers)}
    for group, color in zip(groups, color_ramp(len(groups)), strict=True):
        index = np.array([where[int(row)] for row in group.rows])
        N = np.geomspace(points.N[index].min(), points.N[index].max(), 40)
        loss = np.polyval(group.coefficients[::-1], np.log(N / group.center))
        name = f"{power(group.C)} FLOP"
        curves.append(Series(name, "line", N, loss, color, legend=False, width=1.3))
        curves.append(study.run_points(index, points.N, points.loss, name=name, color=color))
        if group.inside:
            minima.append((group.N, group.loss, group.C))
    if minima:
        N, loss = np.array(minima).T[:2]
        text = [f"{power(c)} FLOP<br>N* {count(n)}" for n, _, c in minima]
        curves.append(Series("minimum", "points", N, loss, ACCENT, ring=True, hover=text))
    across = axis("parameters N", [series.x for series in curves], show="count")
    up = axis("validation loss", [series.y for series in curves])
    caption = "Each color is one compute budget; the parabola's minimum is the best size for it (approach 2)."
    if outside := len(groups) - len(minima):
        caption += f" In {outside} of {len(groups)} budgets the least loss lies at the edge of the sizes "
        caption += "tried, so no minimum is given."
    return Figure("isoflop", "Equal compute, different sizes", caption, [Panel("isoflop", across, up, curves)])


def exponents(study: FittedStudy) -> Figure:
    """Return the exponent of the optimal size by approach, with its intervals."""
    table = [row for row in study.laws.approaches.table if row.exponent]
    kinds = list(dict.fromkeys(row.compute for row in table))
    series, values = [], []
    for name in dict.fromkeys(row.approach for row in table):
        rows = [row for row in table if row.approach == name]
        shift = 0.18 * (int(name[0]) - 2)
        x = np.array([kinds.index(row.compute) + 1 + shift for row in rows])
        y, low, high = (np.array([getattr(r.exponent, k) for r in rows]) for k in ("value", "low", "high"))
        hover = [f"{escape(name)}<br>a = {between(row.exponent)}" for row in rows]
        series.append(Series(name, "points", x, y, APPROACHES[name[0]], low, high, hover))
        values += [y, low, high]
    labels = [(i + 1.0, kind.removesuffix(" attention")) for i, kind in enumerate(kinds)]
    across = Axis("compute counted as", False, (0.5, len(kinds) + 0.5), labels)
    up = axis("exponent a of N* ~ C^a", values, log=False)
    return Figure(
        "exponents",
        "Does the best size grow equally by every approach?",
        "The exponent of the compute-optimal size by Hoffmann et al.'s three approaches, with 95 % "
        "intervals. Intervals that do not meet mean that the exponent is not settled.",
        [Panel("exponents", across, up, series)],
    )


def cost(study: FittedStudy) -> Figure:
    """Return quality against what it cost, with the best run at each cost."""
    points = study.points
    bits = points.has("bits_per_byte")
    score = points.numeric("bits_per_byte") if bits else points.loss
    known = np.isfinite(score)
    hours = points.compute / (peak(GPU) * DEFAULT_MFU * HOUR)
    index = np.flatnonzero(known)
    best = index[pareto_front(hours[index], score[index])]
    steps = Series("best for the money", "line", hours[best], score[best], ACCENT, width=2.2)
    what = "bits per byte" if bits else "validation loss"
    across = axis(f"hours of one {GPU} at {DEFAULT_MFU:.0%} of its peak", [hours], show="power")
    panel = Panel("cost", across, axis(what, [score[known]]), [steps, *study.points_by_size(hours, score)])
    return Figure(
        "cost",
        "Cost against quality",
        f"Training compute as hours of one {GPU} (dense bf16 peak {peak(GPU) / 1e12:.0f} "
        f"TFLOP/s at {DEFAULT_MFU:.0%}): an estimate for comparison, not the time measured. The "
        "red line joins the runs that nothing cheaper beats.",
        [panel],
    )


def outcome(scored: list[ScoredForecast]) -> Figure:
    """Return forecasts with their intervals beside what was measured."""
    rows = [row for forecast in scored for row in forecast.runs if row.measured]
    losses, text = predicted_losses(rows, "forecast", ("value", "run_low", "run_high"))
    C = np.array([row.flops for row in rows])
    value, low, high = error = 100 * (losses[1:] / losses[0] - 1)
    across = axis("training compute (FLOP)", [C / 2, C * 2], show="power")
    up = symmetric_axis("forecast over measured loss (%)", error)
    zero = Series("measured", "line", np.array(across.range), np.zeros(2), GREY, width=1.2, legend=False)
    drawn = Series("forecast, 95 % interval", "points", C, value, HELD_OUT, low, high, text)
    return Figure(
        "outcome",
        "Forecast against outcome",
        f"{sum(bool(row.covered) for row in rows)} of {len(rows)} measured losses lie inside the 95 % interval of "
        "their forecast; when each forecast was written stands in its table.",
        [Panel("outcome", across, up, [zero, drawn])],
    )
