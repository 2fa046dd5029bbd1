"""What the report of a build shows, as plain data that plotly and matplotlib both draw."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

COLOUR = "#3b6ea8"
LOST = "#c8434f"
SHOWN = 14  # bars of a figure before the rest is summed
LABEL = 28  # characters of a bar's name that a narrow page has room for


@dataclass(frozen=True)
class Figure:
    """Horizontal bars, the first on top.

    Attributes:
        title: What it shows.
        axis: Label of the values, with their unit.
        bars: (name, value, colour) of each.
        log: Whether the values are on a logarithmic axis.
    """

    title: str
    axis: str
    bars: list[tuple[str, float, str]]
    log: bool = False


def build_figures(manifest: dict, lengths: np.ndarray, near: list[float]) -> list[Figure]:
    """Return the figures of a build.

    Args:
        manifest: Its manifest.
        lengths: (D,) tokens of each document.
        near: Jaccard index of each near duplicate with its survivor.
    """
    figures = [
        funnel(manifest, "bytes", 1e-6, "MB"),
        funnel(manifest, "files", 1, "files"),
        ranked("Licenses of what is kept", "MB", license_sizes(manifest)),
        ranked("Largest packages", "MB", package_sizes(manifest)),
        histogram("Tokens of a document", "documents", lengths),
    ]
    if near:
        edges = np.linspace(0.7, 1.0, 7)
        counts, _ = np.histogram(near, edges)
        bars = [
            (f"{a:.2f} to {b:.2f}", float(n), LOST)
            for a, b, n in zip(edges[:-1], edges[1:], counts, strict=True)
        ]
        figures.append(Figure("Likeness of near duplicates to what stays", "files", bars))
    return figures


def funnel(manifest: dict, unit: str, scale: float, label: str) -> Figure:
    """Return what the source had, what each step took from it and what is left."""
    lost, splits = manifest["dropped"], manifest["splits"]
    field = "documents" if unit == "files" else "bytes"
    kept = sum(row[field] for row in splits.values())
    bars = [("source", kept + sum(row[unit] for row in lost.values()), COLOUR)]
    for reason, row in sorted(lost.items(), key=lambda item: (-item[1][unit], item[0])):
        bars.append((f"− {reason.replace('_', ' ')}", row[unit], LOST))
    bars += [(name, row[field], COLOUR) for name, row in splits.items()]
    return Figure(
        f"From source to shards, {label}", label, [(n, v * scale, c) for n, v, c in bars], log=True
    )


def ranked(title: str, axis: str, values: dict[str, float]) -> Figure:
    """Return the largest values, the others as one."""
    order = sorted(values.items(), key=lambda item: (-item[1], item[0]))
    bars = [(name, value, COLOUR) for name, value in order[:SHOWN]]
    if rest := order[SHOWN:]:
        bars.append((f"{len(rest)} others", sum(value for _, value in rest), COLOUR))
    return Figure(title, axis, bars)


def license_sizes(manifest: dict) -> dict[str, float]:
    """Return license -> MB kept."""
    return {name: row["bytes"] / 1e6 for name, row in manifest["licenses"].items()}


def package_sizes(manifest: dict) -> dict[str, float]:
    """Return package -> MB kept."""
    sizes = Counter()
    for row in manifest["sources"]:
        sizes[row["package"]] += row["bytes"] / 1e6
    return dict(sizes)


def histogram(title: str, axis: str, values: np.ndarray) -> Figure:
    """Return how many values are between powers of two."""
    powers = np.bincount(np.ceil(np.log2(np.maximum(values, 1))).astype(int), minlength=1)
    bars = [(f"up to {1 << power:,}", float(count), COLOUR) for power, count in enumerate(powers)]
    first = next((i for i, bar in enumerate(bars) if bar[1]), 0)
    return Figure(title, axis, bars[first:])


def draw_png(figures: list[Figure]) -> bytes:
    """Return one PNG of all figures, two in a row: the same bytes for the same figures."""
    import io

    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    rows = (len(figures) + 1) // 2
    canvas = Canvas(figsize=(14, 4.4 * rows), layout="constrained")
    axes = canvas.subplots(rows, 2, squeeze=False).ravel()
    for axis, figure in zip(axes, figures, strict=False):
        names, values, colours = zip(*figure.bars[::-1], strict=True)
        places = range(len(names))
        axis.barh(places, values, color=colours)
        axis.set_yticks(places, [name[:42] for name in names], fontsize=8, parse_math=False)
        axis.set_title(figure.title, fontsize=11, loc="left")
        axis.set_xlabel(figure.axis, fontsize=9)
        if figure.log and any(values):
            axis.set_xscale("symlog", linthresh=min(v for v in values if v))
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes[len(figures) :]:
        axis.set_axis_off()
    file = io.BytesIO()
    FigureCanvasAgg(canvas).print_png(file, metadata={"Software": None})
    return file.getvalue()


def plotly(figure: Figure) -> dict[str, Any]:
    """Return the figure as plotly's JSON; a finger or wheel on it moves the page."""
    names, values, colours = zip(*figure.bars, strict=True)
    labels = [name if len(name) <= LABEL else f"{name[: LABEL - 1]}…" for name in names]
    axis = {"title": {"text": figure.axis}, "type": "log" if figure.log else "linear"}
    return {
        "data": [
            {
                "type": "bar",
                "orientation": "h",
                "x": values,
                "y": names,
                "marker": {"color": colours},
                "hovertemplate": "%{y}: %{x:,.6~g}<extra></extra>",
            }
        ],
        "layout": {
            "xaxis": axis,
            "yaxis": {
                "autorange": "reversed", "automargin": True, "type": "category",
                "tickvals": names, "ticktext": labels,
            },
            "dragmode": False,
            "margin": {"l": 10, "r": 10, "t": 10, "b": 40},
            "height": 60 + 26 * len(names),
            "font": {"family": "system-ui, sans-serif", "size": 12},
        },
    }  # fmt: skip
