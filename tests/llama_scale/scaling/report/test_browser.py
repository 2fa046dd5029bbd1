"""The report in a real browser: every figure drawn, and nothing on the console."""

import re
import shutil
import subprocess

import pytest

from llama_scale.scaling.report.page import write_report
from tests.llama_scale.scaling.helpers import fit_study

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


@pytest.mark.parametrize("width", [390, 1280])
def test_every_figure_is_drawn_without_a_word_on_the_console(tmp_path, width):
    browser = next(filter(None, map(shutil.which, NAMES)), None)
    if browser is None:
        pytest.skip("no Chromium on this machine")
    fit_study(tmp_path)
    write_report(tmp_path)
    page = tmp_path / "report.html"

    def load():
        done = subprocess.run(
            [browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr",
             f"--window-size={width},900", f"--user-data-dir={tmp_path / 'profile'}",
             "--virtual-time-budget=20000", "--dump-dom", page.as_uri()],
            capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]

    dom, said = load()
    if "<title>" not in dom:
        pytest.skip("Chromium does not start on this machine")
    assert said == []
    panels = re.findall(r'<div class="plot[^"]*" id="plot-([^"]+)"', dom)
    assert len(panels) > 10 and f'data-drawn="{len(panels)}"' in dom
    for panel, rest in zip(panels, re.split(r'id="plot-[^"]+"', dom)[1:], strict=True):
        assert "main-svg" in rest and 'class="trace' in rest, panel
    # The check sees what it is there to see.
    page.write_text(page.read_text().replace("Plotly.newPlot(", "Plotly.newPlott("))
    dom, said = load()
    assert said and "data-drawn" not in dom.split("<script")[0]
