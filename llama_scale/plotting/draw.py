"""Draw figures: as plotly specifications for a page, and as PNG and SVG by matplotlib."""

import os
from contextlib import AbstractContextManager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from llama_scale.files import atomic_write
from llama_scale.plotting.figure import Axis, Figure, Panel, Series

TEXT, GRID, AXIS = "#1c2128", "#e7eaee", "#b5bcc5"
# Characters of a bar's name that a narrow page and a picture have room for.
NAME_ON_PAGE, NAME_IN_PICTURE = 28, 42
STYLE: dict[Any, Any] = {
    **{"font.size": 9.5, "svg.fonttype": "none", "axes.edgecolor": "#8a929c"},
    **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), TEXT),
}
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, Helvetica, Arial, sans-serif"


def plotly(panel: Panel) -> dict[str, Any]:
    """Return the data and layout of one panel for ``Plotly.newPlot``.

    The layout of bars has a height, and leaves fingers and wheels to the page.
    """
    data = [trace for series in panel.series for trace in _traces(series)]
    layout = {
        "font": {"family": FONT, "size": 13, "color": TEXT},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "margin": {"l": 62, "r": 14, "t": 10, "b": 52},
        "hovermode": "closest",
        "hoverlabel": {"bgcolor": "white", "bordercolor": GRID, "align": "left"},
        "showlegend": False,
        "xaxis": _plotly_axis(panel.x),
        "yaxis": _plotly_axis(panel.y),
        "annotations": [_label(panel, series) for series in panel.series if series.label],
    }
    if panel.has_bars:
        layout |= {"height": 68 + 26 * len(panel.y.ticks), "dragmode": False, "bargap": 0.2}
        layout["margin"] = {"l": 10, "r": 10, "t": 10, "b": 48}
        layout["yaxis"] |= {"automargin": True, "showgrid": False, "ticks": ""}
    return {"key": panel.key, "data": data, "layout": layout}


def _plotly_axis(axis: Axis) -> dict[str, Any]:
    ends = np.log10(axis.range).tolist() if axis.log else list(axis.range)
    return {
        "type": "log" if axis.log else "linear",
        "title": {"text": axis.label, "standoff": 8},
        "range": ends,
        "tickmode": "array",
        "tickvals": [value for value, _ in axis.ticks],
        "ticktext": [_shorten(text, NAME_ON_PAGE) for _, text in axis.ticks],
        "exponentformat": "power",
        "gridcolor": GRID,
        "linecolor": AXIS,
        "showline": True,
        "zeroline": False,
        "ticks": "outside",
        "ticklen": 4,
        "tickcolor": AXIS,
    }


def _traces(series: Series) -> list[dict[str, Any]]:
    x, y = series.x.tolist(), series.y.tolist()
    if series.kind == "bars":
        shown = {"hovertext": series.hover, "hoverinfo": "text", "marker": {"color": series.color}}
        bars = {"type": "bar", "orientation": "h", "name": series.name, "width": 0.8}
        return [bars | {"x": x, "y": y} | shown]
    common = {"type": "scatter", "name": series.name, "x": x, "hoverinfo": "skip"}
    if series.kind == "band" and series.low is not None and series.high is not None:
        edge = common | {"mode": "lines", "line": {"width": 0}}
        fill = {"fill": "tonexty", "fillcolor": _fade(series.color, 0.13)}
        return [edge | {"y": series.low.tolist()}, edge | {"y": series.high.tolist()} | fill]
    if series.kind == "line":
        line = {"color": series.color, "width": series.width, "dash": "dash" if series.dash else "solid"}
        return [common | {"y": y, "mode": "lines", "line": line}]
    marker = {"color": series.color, "size": 8, "line": {"width": 1, "color": "white"}}
    if series.ring:
        marker = {"color": series.color, "size": 15, "symbol": "circle-open", "line": {"width": 2}}
    trace = common | {"y": y, "mode": "markers", "marker": marker}
    trace |= {"hovertext": series.hover, "hoverinfo": "text"}
    if series.low is not None and series.high is not None:
        up, down = (series.high - series.y).tolist(), (series.y - series.low).tolist()
        error = {"type": "data", "symmetric": False, "array": up, "arrayminus": down}
        trace["error_y"] = error | {"thickness": 1.5, "width": 4}
    return [trace]


def _label(panel: Panel, series: Series) -> dict[str, Any]:
    x, y = float(series.x[-1]), float(series.y[-1])
    return {
        "x": float(np.log10(x)) if panel.x.log else x,
        "y": float(np.log10(y)) if panel.y.log else y,
        "text": series.label,
        "showarrow": False,
        "xanchor": "left",
        "xshift": 8,
        "font": {"color": series.color, "size": 12},
    }


def _shorten(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _fade(color: str, alpha: float) -> str:
    red, green, blue = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{alpha})"


def save(figure: Figure, folder: Path) -> list[Path]:
    """Write a figure as PNG and SVG, its panels side by side; return the paths."""
    paths = []
    for kind, content in picture(figure).items():
        path = folder / f"{figure.key}.{kind}"
        with atomic_write(path, "wb") as file:
            file.write(content)
        paths.append(path)
    return paths


def picture(figure: Figure) -> dict[str, bytes]:
    """Return a figure as files of the kinds "png" and "svg", its panels side by side."""
    found = {}
    with _styled({**STYLE, "svg.hashsalt": figure.key}):
        wide = len(figure.panels)
        canvas, panels = _new_canvas((6.4 if wide == 1 else 4.6 * wide, 4.0), (1, wide))
        for axes, panel in zip(panels, figure.panels, strict=True):
            _draw(axes, panel)
        _draw_legend(canvas, figure)
        kinds = {"png": {"dpi": 200, "metadata": {"Software": None}}, "svg": {"metadata": {"Date": None}}}
        for kind, options in kinds.items():
            file = BytesIO()
            canvas.savefig(file, format=kind, facecolor="white", **options)
            found[kind] = file.getvalue()
    return found


def save_sheet(figures: list[Figure], path: Path) -> None:
    """Write figures of one panel each as one PNG, two in a row with their titles."""
    rows = (len(figures) + 1) // 2
    with _styled(STYLE), atomic_write(path, "wb") as file:
        canvas, places = _new_canvas((14, 4.4 * rows), (rows, 2))
        for axes, figure in zip(places, figures, strict=False):
            _draw(axes, figure.panels[0])
            axes.set_title(figure.title, fontsize=11, loc="left")
        for axes in places[len(figures) :]:
            axes.set_axis_off()
        canvas.savefig(file, format="png", metadata={"Software": None})


def _styled(style: dict[Any, Any]) -> AbstractContextManager[None]:
    """Return a context in which matplotlib has a style.

    It is imported without MPLBACKEND, which names a window that nothing here opens and may not exist.
    """
    backend = os.environ.pop("MPLBACKEND", None)
    try:
        from matplotlib import rc_context
    finally:
        if backend is not None:
            os.environ["MPLBACKEND"] = backend
    return rc_context(style)


def _new_canvas(size: tuple[float, float], shape: tuple[int, int]) -> tuple[Any, np.ndarray]:
    """Return a matplotlib figure of ``size`` inches and its axes, (rows * columns,)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=size, layout="constrained")
    FigureCanvasAgg(canvas)
    return canvas, canvas.subplots(*shape, squeeze=False).ravel()


def _draw_legend(canvas: Any, figure: Figure) -> None:
    """Write the names of the figure's series above its panels."""
    drawn = {h.get_label(): h for a in canvas.axes for h in a.get_legend_handles_labels()[0]}
    handles = [drawn[series.name] for series in figure.legend]
    if handles:
        space = {"handletextpad": 0.4, "columnspacing": 1.2, "frameon": False, "fontsize": 8.5}
        canvas.legend(handles=handles, loc="outside upper left", ncols=4 * len(figure.panels), **space)


def _draw(axes: Any, panel: Panel) -> None:
    """Draw a panel on matplotlib's axes."""
    for name, spec in (("x", panel.x), ("y", panel.y)):
        scale, set_ticks = "log" if spec.log else "linear", getattr(axes, f"set_{name}ticks")
        axes.set(**{f"{name}scale": scale, f"{name}lim": spec.range, f"{name}label": spec.label})
        texts = [_shorten(text, NAME_IN_PICTURE) for _, text in spec.ticks]
        set_ticks([value for value, _ in spec.ticks], texts, parse_math=False)
        set_ticks([], minor=True)
    if panel.has_bars:
        axes.tick_params(axis="y", labelsize=8, length=0)
    axes.grid(color=GRID, linewidth=0.8, axis="x" if panel.has_bars else "both")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    for series in panel.series:
        _draw_series(axes, series)


def _draw_series(axes: Any, series: Series) -> None:
    """Draw one series on matplotlib's axes."""
    x, y, color = series.x, series.y, series.color
    label = series.name if series.legend else None
    if series.kind == "band":
        axes.fill_between(x, series.low, series.high, color=color, alpha=0.13, linewidth=0)
    elif series.kind == "line":
        style = "--" if series.dash else "-"
        axes.plot(x, y, style, color=color, linewidth=0.8 * series.width, label=label)
    elif series.kind == "bars":
        axes.barh(y, x, color=color)
    elif series.ring:
        axes.plot(x, y, "o", ms=10, mfc="none", mec=color, mew=1.6, label=label)
    else:
        if series.low is not None and series.high is not None:
            spread = [y - series.low, series.high - y]
            axes.errorbar(x, y, spread, fmt="none", ecolor=color, elinewidth=1.2, capsize=3)
        axes.plot(x, y, "o", ms=5.5, color=color, mec="white", mew=0.7, label=label)
    if series.label:
        where = {"textcoords": "offset points", "va": "center", "fontsize": 8.5}
        axes.annotate(series.label, (x[-1], y[-1]), (6, 0), color=color, **where)
