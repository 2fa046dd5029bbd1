"""A figure as plain data: axes with round ticks, points, lines, bands, bars (drawn by draw.py)."""

import math
from dataclasses import dataclass
from html import escape
from typing import Literal, NamedTuple

import numpy as np

from llama_scale.text import count, power

SHOW = {"count": count, "power": power, "plain": lambda value: f"{value:g}"}
PAD = 0.05  # of an axis, empty at either end


@dataclass(frozen=True)
class Axis:
    """One axis: its label, whether it is logarithmic, its range and its ticks (value, text)."""

    label: str
    log: bool
    range: tuple[float, float]
    ticks: list[tuple[float, str]]


@dataclass(frozen=True)
class Series:
    """Points, a line, a band between ``low`` and ``high``, or horizontal bars, in one color.

    ``x``, ``y``, ``low`` and ``high`` are (n,); the ``y`` of a band is not drawn. Bars are ``x`` long at ``y``. Points
    may carry intervals, and points and bars a text each in ``hover``. ``label`` is written at the end of a line.
    """

    name: str
    kind: Literal["points", "line", "band", "bars"]
    x: np.ndarray
    y: np.ndarray
    color: str
    low: np.ndarray | None = None
    high: np.ndarray | None = None
    hover: list[str] | None = None
    label: str | None = None
    dash: bool = False
    ring: bool = False
    width: float = 1.8
    legend: bool = True


@dataclass(frozen=True)
class Panel:
    """One pair of axes and what is drawn on it."""

    key: str
    x: Axis
    y: Axis
    series: list[Series]

    @property
    def has_bars(self) -> bool:
        """Whether it shows bars, which need their height in proportion to their number."""
        return any(series.kind == "bars" for series in self.series)


@dataclass(frozen=True)
class Figure:
    """One figure of a report: a title that says what it shows, panels, and a caption."""

    key: str
    title: str
    caption: str
    panels: list[Panel]

    @property
    def legend(self) -> list[Series]:
        """The first series of each name that belongs in the legend."""
        named = {s.name: s for p in reversed(self.panels) for s in reversed(p.series) if s.legend}
        return list(named.values())[::-1]


def ticks(low: float, high: float, log: bool, show: str) -> list[tuple[float, str]]:
    """Return about five round values in a range with their texts."""
    if not log or high / low < 8:
        step = 10.0 ** math.floor(math.log10((high - low) / 4))
        step = min((m * step for m in (1, 2, 2.5, 5, 10)), key=lambda s: abs((high - low) / s - 5))
        first = math.ceil(low / step - 1e-9)
        values = [float(f"{i * step:.12g}") for i in range(first, int(high / step + 1e-9) + 1)]
    else:
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        wide = math.log10(high / low)
        factors = (1, 2, 5) if wide < 2 else (1, 3) if wide < 3 else (1,)
        values = [f * 10.0**d for d in decades for f in factors if low <= f * 10.0**d <= high]
        values = values[:: 1 + len(values) // 8]
    return [(value, SHOW[show](value)) for value in values]


def axis(
    label: str, values: list, log: bool = True, show: str = "plain", room: float = 0.0, zero: bool = False
) -> Axis:
    """Return an axis that holds ``values``, with ``room`` (a share of it) for labels at its end."""
    flat = np.concatenate([np.ravel(v) for v in values]).astype(float)
    low, high = np.nanmin(flat), np.nanmax(flat)
    if log:
        wide = max(math.log(high / low), 0.05)
        low, high = low * math.exp(-PAD * wide), high * math.exp((PAD + room) * wide)
    else:
        wide = (high - low) or max(abs(high), 1e-6)
        low, high = low - PAD * wide, high + (PAD + room) * wide
        low = 0.0 if zero else low
    return Axis(label, log, (float(low), float(high)), ticks(low, high, log, show))


def symmetric_axis(label: str, values: np.ndarray) -> Axis:
    """Return a linear axis with 0 in its middle that holds ``values``."""
    edge = 1.15 * max(float(np.abs(values).max()), 1e-3)
    return Axis(label, False, (-edge, edge), ticks(-edge, edge, False, "plain"))


class Bar(NamedTuple):
    """A horizontal bar: its name, its length and its color."""

    name: str
    value: float
    color: str


def bar_panel(key: str, label: str, bars: list[Bar], log: bool = False) -> Panel:
    """Return horizontal bars, the first on top, over an axis ``label`` that says their unit.

    On a logarithmic axis a bar of 0 is not seen.
    """
    values = np.array([bar.value for bar in bars], dtype=float)
    if log and values.any():
        positive = values[values > 0]
        across = axis(label, [positive, [positive.min() / 2]], show="count")
    else:
        shown = values if values.any() else [1.0]
        across = axis(label, [shown], log=False, show="count", zero=True)
    down = Axis("", False, (len(bars) - 0.5, -0.5), [(i, bar.name) for i, bar in enumerate(bars)])
    series = []
    for color in dict.fromkeys(bar.color for bar in bars):
        index = np.array([i for i, bar in enumerate(bars) if bar.color == color])
        hover = [f"{escape(bars[i].name)}: {bars[i].value:,.6g}" for i in index]
        series.append(Series(label, "bars", values[index], index, color, hover=hover, legend=False))
    return Panel(key, across, down, series)


def labels_apart(ends: np.ndarray, x: Axis, y: Axis) -> bool:
    """Return whether labels at ``ends`` (n, 2), on two logarithmic axes, stay clear of another.

    A label is about .12 of the axis wide and .035 high. Each is close to itself, so that labels that are clear of
    another make n close pairs.
    """
    wide = np.log([x.range[1] / x.range[0], y.range[1] / y.range[0]])
    gaps = np.abs(np.log(ends[:, None] / ends[None])) / wide  # (n, n, 2)
    close = (gaps[..., 0] < 0.12) & (gaps[..., 1] < 0.035)
    return bool(close.sum() == len(ends))
