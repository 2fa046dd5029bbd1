"""A study of 12 small runs killed five times ends with the points of one that never was.

Eight have schedules of their own, four are cooldown branches of a constant-rate trunk.

Takes minutes: python -m pytest -m slow tests/llama_scale/scaling/study/test_killed.py
KILLED_FOLDER keeps the files.
"""

import os
import random
import signal
import subprocess
import sys
import time

import psutil
import pytest
import yaml

from tests.conftest import ROOT

KILLS = 5
STUDY = {
    "name": "twelve",
    "data": "data.yaml",
    "device": "cpu",
    "threads": 1,
    "parallel": 2,
    "runs": [
        {"sizes": ["Q1", "Q2"], "tokens": [2e4, 4e4, 8e4, 16e4]},
        {"sizes": ["Q3"], "tokens": [2e4, 4e4, 8e4, 16e4], "cooldown": 0.2},
    ],
    "train": {"model.vocab_size": 1024, "model.context_length": 64, "compile": False, "checkpoint_every": 20},
    "suites": ["perplexity"],
    "evaluate": {"config": "configs/eval/quick.yaml"},
    "fit": {"resamples": 200},
}

DATA = {
    "name": "twelve",
    "packages": ["python-stdlib", "jinja2", "click", "attrs", "requests", "pyyaml", "packaging"],
    "max_bytes": 4_000_000,
    "val_share": 0.1,
    "vocab_size": 1_024,
    "tokenizer_bytes": 1_000_000,
}


def start(folder):
    argv = [sys.executable, str(ROOT / "launch/study.py"), "study.yaml"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "WANDB_MODE": "disabled"}
    log = open(folder / "log.txt", "ab")  # noqa: SIM115
    return subprocess.Popen(argv, cwd=folder, env=environment, stdout=log, stderr=log)


def done(folder):
    return len(list(folder.glob("studies/twelve/state/*.json")))


@pytest.mark.slow
def test_twelve_runs_killed_five_times(tmp_path):
    tmp_path = type(tmp_path)(os.environ.get("KILLED_FOLDER", tmp_path))
    folders = [tmp_path / "whole", tmp_path / "killed"]
    for folder in folders:
        folder.mkdir(parents=True)
        (folder / "study.yaml").write_text(yaml.safe_dump(STUDY))
        (folder / "data.yaml").write_text(yaml.safe_dump(DATA))
    assert start(folders[0]).wait() == 0, (folders[0] / "log.txt").read_text()[-2_000:]
    chance, kills = random.Random(0), 0
    while kills < KILLS:
        study, before = start(folders[1]), done(folders[1])
        # Let it get somewhere, then kill it without a word in the middle of something.
        while study.poll() is None and done(folders[1]) < before + 2:
            time.sleep(0.2)
        time.sleep(chance.uniform(0, 8))
        assert study.poll() is None, "the study ended before it was killed five times"
        children = psutil.Process(study.pid).children(recursive=True)
        study.send_signal(signal.SIGKILL)
        study.wait()
        psutil.wait_procs(children, timeout=60)
        kills += 1
    assert start(folders[1]).wait() == 0, (folders[1] / "log.txt").read_text()[-2_000:]
    rows = (folders[0] / "studies/twelve/points.csv").read_text().splitlines()
    assert len(rows) == 13 and all(",True," in row for row in rows[1:])  # annealed
    for name in ("points.csv", "laws.json"):
        whole, killed = ((folder / "studies/twelve" / name).read_bytes() for folder in folders)
        assert whole == killed, name
    assert len(whole) > 1_000
