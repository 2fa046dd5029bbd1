"""The data report in a real browser, with names too long for a narrow page."""

import gzip
import json
import re
import shutil
import subprocess

import pytest

from data_tools.report.page import write_report
from tests.llama_scale.scaling.report.test_browser import NAMES

LONG = "Apache-2.0 AND BSD-3-Clause AND "
LICENCES = [f"{LONG}MIT", f"{LONG}ISC", "Apache-2.0 AND BSD-3-Clauses"]


@pytest.fixture
def page(tmp_path):
    packages = [
        {"package": f"p{i}", "files": 1, "bytes": 2_000_000 - i, "license": name,
         "split": "val" if i else "train"}
        for i, name in enumerate(LICENCES)
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
    browser = next(filter(None, map(shutil.which, NAMES)), None)
    if browser is None:
        pytest.skip("no Chromium on this machine")
    done = subprocess.run(
        [browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr",
         "--window-size=600,900", f"--user-data-dir={tmp_path / 'profile'}",
         "--virtual-time-budget=20000", "--dump-dom", page.as_uri()],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    if "<title>" not in done.stdout:
        pytest.skip("Chromium does not start on this machine")
    assert "CONSOLE" not in done.stderr
    body = re.sub(r"<(script|style).*?</\1>", "", done.stdout, flags=re.DOTALL)
    drawn = re.split(r'<div id="figure-\d+"', body)[1:]
    assert len(drawn) == 6
    for figure in drawn:
        assert 'class="point"' in figure and "modebar-btn" not in figure
    licenses = drawn[2]
    assert licenses.count('class="point"') == 3, "equal beginnings are not one bar"
    shown = re.findall(r'class="ytick"><text[^>]*>([^<]*)', licenses)
    assert shown == ["Apache-2.0 AND BSD-3-Clause…"] * 2 + [LICENCES[2]]
