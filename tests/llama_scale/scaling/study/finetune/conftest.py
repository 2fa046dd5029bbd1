"""A small fine-tuning study, its commands carried out in this process."""

import os
from pathlib import Path

import pytest
import yaml

from launch import collect, evaluate, finetune
from llama_scale.scaling.study.finetune.plan import read_study
from llama_scale.scaling.study.runner import write_study_files
from tests.llama_scale.helpers import write_model, write_pairs

MAINS = {"collect.py": collect.main, "evaluate.py": evaluate.main, "finetune.py": finetune.main}
COMMON = {
    "kind": "finetune", "device": "cpu", "threads": 1, "longest": 300, "pool": 24, "test": 6, "shots": 2,
    "rates": {"pairs": 3},
    "train": {"batch": 4, "max_tokens": 100, "precision": "fp32"}, "base": {"model": "base"},
    "evaluate": {"pairs": {"n_tasks": 3, "gold_tasks": 1, "sampling": {"temperature": 0, "max_new_tokens": 8}}},
}  # fmt: skip


def write_folder(folder: Path, train: int = 24, test: int = 12, **fields) -> str:
    """Write a folder of pairs as launch/prepare.py would."""
    folder.mkdir(parents=True)
    write_pairs(folder / "train.jsonl", train, **fields)
    write_pairs(folder / "test.jsonl", test, first=1000, **fields)
    return str(folder)


def carry_out(settings: dict, root: Path, *flags: str):
    """Run each task of a study in its order; return the study."""
    path = root / f"{settings['name']}.yaml"
    path.write_text(yaml.safe_dump(settings))
    study = read_study(root, [str(path), *flags])
    write_study_files(study)
    for task in study.tasks:
        name = Path(task.argv[1]).name
        if name in MAINS:
            MAINS[name](list(task.argv[2:]))
            assert not [output for output in task.outputs if not (root / output).exists()], task.name
    return study


@pytest.fixture(scope="module")
def root(tiny_data, tmp_path_factory):
    """A folder with a base and pairs; the working directory."""
    folder, before = tmp_path_factory.mktemp("study"), os.getcwd()
    write_model(folder / "base", tiny_data)
    write_folder(folder / "pairs")
    os.chdir(folder)
    yield folder
    os.chdir(before)


@pytest.fixture(scope="module")
def study(root):
    """A study of sizes at equal epochs and steps, of ranks and of methods that has run."""
    arms = [
        {"name": "steps", "ranks": [2], "examples": [4, 12], "steps": 2, "draws": [0, 1], "rate": 1e-2},
        {"name": "epochs", "ranks": [2], "examples": [4, 12], "epochs": 1, "draws": [0, 1], "rate": 1e-2},
        {"name": "rank", "ranks": [1], "examples": [12], "steps": 2, "draws": [0, 1]},
        {"name": "full", "method": "full", "examples": [12], "steps": 2, "draws": [0, 1], "rate": 1e-3},
    ]
    settings = COMMON | {"name": "toy", "question": "scale", "pairs": {"python": "pairs"}, "arms": arms, "sampled": 1}
    return carry_out(settings, root)
