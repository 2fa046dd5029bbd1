"""Bars as plain data, for a page and as a picture."""

import base64
import os
import re
import subprocess
import sys

import numpy as np
import plotly.graph_objects
import pytest

from llama_scale.plotting.draw import plotly as plotly_panel
from llama_scale.plotting.draw import save, save_sheet
from llama_scale.plotting.figure import Bar, Figure, bar_panel, ticks
from llama_scale.plotting.page import render
from tests.conftest import ROOT

LONG = "Apache-2.0 AND BSD-3-Clause AND "
BARS = [Bar(f"{LONG}MIT", 40.0, "#3b6ea8"), Bar(f"{LONG}ISC", 5.0, "#c8434f"),
        Bar("none & <$x_2$", 0.0, "#3b6ea8")]  # fmt: skip


@pytest.mark.parametrize("log", [True, False])
def test_bars_on_a_page(log):
    drawn = plotly_panel(bar_panel("licenses", "MB", BARS, log))
    plotly.graph_objects.Figure(data=drawn["data"], layout=drawn["layout"])
    lengths = {y: x for trace in drawn["data"] for y, x in zip(trace["y"], trace["x"], strict=True)}
    assert lengths == {0: 40.0, 1: 5.0, 2: 0.0}, "equal beginnings are not one bar"
    colors = {trace["marker"]["color"] for trace in drawn["data"]}
    assert colors == {"#3b6ea8", "#c8434f"}
    low, high = drawn["layout"]["yaxis"]["range"]
    assert low > high, "the first is on top"
    names = drawn["layout"]["yaxis"]["ticktext"]
    assert names == ["Apache-2.0 AND BSD-3-Clause…"] * 2 + ["none & <$x_2$"]
    assert drawn["layout"]["height"] == 68 + 3 * 26
    hovers = [text for trace in drawn["data"] for text in trace["hovertext"]]
    assert f"{LONG}MIT: 40" in hovers and "none &amp; &lt;$x_2$: 0" in hovers
    (left, right), longest = drawn["layout"]["xaxis"]["range"], np.log10(40) if log else 40.0
    assert left < right and longest < right
    assert left < np.log10(5) if log else left == 0


def test_bars_of_nothing_can_be_drawn(tmp_path):
    empty = [Bar("a", 0.0, "#3b6ea8")]
    figures = [Figure(f"f{log}", "Empty", "", [bar_panel("e", "files", empty, log)])
               for log in (True, False)]  # fmt: skip
    save_sheet(figures, tmp_path / "sheet.png")
    assert (tmp_path / "sheet.png").read_bytes()[:4] == b"\x89PNG"


def test_equal_bars_give_equal_pictures(tmp_path):
    figure = Figure("bars", "Bars", "", [bar_panel("bars", "MB", BARS, log=True)])
    for name in ("one", "two"):
        save_sheet([figure] * 3, tmp_path / f"{name}.png")
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    assert [path.name for path in save(figure, tmp_path)] == ["bars.png", "bars.svg"]


@pytest.mark.parametrize(
    ("low", "high", "log", "expected"),
    [
        (2.4, 5.1, True, [2.5, 3, 3.5, 4, 4.5, 5]),
        (4e11, 9e14, True, [1e12, 1e13, 1e14]),
        (1e12, 9e13, True, [1e12, 2e12, 5e12, 1e13, 2e13, 5e13]),
        (-1.1, 1.1, False, [-1, -0.5, 0, 0.5, 1]),
    ],
)
def test_ticks_are_round(low, high, log, expected):
    assert [value for value, _ in ticks(low, high, log, "plain")] == pytest.approx(expected)


def test_a_page_without_plotly_has_still_images(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "plotly", None)
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    figures = [Figure(name, name.title(), "", [bar_panel(name, "MB", BARS, log=True)]) for name in ("one", "two")]
    values = {
        "manifest": {"name": "corpus", "dropped": {}, "licenses": {}, "settings": {}},
        "contamination": {"benchmarks": {}, "files": []},
        "tiles": [],
    }
    html = render("data_tools.report", figures, **values)
    pictures = [base64.b64decode(found) for found in re.findall(r'src="data:image/svg\+xml;base64,([^"]+)"', html)]
    assert len(pictures) == 2 and all(picture.startswith(b"<?xml") for picture in pictures)
    assert "<script" not in html
    assert "plotly is not installed" in capsys.readouterr().err


@pytest.mark.parametrize("backend", ["module://matplotlib_inline.backend_inline", "nonsense", ""])
def test_a_backend_for_windows_does_not_matter(tmp_path, backend):
    """No window is opened, so one that is not installed is not looked for; the variable stays as it was."""
    code = """
import os, sys
from pathlib import Path
from llama_scale.plotting.draw import save
from llama_scale.plotting.figure import Bar, Figure, bar_panel
save(Figure("bars", "Bars", "", [bar_panel("x", "y", [Bar("a", 1.0, "#3b6ea8")], False)]), Path(sys.argv[1]))
print(os.environ["MPLBACKEND"])
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "MPLBACKEND": backend}
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == backend and (tmp_path / "bars.png").stat().st_size > 1000


@pytest.mark.parametrize("middle", [1e20, 3e25, 1e-13])
def test_ticks_of_a_narrow_range_of_large_or_tiny_numbers_are_numbers(middle):
    """Runs of one budget: Python's whole numbers beyond int64 have no logarithm in NumPy, and 1e-13 hours were 0."""
    found = [value for value, _ in ticks(0.97 * middle, 1.05 * middle, True, "power")]
    assert 3 <= len(found) <= 9 and np.isfinite(np.log(found)).all()
    assert all(0.97 * middle <= value <= 1.05 * middle for value in found)
