"""What the figures of a study share: its runs by size, as points, rings and fitted curves."""

from dataclasses import dataclass
from functools import cached_property
from html import escape
from typing import Any

import numpy as np

from llama_scale.plotting.figure import Series
from llama_scale.scaling.fitting.fitted_laws import FittedLaws
from llama_scale.scaling.fitting.points import Points
from llama_scale.text import count, digits, power, signed

MOST_GROUPS = 8
RAMP = ("#86bd8b", "#4d9f8d", "#2b7d8c", "#25578b", "#2c2a6c")
ACCENT, HELD_OUT, GREY = "#c8434f", "#e08a00", "#8a929c"


@dataclass(frozen=True)
class Group:
    """Runs of one size (or of a range of sizes, where there are many), with their color.

    ``index`` (k,) are their positions in the points, ``N`` the (geometric) mean of their sizes.
    """

    label: str
    short: str
    index: np.ndarray
    N: float
    flops_per_token: float
    color: str


@dataclass(frozen=True)
class FittedStudy:
    """What every figure is drawn from: the n points and their laws."""

    points: Points
    laws: FittedLaws

    @cached_property
    def groups(self) -> list[Group]:
        """The runs by size, at most eight groups."""
        return group_sizes(self.points)

    @cached_property
    def held_out(self) -> np.ndarray:
        """Which runs were held out, (n,)."""
        return self.laws.column("held_out")

    def run_points(self, index: np.ndarray, x: np.ndarray, y: np.ndarray, **how: Any) -> Series:
        """Return the runs at ``index`` as points; ``x``, ``y``, ``low``, ``high`` are (n,) of all."""
        index = index[np.isfinite(y[index])]
        hover = [run_text(self.points, i) for i in index]
        how |= {end: how[end][index] for end in ("low", "high") if how.get(end) is not None}
        return Series(kind="points", x=x[index], y=y[index], hover=hover, **how)

    def points_by_size(self, x: np.ndarray, y: np.ndarray, **how: Any) -> list[Series]:
        """Return all runs as points in the color of their size."""
        return [self.run_points(group.index, x, y, name=group.label, color=group.color, **how) for group in self.groups]

    def held_out_rings(self, x: np.ndarray, y: np.ndarray) -> list[Series]:
        """Return rings around the runs that were held out."""
        index = np.flatnonzero(self.held_out)
        return [self.run_points(index, x, y, name="held out", color=HELD_OUT, ring=True)] if len(index) else []

    def fitted_curves(self, per_token: bool) -> list[tuple[Group, np.ndarray, np.ndarray]]:
        """Return each group's fitted loss against tokens, or against compute if ``per_token``."""
        curves = []
        for group in self.groups:
            own = self.points.D[group.index]
            D = np.geomspace(own.min(), own.max(), 40)
            loss = self.laws.law.loss(np.full_like(D, group.N), D)
            curves.append((group, group.flops_per_token * D if per_token else D, loss))
        return curves


def color_ramp(n: int) -> list[str]:
    """Return n colors, light to dark, for sizes from small to large."""
    anchors = np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in RAMP])
    where = np.linspace(0, len(RAMP) - 1, n) if n > 1 else np.array([2.0])
    colors = [np.interp(where, range(len(RAMP)), anchors[:, i]) for i in range(3)]
    return ["#" + "".join(f"{round(v):02x}" for v in rgb) for rgb in zip(*colors, strict=True)]


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
    for index, color in zip(members, color_ramp(len(members)), strict=True):
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


def predicted_losses(rows: list[Any], word: str, names: tuple[str, str, str]) -> tuple[np.ndarray, list[str]]:
    """Return the losses (4, n) of predicted runs and what is shown when a reader points at one.

    The losses are measured, and then the prediction and the ends of its interval, which are fields ``names``.
    """
    losses = np.array([[getattr(row, name) for row in rows] for name in ("measured", *names)])
    texts = [
        f"<b>{escape(row.run)}</b><br>{word} {digits(value, 4)} [{digits(low, 4)}, {digits(high, 4)}]<br>"
        f"measured {digits(measured, 4)}<br>error {signed(row.error_percent)}"
        for row, (measured, value, low, high) in zip(rows, losses.T, strict=True)
    ]
    return losses, texts
