"""Tasks solved by programs and by tokens: each arm beside resampling, as one figure of two panels."""

from typing import Any

import numpy as np

from llama_scale.plotting.figure import Axis, Figure, Panel, Series, axis

COLORS = ("#5b6470", "#1f6fb4", "#c4521d", "#2e8b57", "#8a4fa3", "#b8860b", "#c2407f", "#20808d")


def curves(result: dict[str, Any], key: str, name: str = "") -> Figure:
    """Return the figure of a result: the second panel is left out where the tokens of some arm are not known.

    ``name`` tells several results apart in its title.
    """
    arms = result["arms"]
    tokens = all(point["tokens"] for arm in arms.values() for point in arm["curve"])
    panels = [_panel(arms, f"{key}-programs", "programs a task at most", "programs_at_most")]
    if tokens:
        panels.append(_panel(arms, f"{key}-tokens", "tokens of all tasks, prompts and critics included", "tokens"))
    caption = f"{result['n_tasks']} tasks; bars are 95 % intervals (Clopper and Pearson's)."
    return Figure(key, f"Tasks solved by each arm{name and ', '}{name}", caption, panels)


def _panel(arms: dict[str, Any], key: str, label: str, across: str) -> Panel:
    series, places = [], []
    for number, (name, arm) in enumerate(arms.items()):
        color, curve = COLORS[number % len(COLORS)], arm["curve"]
        x = np.array([point[across] for point in curve], dtype=float)  # (points,)
        rates = [point["rate"] for point in curve]
        y = np.array([100 * rate["value"] for rate in rates])  # (points,) %
        low, high = (np.array([100 * rate["interval"][side] for rate in rates]) for side in (0, 1))
        hover = [f"{name}: {point['solved']} of {point['chains']} at {point[across]:,}" for point in curve]
        series += [
            Series(name, "line", x, y, color, dash=name == "resample"),
            Series(name, "points", x, y, color, low=low, high=high, hover=hover, legend=False),
        ]
        places.append(x)
    down = Axis("tasks solved / %", False, (0.0, 100.0), [(v, f"{v:g}") for v in (0, 20, 40, 60, 80, 100)])
    return Panel(key, axis(label, places, log=False, show="count", zero=True), down, series)
