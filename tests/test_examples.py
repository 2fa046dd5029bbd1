"""The examples and what README and CONTRIBUTING say, tried as their reader would."""

import itertools
import json
import os
import re
import runpy
import subprocess
import sys
from dataclasses import asdict

import pytest

from llama_scale.checkpoint.folder import save_weights
from llama_scale.config import ModelConfig
from llama_scale.model.llama import Llama
from tests.conftest import ROOT, VOCAB

NOTEBOOK = ROOT / "examples" / "fit_your_csv.ipynb"
SNIPPET = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def workplace(tiny_data, tmp_path_factory):
    """A folder with the run and the study that the README makes, here tiny ones."""
    folder = tmp_path_factory.mktemp("workplace")
    config = ModelConfig(d_model=32, n_layers=1, n_heads=2, d_ff=64, vocab_size=VOCAB, context_length=128)
    weights = Llama(config).init_weights(seed=0).state_dict()
    meta = {"model": asdict(config), "step": 7, "tokens": 448, "data": str(tiny_data)}
    checkpoint = folder / "runs" / "tour" / "checkpoints" / "step-00000007"
    save_weights(checkpoint, weights, meta, tiny_data / "tokenizer.model")
    rows = [
        f"{N},{D},{1.7 + 400 * N**-0.34 + 410 * D**-0.28 + 0.001 * (number % 3):.5f}"
        for number, (N, D) in enumerate(itertools.product((1e6, 4e6, 2e7), (3e6, 3e7, 2e8)))
    ]
    points = folder / "studies" / "quickstart" / "points.csv"
    points.parent.mkdir(parents=True)
    points.write_text("\n".join(["N,D,loss", *rows]) + "\n")
    return folder


@pytest.fixture
def here(workplace, monkeypatch):
    monkeypatch.chdir(workplace)
    return workplace


def test_the_snippets_of_the_readme(here, capsys):
    snippets = SNIPPET.findall((ROOT / "README.md").read_text())
    assert len(snippets) == 2
    for snippet in snippets:
        assert len(snippet.splitlines()) <= 6
        exec(compile(snippet, "README.md", "exec"), {})
        assert capsys.readouterr().out.strip()


def test_generate(here, capsys, monkeypatch):
    script = str(ROOT / "examples" / "generate.py")
    monkeypatch.setattr(sys, "argv", [script, "runs/tour", "def fib(n):"])
    runpy.run_path(script, run_name="__main__")
    out = capsys.readouterr().out
    assert out.count("--- ") == out.count("def fib(n):") == 3
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, env=environment)
    assert done.returncode == 1 and done.stderr.startswith("usage: ")


def test_the_notebook(tmp_path, monkeypatch, capsys):
    """Its cells run in order, without jupyter, and it recovers the law that it drew from."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    names: dict = {}
    for number, cell in enumerate(code):
        assert not cell["outputs"] and cell["execution_count"] is None, "strip the outputs"
        exec(compile("".join(cell["source"]), f"cell {number}", "exec"), names)
    told = dict(re.findall(r"^(\w+) +(\S+) +95 %", capsys.readouterr().out, re.MULTILINE))
    assert float(told["alpha"]) == pytest.approx(0.34, abs=0.03)
    assert float(told["beta"]) == pytest.approx(0.28, abs=0.03)
    assert len(names["axes"].lines) > 5
    names["plt"].close("all")


def test_where_is_what_is_there():
    """Each file that CONTRIBUTING names exists, and has the function that it names."""
    answers = (ROOT / "CONTRIBUTING.md").read_text().partition("**Where is what.**")[2]
    paths = re.findall(r"`([\w/]+\.py)`", answers)
    assert len(paths) == 10 and [path for path in paths if not (ROOT / path).is_file()] == []
    function, path = re.search(r"`(\w+)` in `([\w/]+\.py)`", answers).groups()
    assert f"def {function}(" in (ROOT / path).read_text()


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/LOG.md"])
def test_links_lead_somewhere(name):
    document = ROOT / name
    for link in re.findall(r"\]\(([^)#:]+)\)", document.read_text()):
        assert (document.parent / link).exists(), link
