"""A page of interactive figures as one file with everything it needs inside it."""

import base64
import json
import sys
from importlib.resources import files
from typing import Any

from llama_scale.plotting.draw import picture, plotly
from llama_scale.plotting.figure import Figure


def render(package: str, figures: list[Figure], **values: Any) -> str:
    """Return the page that a package's report.html.j2 makes of figures and ``values``.

    It extends page.html.j2, which shows ``title``, the sentences of ``answer``, ``tiles`` of (what, value, detail), the
    figures and ``tables``, and has blocks for the rest. The template gets plotly's library as ``plotlyjs`` and the
    panels of all figures, in order, as ``panels``: JSON of {"key", "data", "layout"} for Plotly.newPlot. Where plotly
    is not installed ``plotlyjs`` is empty, standard error says so, and ``pictures`` has the address of a still image of
    each figure, in order.
    """
    from jinja2 import DictLoader, Environment, StrictUndefined

    plotlyjs, pictures = "", []
    try:
        from plotly.offline import get_plotlyjs

        plotlyjs = get_plotlyjs()
    except ModuleNotFoundError:
        print("report.html: plotly is not installed, so the figures are still images", file=sys.stderr)
        pictures = [data_address(picture(figure)["svg"]) for figure in figures]

    places = {"page.html.j2": "llama_scale.plotting", "report.html.j2": package}
    templates = DictLoader({name: files(at).joinpath(name).read_text(encoding="utf-8") for name, at in places.items()})
    environment = Environment(
        loader=templates, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    panels = [plotly(panel) for figure in figures for panel in figure.panels]
    return environment.get_template("report.html.j2").render(
        figures=figures, plotlyjs=plotlyjs, pictures=pictures, panels=script_safe(panels), **values
    )


def data_address(svg: bytes) -> str:
    """Return the address that holds a picture itself."""
    return f"data:image/svg+xml;base64,{base64.b64encode(svg).decode()}"


def script_safe(value: Any) -> str:
    """Return JSON that can stand inside a script element whatever its strings hold."""
    encoded = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return encoded.replace("<", "\\u003c").replace("&", "\\u0026")
