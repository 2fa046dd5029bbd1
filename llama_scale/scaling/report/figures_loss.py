"""The figures of a study: loss by data and compute, frontier, hold-out and residuals."""

from dataclasses import dataclass, field
from html import escape
from typing import Any

import numpy as np

from llama_scale.plotting.figure import Axis, Figure, Panel, Series, axis, labels_apart, ticks
from llama_scale.scaling.fitting.chinchilla import Surface
from llama_scale.scaling.fitting.fitted_laws import FittedLaws, Frontier
from llama_scale.scaling.fitting.points import Points
from llama_scale.text import between, count, digits, power, signed

MOST_GROUPS = 8
RAMP = ("#86bd8b", "#4d9f8d", "#2b7d8c", "#25578b", "#2c2a6c")
ACCENT, HELD, GREY = "#c8434f", "#e08a00", "#8a929c"


@dataclass(frozen=True)
class Group:
    """Runs of one size (or of a range of sizes, where there are many), with their colour."""

    label: str
    short: str
    index: np.ndarray
    N: float
    flops_per_token: float
    color: str


@dataclass(frozen=True)
class Study:
    """What every figure is drawn from."""

    points: Points
    laws: FittedLaws
    law: Surface = field(init=False)
    groups: list[Group] = field(init=False)
    held: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        held = self.laws.column("held_out")
        object.__setattr__(self, "law", self.laws.law)
        object.__setattr__(self, "held", held)
        object.__setattr__(self, "groups", group_sizes(self.points))


def ramp(n: int) -> list[str]:
    """Return n colours, light to dark, for sizes from small to large."""
    anchors = np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in RAMP])
    where = np.linspace(0, len(RAMP) - 1, n) if n > 1 else np.array([2.0])
    colours = [np.interp(where, range(len(RAMP)), anchors[:, i]) for i in range(3)]
    return ["#" + "".join(f"{round(v):02x}" for v in rgb) for rgb in zip(*colours, strict=True)]


def group_sizes(points: Points) -> list[Group]:
    """Return the runs by size, smallest first, at most eight groups."""
    sizes = np.unique(points.N)
    if len(sizes) <= MOST_GROUPS:
        members = [np.flatnonzero(np.equal(points.N, size)) for size in sizes]
    else:
        edges = np.quantile(np.log(points.N), np.linspace(0, 1, MOST_GROUPS + 1)[1:-1])
        which = np.searchsorted(edges, np.log(points.N))
        members = [np.flatnonzero(which == i) for i in np.unique(which)]
    groups = []
    for index, color in zip(members, ramp(len(members)), strict=True):
        N = points.N[index]
        names = {points.rows[i].get("size", "") for i in index}
        low, high = count(N.min()), count(N.max())
        short = label = low if low == high else f"{low}–{high}"
        if len(names) == 1 and "" not in names and low == high:
            label = f"{names.pop()} · {low}"
        per_token = float(np.exp(np.log(points.compute[index] / points.D[index]).mean()))
        groups.append(Group(label, short, index, float(np.exp(np.log(N).mean())), per_token, color))
    return groups


def run_text(points: Points, i: int) -> str:
    """Return what is shown when a reader points at a run."""
    text = (
        f"<b>{escape(points.label(i))}</b><br>N {count(points.N[i])} · D {count(points.D[i])} · "
        f"{power(points.compute[i])} FLOP<br>loss {digits(points.loss[i], 4)}"
    )
    bits = points.rows[i].get("bits_per_byte")
    return f"{text} · {digits(float(bits), 4)} bits per byte" if bits else text


def dots(study: Study, index: np.ndarray, x: np.ndarray, y: np.ndarray, **how: Any) -> Series:
    """Return the runs at ``index`` as points; ``x``, ``y``, ``low``, ``high`` are (n,) of all."""
    index = index[np.isfinite(y[index])]
    hover = [run_text(study.points, i) for i in index]
    how |= {end: how[end][index] for end in ("low", "high") if how.get(end) is not None}
    return Series(kind="points", x=x[index], y=y[index], hover=hover, **how)


def by_size(study: Study, x: np.ndarray, y: np.ndarray, **how: Any) -> list[Series]:
    """Return all runs as points in the colour of their size."""
    return [
        dots(study, group.index, x, y, name=group.label, color=group.color, **how)
        for group in study.groups
    ]


def rings(study: Study, x: np.ndarray, y: np.ndarray) -> list[Series]:
    """Return rings around the runs that were held out."""
    index = np.flatnonzero(study.held)
    ring = dots(study, index, x, y, name="held out", color=HELD, ring=True)
    return [ring] if len(index) else []


def curves(study: Study, per_token: bool) -> list[tuple[Group, np.ndarray, np.ndarray]]:
    """Return each group's fitted loss against tokens, or against compute if ``per_token``."""
    found = []
    for group in study.groups:
        own = study.points.D[group.index]
        D = np.geomspace(own.min(), own.max(), 40)
        loss = study.law.loss(np.full_like(D, group.N), D)
        found.append((group, group.flops_per_token * D if per_token else D, loss))
    return found


def optimum(best: Frontier, what: str, names: tuple[str, str], legend: bool) -> list[Series]:
    """Return a compute-optimal curve: its band, and its line solid to the largest run, dashed on.

    ``what`` is one of its curves: N, D or loss.
    """
    C = np.array(best.C)
    curve = {name: np.array(values) for name, values in vars(getattr(best, what)).items()}
    last = np.searchsorted(C, best.largest.C * 1.0001)
    line = {"kind": "line", "color": ACCENT, "width": 2.6, "legend": legend}
    here, then = slice(0, last), slice(last - 1, None)
    return [
        Series("95 % interval", "band", C, None, ACCENT, curve["low"], curve["high"], legend=False),
        Series(names[0], x=C[here], y=curve["value"][here], **line),
        Series(names[1], x=C[then], y=curve["value"][then], dash=True, **line),
    ]


def loss_tokens(study: Study) -> Figure:
    """Return loss against tokens, a curve for each size."""
    points, drawn = study.points, curves(study, per_token=False)
    across = axis("training tokens D", [points.D], show="count", room=0.2)
    up = axis("validation loss", [points.loss, *(loss for _, _, loss in drawn)])
    direct = labels_apart(np.array([(D[-1], loss[-1]) for _, D, loss in drawn]), across, up)
    series = [
        Series(g.label, "line", D, loss, g.color, legend=False, label=g.short if direct else None)
        for g, D, loss in drawn
    ]
    series += by_size(study, points.D, points.loss, legend=not direct)
    series += rings(study, points.D, points.loss)
    ranges = len(np.unique(points.N)) > len(study.groups)
    return Figure(
        "loss-tokens",
        "Loss against data, for each model size",
        "Points are runs; each line is the fitted law at "
        + ("the middle of a range of sizes." if ranges else "that size.")
        + (" Rings mark the runs left out of the hold-out fit." if study.held.any() else ""),
        [Panel("loss-tokens", across, up, series)],
    )


def loss_compute(study: Study) -> Figure:
    """Return loss against compute: the runs, a curve for each size, and the frontier."""
    points, best = study.points, study.laws.best_frontier
    known = best.determined
    band, *lines = optimum(best, "loss", ("compute-optimal frontier", "next 10× of compute"), True)
    sizes = [
        Series(group.label, "line", C, loss, group.color, legend=False, width=1.3)
        for group, C, loss in curves(study, per_token=True)
    ]
    runs = by_size(study, points.compute, points.loss)
    held = rings(study, points.compute, points.loss)
    panel = Panel(
        "loss-compute",
        axis("training compute (FLOP)", [points.compute, best.C if known else []], show="power"),
        axis("validation loss", [points.loss, best.loss.value if known else []]),
        [band, *sizes, *runs, *held, *lines] if known else [*sizes, *runs, *held],
    )
    red = (
        " The red line is the least loss at each compute according to the fit, its band the 95 % "
        "interval of the law; dashes extrapolate to ten times the largest run."
    )
    return Figure(
        "loss-compute",
        "Loss against compute" + (", and the best that any size reaches" if known else ""),
        f"Compute is {study.laws.conventions.flops}.{red if known else ''}",
        [panel],
    )


def frontier(study: Study) -> Figure:
    """Return N*(C) and D*(C) with the runs behind them."""
    points, best = study.points, study.laws.best_frontier
    panels = []
    for name, label, measured in (("N", "parameters N", points.N), ("D", "tokens D", points.D)):
        curve = getattr(best, name)
        value, low, high = (np.array(ends) for ends in (curve.value, curve.low, curve.high))
        shown = np.clip([low, high], value / 10, value * 10)
        across = axis("training compute (FLOP)", [points.compute, best.C], show="power")
        up = axis(f"{label}, and optimal {name}*(C)", [measured, value, shown], show="count")
        band, *lines = optimum(best, name, (f"{name}*(C)", f"{name}*(C), extrapolated"), False)
        runs = by_size(study, points.compute, measured)
        panels.append(Panel(f"frontier-{name}", across, up, [band, *runs, *lines]))
    a = best.exponent
    return Figure(
        "frontier",
        "The size and the data that make the best of a compute budget",
        f"Around the largest run the optimal size N* grows as compute to the power "
        f"{between(a, lambda value: digits(value, 2))}, the optimal data D* with the rest. Points "
        "are the runs; bands are 95 % intervals of the law.",
        panels,
    )


def prediction(study: Study) -> Figure:
    """Return predicted against measured loss, the held-out runs with their intervals."""
    points, held = study.points, study.laws.holdout
    fitted = Surface(**held.parameters).loss(points.N, points.D)
    rest = np.flatnonzero(~study.held)
    measured, value, low, high = (
        np.array([getattr(row, name) for row in held.runs])
        for name in ("measured", "predicted", "low", "high")
    )
    text = [
        f"<b>{escape(row.run)}</b><br>predicted {digits(row.predicted, 4)} "
        f"[{digits(row.low, 4)}, {digits(row.high, 4)}]<br>measured "
        f"{digits(row.measured, 4)}<br>error {signed(row.error_percent)}"
        for row in held.runs
    ]
    past, ahead = fitted / points.loss, [loss / measured for loss in (value, low, high)]
    errors = [100 * (ratio - 1) for ratio in (past, *ahead)]
    drawn = [points.loss, fitted, low, high]
    across = axis("measured loss", drawn)
    ends = np.array(across.range)
    panels = [
        Panel(
            key,
            across,
            up,
            [
                Series("equal", "line", ends, line, GREY, width=1.2, legend=False),
                dots(study, rest, points.loss, known, name="fitted runs", color=GREY),
                Series("held out, 95 % interval", "points", measured, *new, hover=text),
            ],
        )
        for key, up, line, known, new in (
            ("prediction", axis("predicted loss", drawn), ends, fitted, (value, HELD, low, high)),
            (
                "prediction-error",
                axis("predicted over measured loss (%)", [*errors, [0.0]], log=False),
                np.zeros(2),
                errors[0],
                (errors[1], HELD, *errors[2:]),
            ),
        )
    ]
    return Figure(
        "prediction",
        "Runs left out of the fit: predicted against measured",
        "Grey runs were fitted, amber ones only predicted, from a fit that never saw them. Bars "
        "are 95 % intervals for one run: uncertainty of the law and scatter of single runs.",
        panels,
    )


def residuals(study: Study) -> Figure:
    """Return what the law leaves unexplained, against N and against D."""
    points = study.points
    percent = study.laws.column("residual_percent")
    edge = max(1.15 * float(np.abs(percent).max()), 1e-3)
    label = "measured over fitted loss (%)"
    up = Axis(label, False, (-edge, edge), ticks(-edge, edge, False, "plain"))
    panels = []
    for name, label, x in (("N", "parameters N", points.N), ("D", "training tokens D", points.D)):
        across = axis(label, [x], show="count")
        ends = np.array(across.range)
        zero = Series("fitted", "line", ends, np.zeros(2), GREY, width=1.2, legend=False)
        panels.append(Panel(f"residuals-{name}", across, up, [zero, *by_size(study, x, percent)]))
    return Figure(
        "residuals",
        "What the law leaves unexplained",
        "Differences between measured and fitted loss. A trend along either axis would mean that "
        "the law has the wrong shape there.",
        panels,
    )
