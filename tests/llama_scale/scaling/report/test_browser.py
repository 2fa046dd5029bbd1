"""The report in a real browser: every figure drawn, and nothing on the console."""

import re

import pytest

from llama_scale.scaling.report.page import write_report
from tests.browser import load_page
from tests.llama_scale.scaling.helpers import fit_study


@pytest.mark.parametrize("width", [390, 1280])
def test_every_figure_is_drawn_without_a_word_on_the_console(tmp_path, width):
    fit_study(tmp_path)
    write_report(tmp_path)
    page = tmp_path / "report.html"
    dom, console = load_page(page, tmp_path / "profile", width)
    assert console == []
    panels = re.findall(r'<div class="plot[^"]*" id="plot-([^"]+)"', dom)
    assert len(panels) > 10 and f'data-drawn="{len(panels)}"' in dom
    for panel, rest in zip(panels, re.split(r'id="plot-[^"]+"', dom)[1:], strict=True):
        assert "main-svg" in rest and 'class="trace' in rest, panel
    # The check sees what it is there to see.
    page.write_text(page.read_text().replace("Plotly.newPlot(", "Plotly.newPlott("))
    dom, console = load_page(page, tmp_path / "profile", width)
    assert console and "data-drawn" not in dom.split("<script")[0]
