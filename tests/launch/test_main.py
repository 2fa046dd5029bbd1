"""The console script, and what every command does alike."""

import re
import shlex
import subprocess
import sys
from dataclasses import fields
from importlib import import_module

import pytest

from launch.benchmark import MODES
from launch.main import COMMANDS
from launch.sample import SampleConfig
from llama_scale.generation.sampling import SamplingConfig
from tests.conftest import ROOT, run_here, run_script

SCRIPTS = sorted({command.module for command in COMMANDS.values()} - {"benchmark"})


def test_every_script_is_a_command_and_every_command_is_there():
    scripts = {path.stem for path in (ROOT / "launch").glob("*.py")} - {"__init__", "main"}
    assert scripts == {command.module for command in COMMANDS.values()}
    for command in COMMANDS.values():
        assert callable(getattr(import_module(f"launch.{command.module}"), command.function))


def test_help_lists_the_commands_and_loads_little(tmp_path):
    code = (
        "import sys; sys.argv = ['llama-scale', '--help']; from launch.main import main; main();"
        "heavy = {'torch', 'numpy', 'jsonargparse', 'lightning'} & set(sys.modules);"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.findall(r"^  (\w+) ", done.stdout, re.MULTILINE) == list(COMMANDS)
    assert run_script("main.py", cwd=tmp_path).stdout == done.stdout


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (("trian",), "llama-scale: error: no command 'trian' (did you mean 'train'?); "
         "llama-scale --help lists them"),
        (("",), "llama-scale: error: no command ''; llama-scale --help lists them"),
        (("--sise=M1",), "llama-scale: error: no command '--sise=M1'; llama-scale --help lists them"),
        (("Train",), "llama-scale: error: no command 'Train' (did you mean 'train'?)"),
        (("bench", "train"), "llama-scale: error: no command 'bench' (did you mean 'benchmark'?)"),
        (("benchmark",), "llama-scale benchmark: error: unknown mode ''"),
        (("benchmark", "trian"), "llama-scale benchmark: error: unknown mode 'trian' (did you mean 'train'?)"),
        (("repair", "--replay=absent"), "llama-scale repair: error: "),
        (("train", "--size=M9"), "llama-scale train: error: size: no configs/size/M9.yaml"),
        (("fit", "absent.csv"), "llama-scale fit: error: absent.csv: no such file"),
        (("evaluate", "--suits=x"), "llama-scale evaluate: error: unknown key 'suits'"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_that_names_the_command(tmp_path, argv, line):
    done = run_here("main.py", *argv, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(line) and done.stderr.count("\n") == 1


@pytest.mark.parametrize("name", ["train", "fit"])
def test_help_of_a_command_is_that_of_its_script(tmp_path, name):
    command = COMMANDS[name]
    script = (f"{command.module}.py", *(() if command.function == "main" else (name,)))
    there = run_here(*script, "--help", cwd=tmp_path).stdout
    here = run_here("main.py", name, "--help", cwd=tmp_path).stdout
    assert here.startswith(f"usage: main.py {name} ")
    assert there.startswith(f"usage: {' '.join(script)} ")
    assert here.replace(f"main.py {name} ", f"{' '.join(script)} ") == there


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in ("benchmark", "assist")])
def test_help_is_readable_and_its_example_is_taken(name, monkeypatch, capsys):
    command = COMMANDS[name]
    run = getattr(import_module(f"launch.{command.module}"), command.function)

    def printed(*argv: str) -> str:
        monkeypatch.setattr(sys, "argv", ["llama-scale", name, *argv])
        with pytest.raises(SystemExit) as ended:
            run(list(argv))
        assert not ended.value.code
        return capsys.readouterr().out

    text = printed("--help")
    assert text.startswith(f"usage: llama-scale {name} ") and ("(required)" in text or name in ("evaluate", "repair"))
    assert not re.search(r"Union|Literal|Optional|NoneType|typing|<class", text)
    example = shlex.split(text.splitlines()[-1])
    assert example[:2] == ["llama-scale", name] and text.splitlines()[-2] == "example:"
    assert printed(*example[2:], "--print_config")


STEPS = {
    "finetune": [(step,) for step in ("search", "split", "shots", "forecast", "compare", "report")],
    "prepare": [("lookup",), ("pairs",)],
    "assist": [("complete",), ("repair",), ("chat",)],
    "benchmark": [*((mode,) for mode in MODES), ("train", "--table=h200")],
}


@pytest.mark.parametrize("argv", [(name, *step) for name, steps in STEPS.items() for step in steps], ids=" ".join)
def test_help_of_a_step_is_as_readable(argv, monkeypatch, capsys):
    """Every setting in a group, with a type in words and its default, and an example at the end."""
    name, *step = argv
    monkeypatch.setattr(sys, "argv", ["llama-scale", *argv, "--help"])
    with pytest.raises(SystemExit) as ended:
        import_module(f"launch.{COMMANDS[name].module}").main([*step, "--help"])
    text = capsys.readouterr().out
    assert not ended.value.code and text.startswith(f"usage: llama-scale {name} {step[0]} ")
    assert not re.search(r"Union|Literal|Optional|NoneType|typing|<class|dataclass", text)
    assert "\neverywhere:\n" in text and ("(required)" in text or "(default: " in text)
    *_, title, example = text.splitlines()
    assert title == "example:" and example.startswith(f"  llama-scale {name} {step[0]} ")


MODULES = ("yaml", "numpy", "torch", "jsonargparse", "psutil", "llama_scale.cli", "llama_scale.config")


@pytest.mark.parametrize("way", ["raised", "sent"])
@pytest.mark.parametrize("script", [*SCRIPTS, "benchmark", "main"])
def test_interrupted_while_libraries_load(script, way):
    """Ctrl-C in the import of the first of the libraries that a command needs is one line, no traceback."""
    arguments = {"scaling": ["fit", "x.csv"], "assist": ["chat", "x"], "benchmark": ["fit"], "main": ["train"]}.get(
        script, []
    )
    modules = MODULES if way == "sent" else ("numpy", "torch", "jsonargparse")
    code = f"""
import os, runpy, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # where the tests run in the background it is ignored
class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name in {modules}:
            sys.meta_path.remove(self)
            {"os.kill(os.getpid(), signal.SIGINT)" if way == "sent" else "raise KeyboardInterrupt"}
sys.meta_path.insert(0, Interrupt())
sys.argv = [{str(ROOT / "launch" / script) + ".py"!r}, *{arguments}]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 130, done.stderr
    assert done.stderr.startswith((f"{script}.py: interrupted", "llama-scale train: interrupted"))
    assert done.stderr.count("\n") == 1


def test_sample_takes_the_defaults_of_sampling():
    here = {field.name: (field.type, field.default) for field in fields(SampleConfig)}
    assert {f.name: (f.type, f.default) for f in fields(SamplingConfig)}.items() <= here.items()
