"""Several studies side by side by the size of their models: from which size on repair pays, and against what."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from evals.repair.report.curves import COLORS, beside
from llama_scale.plotting.figure import Figure, Panel, Series, axis
from llama_scale.text import count

Row = dict[str, Any]
APART = 1.03  # times between arms of one size, so that no bar hides another


@dataclass(frozen=True)
class Rung:
    """One study of a ladder: its name, the parameters of its model, its result."""

    name: str
    parameters: int
    result: Row


def comparison(arm: Row) -> tuple[str, Row] | None:
    """Return what an arm's difference to resampling is at equal tokens, else at equal programs, None if at neither."""
    against = arm.get("against_resample", {})
    for kind in ("equal_tokens", "equal_programs"):
        if kind in against:
            return kind.removeprefix("equal_"), against[kind]
    return None


def ladder(rungs: Sequence[Rung], key: str = "repair-ladder") -> Figure:
    """Return what each arm gains over one sample, and over resampling at equal cost, by the size of the model."""
    rungs = sorted(rungs, key=lambda rung: rung.parameters)
    panels = []
    for name, label, value in (
        ("gain", "gain over one sample / points", lambda arm: arm["gain"]),
        ("resample", "gain over resampling / points", lambda arm: (comparison(arm) or (None, None))[1]),
    ):
        found = {}
        for rung in rungs:
            for arm, data in rung.result["arms"].items():
                if (gap := value(data)) is not None:
                    found.setdefault(arm, []).append((rung, gap))
        if found:
            panels.append(_panel(f"{key}-{name}", label, found, list(_arms(rungs))))
    caption = (
        "Each point is one model, its bar the 95 % interval over tasks; arms of one model stand side by side. Resample "
        "is as many independent samples, of which the visible tests choose. Above 0 it pays: on the left against one "
        "program, on the right against independent samples that cost as many tokens (programs, where tokens are not "
        "known)."
    )
    return Figure(key, "At which size does repair begin to pay?", caption, panels)


def stages(rungs: Sequence[Rung], key: str = "repair-ladder-stages") -> Figure:
    """Return how many tasks have a program that compiles, and one that holds the visible tests, by the model's size."""
    rungs = sorted(rungs, key=lambda rung: rung.parameters)
    panels = []
    for name, label in (("parses", "programs that compile / % of tasks"), ("holds", "visible tests hold / % of tasks")):
        found: dict[str, list[tuple[Rung, Row]]] = {}
        for rung in rungs:
            for arm, data in rung.result["arms"].items():
                share = next(iter(data["selection"].values()))[name]
                found.setdefault(arm, []).append((rung, share | {"difference": share["value"]}))
        panels.append(_panel(f"{key}-{name}", label, found, list(_arms(rungs))))
    caption = (
        "Of the programs handed in, with 95 % intervals (Clopper and Pearson's): what tells models apart, and arms, "
        "where hardly a task is solved."
    )
    return Figure(key, "Before tasks are solved", caption, panels)


def _arms(rungs: Sequence[Rung]) -> dict[str, None]:
    return dict.fromkeys(arm for rung in rungs for arm in rung.result["arms"])


def _panel(key: str, label: str, found: dict[str, list[tuple[Rung, Row]]], arms: Sequence[str]) -> Panel:
    series, sizes, gaps = [], [], [np.zeros(1)]
    for name, points in found.items():
        color = COLORS[list(arms).index(name) % len(COLORS)]
        x = np.array([rung.parameters for rung, _ in points], dtype=float)  # (rungs,)
        x *= APART ** beside(list(arms).index(name), len(arms))
        y = np.array([100 * gap["difference"] for _, gap in points])  # (rungs,) points
        low, high = (np.array([100 * gap["interval"][side] for _, gap in points]) for side in (0, 1))
        hover = [
            f"{name}, {rung.name}: {100 * gap['difference']:+.1f} [{100 * gap['interval'][0]:+.1f}, "
            f"{100 * gap['interval'][1]:+.1f}]"
            for rung, gap in points
        ]
        series += [
            Series(name, "line", x, y, color, dash=name == "resample"),
            Series(name, "points", x, y, color, low=low, high=high, hover=hover, legend=False),
        ]
        sizes.append(x)
        gaps += [low, high]
    across = axis("parameters N", sizes, show="count")
    if across.range[1] / across.range[0] < 1.2:  # one size alone
        low, high = across.range[0] / 2, across.range[1] * 2
        across = axis("parameters N", [[low, high]], show="count")
    down = axis(label, gaps, log=False)
    zero = Series("no gain", "line", np.array(across.range), np.zeros(2), "#8a929c", legend=False, width=1.0)
    return Panel(key, across, down, [zero, *series])


def pays_from(rungs: Sequence[Rung]) -> list[str]:
    """Say for each arm at which size of the ladder it begins to pay: its interval is above 0 there and beyond."""
    rungs, lines = sorted(rungs, key=lambda rung: rung.parameters), []
    for arm in _arms(rungs):
        known = [(rung, comparison(rung.result["arms"][arm])) for rung in rungs if arm in rung.result["arms"]]
        gaps = [(rung, *found) for rung, found in known if found]
        if not gaps:
            continue
        first = None
        for rung, kind, gap in reversed(gaps):
            if gap["interval"][0] <= 0:
                break
            first = rung, kind, gap
        if first:
            rung, kind, gap = first
            low, high = (100 * end for end in gap["interval"])
            gain = f"{100 * gap['difference']:+.1f} points [{low:+.1f}, {high:+.1f}] at equal {kind}"
            lines.append(f"{arm} pays from {count(rung.parameters)} parameters on ({rung.name}): {gain}.")
        else:
            sizes = ", ".join(count(rung.parameters) for rung, _, gap in gaps if gap["interval"][0] > 0)
            where = f"pays at {sizes} parameters, not at the largest size" if sizes else "pays at no size"
            span = [count(gaps[place][0].parameters) for place in (0, -1)]
            of = f"{where} of {len(gaps)}, {span[0]} to {span[1]}"
            lines.append(f"{arm} {of if len(gaps) > 1 else f'does not pay at {span[0]} parameters'}.")
    return lines
