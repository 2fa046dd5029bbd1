"""A task: one process of a study, and the key that stands for what it does."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any


@dataclass(frozen=True)
class Task:
    """One process of a study, run in the working directory, from which its paths are.

    Attributes:
        name: Its name; the first word is its ``stage``.
        argv: The command.
        inputs: Names of the tasks that are done before it.
        outputs: What exists once it is done.
        flops: The work of a training run.
        metrics: The log that shows how far a training run is.
        flops_before: What that log counts of a trunk, before this run's own work.
        config_file: The file of settings that the command reads.
        settings: What that file says.
        places: How many tasks' places it takes on this machine.
    """

    name: str
    argv: tuple[str, ...]
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    flops: float = 0.0
    metrics: str | None = None
    flops_before: float = 0.0
    config_file: str | None = None
    settings: dict[str, Any] | None = None
    places: int = 1

    @property
    def stage(self) -> str:
        """The kind of task: the first word of its name."""
        return self.name.split("-")[0]


def task_keys(tasks: list[Task]) -> dict[str, str]:
    """Return a hash for each task of its command, its settings and those of all it follows.

    The paths of the interpreter and of the launch scripts are left out, so that a moved environment repeats nothing.
    """
    keys: dict[str, str] = {}
    for task in tasks:
        script, arguments = task.argv[1:2], task.argv[2:]
        parts = [*(PurePath(path).name for path in script), *arguments]
        parts.append(json.dumps(task.settings, sort_keys=True))
        parts += ["", *(keys[name] for name in sorted(task.inputs))]
        keys[task.name] = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
    return keys
