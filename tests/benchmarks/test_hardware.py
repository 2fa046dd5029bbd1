"""What a benchmark ran on."""

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import hardware
from benchmarks.environment import child_environment

CODE = "from benchmarks.hardware import peak_process_memory as peak; print(peak())"


@pytest.mark.skipif("VmHWM" not in Path("/proc/self/status").read_text(), reason="no VmHWM")
def test_peak_memory_is_without_the_parents():
    ballast = b"x" * 300_000_000
    command = [sys.executable, "-c", CODE]
    done = subprocess.run(command, env=child_environment(), capture_output=True, check=True)
    assert hardware.peak_process_memory() > len(ballast)
    assert 5_000_000 < int(done.stdout) < 200_000_000


@pytest.mark.parametrize(
    ("argv", "command"),
    [
        (["launch/benchmark.py", "fit", "--where", "N>5e7"], "python launch/benchmark.py fit"),
        (["/opt/bin/llama-scale", "benchmark", "fit", "--where", "N>5e7"], "llama-scale benchmark"),
    ],
)
def test_the_command_can_be_typed_again(monkeypatch, argv, command):
    monkeypatch.setattr("sys.argv", argv)
    made = hardware.provenance()
    assert made["command"].startswith(command) and made["command"].endswith("--where 'N>5e7'")
    assert set(made) == {"command", "cpu", "versions"} and "numpy" in made["versions"]
