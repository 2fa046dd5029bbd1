"""A figure as plain data: axes with round ticks, points, lines and bands (drawn by draw.py)."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from llama_scale.text import count, power

SHOW = {"count": count, "power": power, "plain": lambda value: f"{value:g}"}


@dataclass(frozen=True)
class Axis:
    """One axis: its label, whether it is logarithmic, its range and its ticks (value, text)."""

    label: str
    log: bool
    range: tuple[float, float]
    ticks: list[tuple[float, str]]


@dataclass(frozen=True)
class Series:
    """Points, a line, or a band between ``low`` and ``high``, with one colour.

    ``x``, ``y``, ``low`` and ``high`` are (n,); a band has no ``y``. Points may carry intervals
    and a text each in ``hover``. ``label`` is written at the end of a line.
    """

    name: str
    kind: Literal["points", "line", "band"]
    x: np.ndarray
    y: np.ndarray | None
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


@dataclass(frozen=True)
class Figure:
    """One figure of the report: a title that says what it shows, panels, and a caption."""

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
        step = 10 ** math.floor(math.log10((high - low) / 4))
        step = min((m * step for m in (1, 2, 2.5, 5, 10)), key=lambda s: abs((high - low) / s - 5))
        first = math.ceil(low / step - 1e-9)
        values = [round(i * step, 12) for i in range(first, int(high / step + 1e-9) + 1)]
    else:
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        wide = math.log10(high / low)
        factors = (1, 2, 5) if wide < 2 else (1, 3) if wide < 3 else (1,)
        values = [f * 10.0**d for d in decades for f in factors if low <= f * 10.0**d <= high]
        values = values[:: 1 + len(values) // 8]
    return [(value, SHOW[show](value)) for value in values]


def axis(
    label: str,
    values: list,
    log: bool = True,
    show: str = "plain",
    pad: float = 0.05,
    room: float = 0.0,
    zero: bool = False,
) -> Axis:
    """Return an axis that holds ``values``, with ``room`` (a share of it) for labels at its end."""
    flat = np.concatenate([np.ravel(v) for v in values]).astype(float)
    low, high = np.nanmin(flat), np.nanmax(flat)
    if log:
        wide = max(math.log(high / low), 0.05)
        low, high = low * math.exp(-pad * wide), high * math.exp((pad + room) * wide)
    else:
        wide = (high - low) or max(abs(high), 1e-6)
        low, high = low - pad * wide, high + (pad + room) * wide
        low = 0.0 if zero else low
    return Axis(label, log, (float(low), float(high)), ticks(low, high, log, show))


def apart(ends: np.ndarray, x: Axis, y: Axis) -> bool:
    """Return whether labels at ``ends`` (n, 2), on two logarithmic axes, stay clear of another."""
    wide = np.log([x.range[1] / x.range[0], y.range[1] / y.range[0]])
    gaps = np.abs(np.log(ends[:, None] / ends[None])) / wide  # (n, n, 2)
    close = (gaps[..., 0] < 0.12) & (gaps[..., 1] < 0.035)
    return bool(close.sum() == len(ends))
