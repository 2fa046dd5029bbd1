"""Figures of a fine-tuning study: quality against rank, number of pairs and language, and what each method costs."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from html import escape

import numpy as np

from llama_scale.plotting.figure import Axis, Bar, Figure, Panel, Series, axis, bar_panel
from llama_scale.scaling.study.finetune.comparison import ArmResult, Comparison, Estimate
from llama_scale.scaling.study.finetune.settings import FEW_SHOT
from llama_scale.text import count, digits

COLORS = ("#25578b", "#c8434f", "#2b7d8c", "#e08a00", "#7a5195", "#4d9f8d", "#8a929c")
GREY = "#8a929c"
BITS, PARSES, MEGABYTE = "bits_per_byte", "parses", 1e6
APART = 1.025  # between the points of two curves at the same number
SMALLEST = 0.01  # of an axis
LABELS = {"bits_per_byte": "bits per byte less the base's", "parses": "parse rate less the base's (points)"}
SHARES = ("parses", "ended", "passed")


def tuning_figures(found: Comparison) -> tuple[list[Figure], list[str]]:
    """Return the figures that the arms allow, and what was left out and why."""
    makers: list[tuple[str, Callable[[Comparison], Figure | None]]] = [
        ("quality against the number of pairs (one number)", against_size),
        ("quality against rank (one rank)", against_rank),
        ("quality by language (one language)", by_language),
        ("adapters against full fine-tuning (one of both alone)", by_method),
        ("learning against forgetting (not measured)", forgetting),
        ("BLEU against execution (no task has tests)", similarity_passing),
    ]
    figures, left_out = [], []
    for reason, make in makers:
        figure = make(found)
        figures += [figure] if figure else []
        left_out += [] if figure else [reason]
    return figures, left_out


def _scaled(estimate: Estimate, key: str) -> tuple[float, float, float]:
    factor = 100.0 if key in SHARES else 1.0
    return factor * estimate.value, factor * estimate.low, factor * estimate.high


def curve_panel(
    found: Comparison, key: str, label: str, lines: dict[str, list[tuple[float, ArmResult]]], endpoint: str
) -> Panel | None:
    """Return an endpoint of arms, less the base's on the same tasks, against a number: a line for each of ``lines``.

    Ticks are at the numbers that were tried. A base that was shown pairs is a level line beside that of the base.
    """
    contrasts = {one.arm: one for family in found.families if family.key == "base" for one in family.of(endpoint)}
    lines = {name: [(x, arm) for x, arm in points if arm.name in contrasts] for name, points in lines.items()}
    lines = {name: points for name, points in lines.items() if len(points) > 1}
    if not lines:
        return None
    factor, unit = (100.0, " points") if endpoint in SHARES else (1.0, "")
    series, drawn = [], [[0.0, SMALLEST * factor]]
    for number, ((name, points), color) in enumerate(zip(lines.items(), COLORS, strict=False)):
        x = np.array([x for x, _ in points], dtype=float) * APART**number
        own = [contrasts[arm.name] for _, arm in points]
        y, low, high = (factor * np.array([getattr(one, end) for one in own]) for end in ("mean", "low", "high"))
        hover = [
            f"{arm_text(arm, endpoint)}<br>{v:+.3g}{unit} to the base" for v, (_, arm) in zip(y, points, strict=True)
        ]
        drawn += [low, high]
        series += [
            Series(name, "line", x, y, color, legend=False, width=1.4),
            Series(name, "points", x, y, color, low, high, hover),
        ]
    across = axis(label, [one.x for one in series], show="count")
    tried = sorted({x for points in lines.values() for x, _ in points})
    across = replace(across, ticks=[(x, count(x)) for x in tried])
    level = {"base": 0.0} | {
        f"base, {arm.examples} pairs shown": factor * contrasts[arm.name].mean
        for arm in found.arms if arm.method == FEW_SHOT and arm.name in contrasts
    }  # fmt: skip
    drawn.append(list(level.values()))
    levels = [
        Series(name, "line", np.array(across.range), np.full(2, y), color, dash=True)
        for (name, y), color in zip(level.items(), (GREY, COLORS[4]), strict=False)
    ]
    return Panel(key, across, axis(LABELS[endpoint], drawn, log=False), [*levels, *series])


def arm_text(arm: ArmResult, endpoint: str) -> str:
    """Return what is shown where a reader points at an arm."""
    value, low, high = (digits(v) for v in _scaled(arm.scores[endpoint], endpoint))
    rate = f"<br>rate {arm.lr:.3g}" if arm.lr else ""
    return f"{escape(arm.name)}<br>{value} [{low}, {high}]<br>{arm.runs} runs, {arm.steps:.0f} steps{rate}"


def _base(found: Comparison, language: str | None = None) -> ArmResult:
    return next(a for a in found.arms if a.method == "base" and language in (None, a.language))


def _title(arm: ArmResult) -> str:
    """What a curve has in common: its method, rank, budget and language, where there are several."""
    return f"{'full' if arm.method == 'full' else f'rank {arm.rank}'}, {arm.budget}"


def _lines(
    found: Comparison, key: Callable[[ArmResult], object], x: Callable[[ArmResult], float | None], several: bool = False
) -> dict[str, list[tuple[float, ArmResult]]]:
    groups: dict[object, list[tuple[float, ArmResult]]] = {}
    for arm in found.arms:
        value = x(arm)
        if arm.trained and value is not None:
            groups.setdefault(key(arm), []).append((float(value), arm))
    found_lines = {}
    for points in groups.values():
        points.sort(key=lambda point: point[0])
        first = points[0][1]
        name = f"{count(first.examples)} pairs, {first.budget}" if several else _title(first)
        languages = {arm.language for arm in found.arms}
        found_lines[f"{name}, {first.language}" if len(languages) > 1 else name] = points
    return found_lines


def _figure(key: str, title: str, caption: str, panels: Sequence[Panel | None]) -> Figure | None:
    drawn = [panel for panel in panels if panel]
    return Figure(key, title, caption, drawn) if drawn else None


def against_size(found: Comparison) -> Figure | None:
    """Return quality against the number of pairs, at equal epochs and at equal steps."""
    lines = _lines(found, lambda a: (a.method, a.rank, a.budget, a.language, a.grid), lambda a: a.examples)
    lines = {name: points for name, points in lines.items() if len({x for x, _ in points}) > 1}
    panels = [curve_panel(found, f"size-{e}", "pairs", lines, e) for e in (BITS, PARSES)]
    caption = (
        "At equal epochs a larger set has more steps; at equal steps only the data differ. What the two curves do not "
        "share is the number of steps. Bars are 95 % intervals of the difference to the base, over runs and tasks."
    )
    return _figure("size", "Quality against the number of pairs", caption, panels)


def against_rank(found: Comparison) -> Figure | None:
    """Return quality against rank, each at its own best rate."""
    lines = _lines(found, lambda a: (a.examples, a.budget, a.language), lambda a: a.rank, several=True)
    lines = {name: points for name, points in lines.items() if len({x for x, _ in points}) > 1}
    panels = [curve_panel(found, f"rank-{e}", "rank", lines, e) for e in (BITS, PARSES)]
    shown = "; ".join(
        f"for {r.examples} pairs rank {r.forecast} was forecast to do on {r.written_at[:10]}" for r in found.ranks
    )
    caption = "Each rank at its own rate. Bars are 95 % intervals of the difference to the base."
    caption += f" {shown[0].upper()}{shown[1:]}." if shown else ""
    return _figure("rank", "Quality against rank", caption, panels)


def by_language(found: Comparison) -> Figure | None:
    """Return what tuning gains in each language, and the rates of its samples."""
    if len({arm.language for arm in found.arms}) < 2:
        return None
    arms = [arm for arm in found.arms if arm.method != "base"]  # what a base gains that is shown pairs as well
    gains = [
        Bar(arm.name, _base(found, arm.language).scores[BITS].value - arm.scores[BITS].value, COLORS[0]) for arm in arms
    ]
    panels: list[Panel | None] = [bar_panel("language-gain", "bits per byte gained over the base", gains)]
    shown = [arm for arm in found.arms if PARSES in arm.scores]
    if shown:
        bars = [Bar(a.name, 100 * a.scores[PARSES].value, GREY if a.method == "base" else COLORS[1]) for a in shown]
        panels.append(bar_panel("language-parses", "samples that parse (%)", bars))
    caption = (
        "Bits per byte of different languages are not comparable; what tuning gains over the base in the same language "
        "is. Each language's own parser judges."
    )
    return _figure("language", "Quality by language", caption, panels)


def by_method(found: Comparison) -> Figure | None:
    """Return quality, peak memory, time and size on disk of full fine-tuning and adapters."""
    full = next((arm for arm in found.arms if arm.method == "full"), None)
    if full is None:
        return None
    arms = [a for a in found.arms if a is full or (a.rank and (a.examples, a.budget) == (full.examples, full.budget))]
    if len(arms) < 2:
        return None
    arms.sort(key=lambda arm: arm.rank or 0)
    same_rank = len({arm.rank for arm in arms}) < len(arms)
    base = _base(found, full.language)

    def bars(value: Callable[[ArmResult], float]) -> list[Bar]:
        names = [arm.name if same_rank else f"rank {arm.rank}" if arm.rank else "full" for arm in arms]
        return [Bar(n, value(arm), COLORS[0 if arm.rank else 1]) for n, arm in zip(names, arms, strict=True)]

    panels = [
        bar_panel(
            "method-gain", "bits per byte gained", bars(lambda a: base.scores[BITS].value - a.scores[BITS].value)
        ),
        bar_panel("method-memory", "peak memory (MB)", bars(lambda a: a.peak_memory / MEGABYTE)),
        bar_panel("method-time", "seconds of training", bars(lambda a: a.seconds)),
        bar_panel("method-disk", "weights on disk (MB)", bars(lambda a: a.weights_bytes / MEGABYTE)),
    ]
    caption = (
        f"{full.examples} pairs, {full.budget}, each at its own best rate. On a CPU peak memory is the process's, "
        "libraries included. Seconds are those of this machine, whatever else ran on it."
    )
    return _figure("method", "Adapters against full fine-tuning", caption, panels)


def forgetting(found: Comparison) -> Figure | None:
    """Return what was learned against what was forgotten."""
    base = _base(found)
    arms = [arm for arm in found.arms if arm.trained and arm.forgotten is not None]
    if not arms:
        return None
    learned = {a.name: _base(found, a.language).scores[BITS].value - a.scores[BITS].value for a in arms}
    across = axis("bits per byte gained on held-out pairs", [[*learned.values(), 0.0]], log=False)
    up = axis("bits per byte lost on the base's own text", [[*(a.forgotten or 0.0 for a in arms), 0.0]], log=False)
    zero = Series(base.name, "line", np.array(across.range), np.zeros(2), GREY, width=1.2, legend=False)
    series = [zero]
    for grid, color in zip(dict.fromkeys(arm.grid for arm in arms), COLORS, strict=False):
        own = sorted((a for a in arms if a.grid == grid), key=lambda a: (a.examples or 0, a.rank or 0))
        x, y = np.array([learned[a.name] for a in own]), np.array([a.forgotten for a in own])
        hover = [f"{arm_text(a, BITS)}<br>forgot {digits(a.forgotten)}" for a in own]
        series.append(Series(grid, "line", x, y, color, legend=False, width=1.2))
        series.append(Series(grid, "points", x, y, color, hover=hover))
    caption = (
        "Each point is an arm, the mean of its runs; a line joins the arms of one kind from the least pairs or rank to "
        "the most. Up is forgotten, right is learned; best is low and right."
    )
    return Figure("forgetting", "Learning against forgetting", caption, [Panel("forgetting", across, up, series)])


def similarity_passing(found: Comparison) -> Figure | None:
    """Return how well each similarity tells passing samples from failing ones."""
    known = [one for one in found.agreement if one.value is not None]
    if not known:
        return None
    y = np.arange(len(known), dtype=float)
    down = Axis("", False, (len(known) - 0.5, -0.5), [(i, one.metric) for i, one in enumerate(known)])
    values = np.array([one.value for one in known], dtype=float)
    across = axis("chance that the passing one of two samples has the higher value", [values, [0.5, 1.0]], log=False)
    hover = [
        f"{escape(o.metric)}: {digits(o.value)} [{digits(o.low)}, {digits(o.high)}], {o.tasks} tasks" for o in known
    ]
    bars = Series("area", "bars", values, y, COLORS[0], hover=hover, legend=False)
    caption = "Within a task, so that hard tasks say nothing. At .5 a similarity knows nothing of passing."
    return Figure("similarity", "BLEU against execution", caption, [Panel("similarity", across, down, [bars])])
