"""Tasks whose hidden tests carry canaries, and runs with a scripted model."""

import gzip
import hashlib
import json
from pathlib import Path

from evals.repair.backends.scripted import Scripted
from evals.repair.config import RepairConfig
from evals.repair.runner import paths, run
from llama_scale.cli import build

CANARIES = ("770012345", "880012345", "canary")  # in every hidden test, in the reference, in the challenge tests


def task(number: int) -> dict:
    """A task of MBPP's form: add a number; the visible test is small, the hidden ones carry canaries."""
    name = f"add_{number}"
    return {
        "task_id": number,
        "text": f"Write a function to add {number} to a number.",
        "code": f"def {name}(x):\n    canary = {number}\n    return x + canary",
        "test_list": [
            f"assert {name}(1) == {1 + number}",
            f"assert {name}(770012345{number}) == {int(f'770012345{number}') + number}",
            f"assert {name}(x=880012345{number}) == {int(f'880012345{number}') + number}",
        ],
        "test_setup_code": "",
        "challenge_test_list": [f"assert {name}(-770012345{number}) == {-int(f'770012345{number}') + number}"],
    }


def write_tasks(path: Path, count: int) -> Path:
    """Write tasks 11 to 10 + ``count``, of the test split."""
    path.write_text("".join(json.dumps(task(number)) + "\n" for number in range(11, 11 + count)))
    return path


def right(number: int) -> str:
    """A right program for the task with this number of MBPP."""
    return f"def add_{number}(x):\n    return x + {number}\n"


def settings(data: Path, **changed) -> RepairConfig:
    """Settings for these tasks."""
    return build(RepairConfig, {"mbpp.data": str(data), "execution.workers": 1, "timeout": 2.0} | changed)


def study(folder: Path, answer, count: int = 3, critic=None, chat=True, **changed):
    """Run a study of ``count`` tasks with a scripted model; return the result and the sealed rows."""
    folder.mkdir(parents=True, exist_ok=True)
    config = settings(write_tasks(folder / "tasks.jsonl", count), **changed)
    model = Scripted(answer, chat=chat)
    result = run(config, folder, model, critic and Scripted(critic, "critic"))
    return result, rows_of(paths(config, folder)["steps"]), model


def rows_of(path: Path) -> list[dict]:
    """Rows of a file without its head."""
    return [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()][1:]


def block(program: str) -> str:
    """An answer of a chat model."""
    return f"Here it is:\n```python\n{program}```\nIt adds."


def mixed(ask, number):
    """Some draws are right, some lazy, some do not parse, some repeat."""
    number, luck = ask.key[0] + 11, int(hashlib.sha256(repr(ask.key).encode()).hexdigest(), 16) % 7
    texts = (right(number), f"def add_{number}(x):\n    return {number + 1}\n", "def (\n", right(number + 1))
    return block(texts[luck] if luck < 4 else f"def add_{number}(x):\n    return {-luck}\n")
