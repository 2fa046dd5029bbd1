"""The processes of a benchmark."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import environment
from llama_scale.errors import InputError
from tests.conftest import ROOT


def test_an_environment_that_cannot_be_made_leaves_nothing(tmp_path, monkeypatch):
    (tmp_path / "setup.cfg").touch()
    monkeypatch.setattr(environment, "ROOT", tmp_path)
    monkeypatch.setitem(environment.ISOLATED_PEERS, "nothing", ["no-such-package-of-anyone==99"])

    def fail_after_venv(command):
        if "venv" in command:
            (tmp_path / ".peers/nothing/lib").mkdir(parents=True)
        else:
            environment.subprocess.run(["false"], check=True)

    monkeypatch.setattr(environment, "run_command", fail_after_venv)
    with pytest.raises(InputError, match="peers: nothing cannot be installed"):
        environment.peer_python("nothing")
    assert not (tmp_path / ".peers/nothing").exists()


def test_a_build_leaves_out_what_is_not_measured(tmp_path, monkeypatch):
    """The settings of a person's own come last, which is what counts with cmake; the environment is made once."""
    (tmp_path / "setup.cfg").touch()
    monkeypatch.setattr(environment, "ROOT", tmp_path)
    monkeypatch.setenv("CMAKE_ARGS", "-DGGML_CUDA=ON")
    commands = []

    def make(command):
        commands.append(command)
        if "venv" in command:
            version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
            (tmp_path / ".peers/llama_cpp/lib" / version / "site-packages").mkdir(parents=True)

    monkeypatch.setattr(environment, "run_command", make)
    python = environment.peer_python("llama_cpp")
    assert python == str(tmp_path / ".peers/llama_cpp/bin/python") == environment.peer_python("llama_cpp")
    install = ["env", "CMAKE_ARGS=-DLLAVA_BUILD=OFF -DGGML_CUDA=ON", python, "-m", "pip", "install", "-q"]
    assert commands[1] == [*install, "llama-cpp-python==0.3.36"] and len(commands) == 3


def test_a_checkout_comes_first_on_the_path(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/other")
    assert environment.child_environment()["PYTHONPATH"].split(os.pathsep) == [str(ROOT), "/other"]
    assert environment.project_folder() == ROOT


def test_an_installed_package_leaves_the_path_alone(tmp_path, monkeypatch):
    """site-packages at the front would go before what a peer's environment pins."""
    monkeypatch.setattr(environment, "ROOT", tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    assert "PYTHONPATH" not in environment.child_environment()
    assert environment.project_folder() == Path.cwd()


def test_processes_of_an_installed_package(tmp_path):
    """A contender's process starts where benchmarks/ and llama_scale/ lie in site-packages."""
    site, elsewhere = tmp_path / "site-packages", tmp_path / "elsewhere"
    for package in ("benchmarks", "llama_scale"):
        shutil.copytree(ROOT / package, site / package)
    (elsewhere / "benchmarks").mkdir(parents=True)
    (elsewhere / "benchmarks/__init__.py").write_text("raise ImportError('not the package')")
    code = """if True:
        import sys
        sys.path.remove("")
        from tests_helpers import JOB
        from benchmarks.training.interleave import Contender, run_interleaved
        (worker,) = run_interleaved([Contender("llama_scale", JOB)], steps=1, warmup=1)
        print(len(worker.losses))
    """
    shutil.copy(ROOT / "tests/benchmarks/training/helpers.py", site / "tests_helpers.py")
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=elsewhere,
        env=os.environ | {"PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (0, "2\n"), done.stderr
