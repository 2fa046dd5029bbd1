"""SIGKILL at 20 moments chosen by seed: the rerun ends with the bytes of the whole run.

Left out by default: pytest -m slow tests/llama_scale/training/test_kill.py -s
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llama_scale.checkpoint import folder as checkpoint
from llama_scale.files import read_json, read_jsonl
from tests.conftest import ROOT, TINY_MODEL

MOMENTS = 20
MEASURED = ("tokens_per_second", "memory")


def command(data: Path, run: Path, threads: int) -> list[str]:
    fixed = ["--optim.batch_tokens=512", "--device=cpu", f"--threads={threads}", "--seed=3"]
    often = ["--checkpoint_every=3", "--val_every=2", "--val_tokens=20000", "--log_every=1"]
    where = [f"--data={data}", f"--run={run}", "--tokens=40960"]
    return [sys.executable, str(ROOT / "launch/train.py"), *TINY_MODEL, *fixed, *often, *where]


def start(*arguments) -> subprocess.Popen:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command(*arguments), stdout=subprocess.DEVNULL, env=environment)


def kill(process: subprocess.Popen, run: Path, chance: random.Random, kind: str) -> str | None:
    """Wait for a moment of the given kind, kill, and say what the run was doing."""
    step, delay = chance.randrange(1, 70), chance.uniform(0, 0.05)
    log, begun = run / "metrics.jsonl", time.monotonic()
    startup = chance.uniform(0, 6)
    while process.poll() is None:
        writing = any((run / "checkpoints").glob(".step-*.tmp"))
        rows = log.read_text().count("\n") if log.exists() else 0
        if kind == "start" and time.monotonic() - begun > startup:
            break
        if rows >= step and (kind == "step" or (kind == "write" and writing)):
            time.sleep(delay if kind == "step" else 0)
            break
        time.sleep(0.0005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    if process.returncode != -signal.SIGKILL:
        return None
    part = any((run / "checkpoints").glob(".step-*.tmp"))
    rows = len(read_jsonl(log)) if log.exists() else 0
    return f"{kind}: after {rows} rows{', a checkpoint half written' if part else ''}"


def content(run: Path) -> tuple:
    # metrics, weights and moments, result, Lightning's and our own state (with random generators)
    rows = [{k: v for k, v in row.items() if k not in MEASURED} for row in read_jsonl(run / "metrics.jsonl")]
    folder = checkpoint.newest(run)
    files = [(folder / f"{n}.safetensors").read_bytes() for n in ("model", "optimizer")]
    result = {k: v for k, v in read_json(run / "result.json").items() if k != "run"}
    return rows, files, result, read_json(folder / "trainer.json")


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2])
def test_twenty_kills_end_with_identical_bytes(tiny_data, tmp_path, threads):
    assert start(tiny_data, tmp_path / "whole", threads).wait() == 0
    expected = content(tmp_path / "whole")
    chance, identical = random.Random(threads), 0
    moments = MOMENTS if threads == 1 else 4
    while identical < moments:
        kind = ("step", "write", "step", "write", "start")[identical % 5]
        run = tmp_path / "run"
        shutil.rmtree(run, ignore_errors=True)
        what = kill(start(tiny_data, run, threads), run, chance, kind)
        if what is None:
            continue
        assert start(tiny_data, run, threads).wait() == 0
        for found, wanted in zip(content(run), expected, strict=True):
            assert found == wanted, what
        identical += 1
        print(f"{identical} of {moments} identical; killed at {what}", flush=True)
