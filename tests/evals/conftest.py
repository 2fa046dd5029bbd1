"""A run to evaluate, and the commands as a person types them."""

import importlib
import sys

import pytest

from llama_scale.cli import run_cli
from tests.conftest import ROOT
from tests.evals.helpers import save_step


@pytest.fixture(scope="module")
def run(tiny_data, tmp_path_factory):
    """A run folder with one checkpoint of a tiny model."""
    folder = tmp_path_factory.mktemp("work") / "runs" / "tiny"
    save_step(folder, 7, tiny_data)
    return folder


@pytest.fixture
def launch(run, monkeypatch, capsys):
    """Runs a launch script's main in this process, from the folder above runs/."""

    def call(script, *argv):
        argv = map(str, argv)
        monkeypatch.syspath_prepend(ROOT / "launch")
        module = importlib.import_module(script.removesuffix(".py"))
        monkeypatch.chdir(run.parents[1])
        monkeypatch.setattr(sys, "argv", [script, *argv])
        code = 0
        try:
            run_cli(module.main)
        except SystemExit as stop:
            code = stop.code
        return code, *capsys.readouterr()

    return call
