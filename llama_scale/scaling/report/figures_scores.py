"""Figures of what a model's loss is worth: bits per byte, parse rate and pass@k by scale."""

import re
from dataclasses import replace
from typing import Any

import numpy as np

from llama_scale.plotting.figure import Axis, Figure, Panel, Series, axis, ticks
from llama_scale.scaling.report.series import GREY, MOST_GROUPS, FittedStudy
from llama_scale.scaling.report.text import SMALL, SUITES, solved
from llama_scale.text import count


def score_figures(study: FittedStudy) -> tuple[list[Figure], list[str]]:
    """Return a figure for each column of scores (``KINDS``), and what is absent."""
    points, figures, left_out = study.points, [], []
    for pattern, what, draw, title, caption in KINDS:
        matches = [re.fullmatch(pattern, name) for name in points.rows[0] if points.has(name)]
        if not any(matches):
            left_out.append(f"{what} (no column {re.sub('[(].*?[)]', '*', pattern)})")
        for match in filter(None, matches):
            suite, *k = (SUITES.get(part, part) for part in match.groups() or [""])
            text = caption.format(suite, *k)
            if k == ["1"]:
                text = solved(suite, points.numeric(match[0]), points.N.max() < SMALL)
            figures.append(draw(study, match[0], title.format(suite, *k), text))
    return figures, left_out


def _joined(study: FittedStudy, x: np.ndarray, y: np.ndarray, **ends: Any) -> list[Series]:
    """Return each size's runs as points joined by thin lines, in order of x."""
    series = []
    for group in study.groups:
        index = group.index[np.isfinite(y[group.index])]
        index = index[np.argsort(x[index])]
        series.append(Series(group.label, "line", x[index], y[index], group.color, width=1.2, legend=False))
    return series + study.points_by_size(x, y, **ends)


def _by_data(study: FittedStudy, y: np.ndarray, **intervals: Any) -> list[Series]:
    """Return the runs against size, those of equal data joined where the runs form a grid."""
    N, D, series = study.points.N, study.points.D, []
    budgets = np.unique(D)
    grid = len(budgets) <= MOST_GROUPS and np.nanmax(y) > np.nanmin(y)
    apart, ends = 0.04 * (np.nanmax(y) - np.nanmin(y)), []
    for budget in budgets if grid else []:
        index = np.flatnonzero(np.equal(D, budget) & np.isfinite(y))
        index = index[np.argsort(N[index])]
        if len(np.unique(N[index])) < 2:
            continue
        line = Series(f"{count(budget)} tokens", "line", N[index], y[index], GREY, width=0.9, legend=False)
        if all(abs(y[index[-1]] - end) > apart for end in ends):
            line = replace(line, label=count(budget))
            ends.append(y[index[-1]])
        series.append(line)
    return series + study.points_by_size(N, y, **intervals)


def _interval(study: FittedStudy, column: str) -> dict[str, np.ndarray]:
    """Return the ends (n,) of the intervals of a score, where the runs have them."""
    names = {end: f"{column}_{end}" for end in ("low", "high")}
    if not all(study.points.has(name) for name in names.values()):
        return {}
    values = study.points.numeric(column)
    ends = {end: study.points.numeric(name) for end, name in names.items()}
    return {end: np.where(np.isfinite(end_values), end_values, values) for end, end_values in ends.items()}


def _figure(study: FittedStudy, column: str, title: str, caption: str, up: Axis) -> Figure:
    points, values = study.points, study.points.numeric(column)
    ends = _interval(study, column)
    key = column.replace("_", "-")
    compute = axis("training compute (FLOP)", [points.compute], show="power")
    size = axis("parameters N (joined: equal tokens)", [points.N], show="count", room=0.12)
    panels = [
        Panel(f"{key}-compute", compute, up, _joined(study, points.compute, values, **ends)),
        Panel(f"{key}-size", size, up, _by_data(study, values, **ends)),
    ]
    return Figure(key, title, caption, panels)


def _bits(study: FittedStudy, column: str, title: str, caption: str) -> Figure:
    up = axis("bits per byte", [study.points.numeric(column)])
    return _figure(study, column, title, caption, up)


def _rate(study: FittedStudy, column: str, title: str, caption: str) -> Figure:
    highest = _interval(study, column).get("high", study.points.numeric(column))
    top = max(1.1 * float(np.nanmax(highest)), 0.02)
    shown = [(value, f"{100 * value:g} %") for value, _ in ticks(0.0, top, False, "plain")]
    return _figure(study, column, title, caption, Axis("share", False, (-0.02 * top, top), shown))


# The columns by a pattern, what they are, and how they are drawn, with the title and the caption of their figure.
KINDS = (
    (
        "bits_per_byte", "bits per byte", _bits, "Bits per byte of held-out code",
        "Loss in bits for each byte of source code, so comparable between tokenizers; lower is better.",
    ),
    (
        "(.*)_gold_bits_per_byte", "bits per byte of reference solutions", _bits,
        "{} reference solutions, bits per byte",
        "How well a model expects the reference solutions of {}, given the prompts: a measure that moves long before "
        "any task is solved.",
    ),
    (
        "(.*)_nontrivial_parse_rate", "nontrivial parse rate", _rate, "{} completions that parse and say something",
        "Share of sampled programs that are valid and more than blank, comment or repeated lines.",
    ),
    (
        "(.*)_pass_at_([0-9]+)", "pass@k", _rate, "{} pass@{}",
        "Estimated chance that one of {1} programs passes the tests. Bars are exact 95 % intervals over the tasks.",
    ),
)  # fmt: skip
