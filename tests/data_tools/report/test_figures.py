"""The data report in a real browser, with names too long for a narrow page."""

import gzip
import json
import re

import pytest

from data_tools.report.page import write_report
from tests.browser import load_page

LONG = "Apache-2.0 AND BSD-3-Clause AND "
LICENSES = [f"{LONG}MIT", f"{LONG}ISC", "Apache-2.0 AND BSD-3-Clauses"]


@pytest.fixture
def page(tmp_path):
    packages = [
        {"package": f"p{i}", "files": 1, "bytes": 2_000_000 - i, "license": name,
         "split": "val" if i else "train"}
        for i, name in enumerate(LICENSES)
    ]  # fmt: skip
    split = {"tokens": 900, "documents": 2, "bytes": 2_000_000}
    manifest = {
        "name": "x", "splits": {"train": split, "val": split}, "sources": packages,
        "dropped": {"license": {"files": 3, "bytes": 1_000}}, "examples": {"license": ["a: b.py"]},
        "licenses": {row["license"]: row for row in packages}, "settings": {"seed": 0},
    }  # fmt: skip
    with gzip.open(tmp_path / "documents.jsonl.gz", "wt") as file:
        file.writelines(json.dumps({"tokens": n}) + "\n" for n in (10, 30, 400))
    (tmp_path / "near.jsonl").write_text(json.dumps({"jaccard": 0.8}) + "\n")
    write_report(tmp_path, manifest, {"benchmarks": {}, "files": []})
    return tmp_path / "report.html"


def test_no_tools_cover_a_bar_and_names_leave_room_for_theirs(page, tmp_path):
    dom, console = load_page(page, tmp_path / "profile", 600)
    assert not console
    body = re.sub(r"<(script|style).*?</\1>", "", dom, flags=re.DOTALL)
    drawn = re.split(r'<div id="figure-\d+"', body)[1:]
    assert len(drawn) == 6
    for figure in drawn:
        assert 'class="point"' in figure and "modebar-btn" not in figure
    licenses = drawn[2]
    assert licenses.count('class="point"') == 3, "equal beginnings are not one bar"
    shown = re.findall(r'class="ytick"><text[^>]*>([^<]*)', licenses)
    assert shown == ["Apache-2.0 AND BSD-3-Clause…"] * 2 + [LICENSES[2]]


def test_every_figure_has_its_place_on_the_page(page):
    text = page.read_text()
    panels = json.loads(re.search(r"^const panels = (.*);$", text, re.MULTILINE)[1])
    assert [panel["key"] for panel in panels] == [
        "source-to-shards-bytes", "source-to-shards-files", "licenses", "packages",
        "document-tokens", "near-duplicates",
    ]  # fmt: skip
    assert text.count('<div id="figure-') == len(panels)
    assert panels[4]["layout"]["yaxis"]["ticktext"] == [
        "up to 16", "up to 32", "up to 64", "up to 128", "up to 256", "up to 512",
    ]  # fmt: skip
    assert panels[4]["data"][0]["x"] == [1.0, 1.0, 0.0, 0.0, 0.0, 1.0]
    assert page.with_name("report.png").read_bytes()[:4] == b"\x89PNG"
