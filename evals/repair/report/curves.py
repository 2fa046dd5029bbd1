"""Tasks solved by programs and by tokens: each arm beside resampling, as one figure of two panels."""

from typing import Any

import numpy as np

from llama_scale.plotting.figure import Axis, Figure, Panel, Series, axis

TOPS = {10: 2, 20: 5, 40: 10, 60: 20, 80: 20, 100: 20}  # ends of an axis of per cent with the steps of its ticks
APART = 0.06  # programs between arms of as many, so that no bar hides another
COLORS = ("#5b6470", "#1f6fb4", "#c4521d", "#2e8b57", "#8a4fa3", "#b8860b", "#c2407f", "#20808d")


def curves(result: dict[str, Any], key: str, name: str = "") -> Figure:
    """Return the figure of a result: the second panel is left out where the tokens of some arm are not known.

    ``name`` tells several results apart in its title.
    """
    arms = result["arms"]
    tokens = all(point["tokens"] for arm in arms.values() for point in arm["curve"])
    panels = [_panel(arms, f"{key}-programs", "programs a task at most", "programs_at_most")]
    if tokens:
        panels.append(_panel(arms, f"{key}-tokens", "tokens, with prompts and critics", "tokens"))
    caption = f"{result['n_tasks']} tasks; bars are 95 % intervals (Clopper and Pearson's)."
    return Figure(key, f"Tasks solved by each arm{name and ', '}{name}", caption, panels)


def _panel(arms: dict[str, Any], key: str, label: str, across: str) -> Panel:
    series, places, highest = [], [], 0.0
    for number, (name, arm) in enumerate(arms.items()):
        color, curve = COLORS[number % len(COLORS)], arm["curve"]
        x = np.array([point[across] for point in curve], dtype=float)  # (points,)
        x += APART * beside(number, len(arms)) if across != "tokens" else 0.0
        rates = [point["rate"] for point in curve]
        y = np.array([100 * rate["value"] for rate in rates])  # (points,) %
        low, high = (np.array([100 * rate["interval"][side] for rate in rates]) for side in (0, 1))
        hover = [f"{name}: {point['solved']} of {point['chains']} at {point[across]:,}" for point in curve]
        series += [
            Series(name, "line", x, y, color, dash=name == "resample"),
            Series(name, "points", x, y, color, low=low, high=high, hover=hover, legend=False),
        ]
        places.append(x)
        highest = max(highest, high.max())
    top = next(top for top in TOPS if highest <= top + 1e-9)
    down = Axis("tasks solved / %", False, (0.0, float(top)), [(v, f"{v}") for v in range(0, top + 1, TOPS[top])])
    return Panel(key, axis(label, places, log=False, show="count", zero=True), down, series)


def beside(number: int, count: int) -> float:
    """Return how many places from the middle number ``number`` of ``count`` stands."""
    return number - (count - 1) / 2
