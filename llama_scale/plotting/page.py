"""A page of interactive figures as one file with everything it needs inside it."""

import json
from importlib.resources import files
from typing import Any

from llama_scale.plotting.draw import plotly
from llama_scale.plotting.figure import Figure


def render(package: str, figures: list[Figure], **values: Any) -> str:
    """Return the page that a package's report.html.j2 makes of figures and ``values``.

    The template gets plotly's library as ``plotlyjs`` and the panels of all figures, in order, as ``panels``: JSON of
    {"key", "data", "layout"} for Plotly.newPlot.
    """
    from jinja2 import Environment, StrictUndefined
    from plotly.offline import get_plotlyjs

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = files(package).joinpath("report.html.j2").read_text(encoding="utf-8")
    panels = [plotly(panel) for figure in figures for panel in figure.panels]
    return environment.from_string(template).render(
        figures=figures, plotlyjs=get_plotlyjs(), panels=script_safe(panels), **values
    )


def script_safe(value: Any) -> str:
    """Return JSON that can stand inside a script element whatever its strings hold."""
    encoded = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return encoded.replace("<", "\\u003c").replace("&", "\\u0026")
