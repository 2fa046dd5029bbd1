"""What every backend shares: attempts at tasks, failures, and the record of what is done."""

import os
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from llama_scale.cli import USER_ERROR
from llama_scale.errors import InputError
from llama_scale.files import read_fields, sha256, write_json
from llama_scale.scaling.study.backends.task import Task, task_keys

MAX_ATTEMPTS = 2
TAIL_LINES = 12
RECORD_FORMAT = 2


@dataclass(kw_only=True)
class Attempt:
    """A task that runs: its log, where in it the attempt begins, and since when it runs."""

    task: Task
    number: int
    log: Path
    log_start: int
    started: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """How long it has been running."""
        return time.monotonic() - self.started

    def tail(self, count: int = TAIL_LINES) -> list[str]:
        """Return the last lines that the attempt wrote; none before there is a log."""
        if not self.log.exists():
            return []
        with open(self.log, "rb") as file:
            file.seek(self.log_start)
            lines = file.read().decode("utf-8", "replace").rstrip().splitlines()
        return lines[-count:]


@dataclass(frozen=True)
class Failure:
    """A task that did not succeed: its exit code in words and the last lines of its log."""

    task: Task
    reason: str
    lines: list[str]
    user_error: bool

    @property
    def message(self) -> str:
        """One line: what the task said of a user error, or how it ended."""
        last_line = self.lines[-1] if self.lines else ""
        return f"{self.task.name}: {last_line if self.user_error and last_line else self.reason}"


class Observer(Protocol):
    """Is told what an executor does."""

    def started(self, attempt: Attempt) -> None: ...  # noqa: D102
    def finished(self, attempt: Attempt) -> None: ...  # noqa: D102
    def retried(self, attempt: Attempt) -> None: ...  # noqa: D102
    def failed(self, failure: Failure) -> None: ...  # noqa: D102
    def tick(self, running: list[Any]) -> None: ...  # noqa: D102


@dataclass
class State:
    """What is known of the tasks: which are done, and how long those of each stage took.

    Done tasks have a record <folder>/<task>.json, written after the success, with the command, a key that stands for
    it and for all that it followed, and the hashes of the files that it wrote. A task whose files have changed since is
    not done, nor is one that followed on it if they come out otherwise when it is run again. ``changed`` are those
    files with their tasks.
    """

    folder: Path
    root: Path
    tasks: list[Task]
    done: set[str] = field(default_factory=set)
    records: dict[str, dict[str, Any]] = field(default_factory=dict)
    changed: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.keys = task_keys(self.tasks)
        for task in self.tasks:
            record = self.read_record(task.name)
            if record.get("key") != self.keys[task.name] or self.missing(task):
                continue
            written, found = record.get("written", {}), self.hashes(task)
            if changed := [path for path in written if found.get(path) != written[path]]:
                self.changed |= dict.fromkeys(changed, task.name)
                continue
            self.records[task.name] = record
            self.done.add(task.name)

    def read_record(self, name: str) -> dict[str, Any]:
        """Return the record of a task; an empty one where there is none that can be believed."""
        try:
            return read_fields(self.folder / f"{name}.json")
        except InputError:
            return {}

    def hashes(self, task: Task) -> dict[str, str]:
        """Return the SHA-256 of each file that a task wrote; folders are left out."""
        return {output: sha256(self.root / output) for output in task.outputs if (self.root / output).is_file()}

    def missing(self, task: Task) -> list[str]:
        """Return the outputs of a task that do not exist."""
        return [output for output in task.outputs if not (self.root / output).exists()]

    def ready(self) -> list[Task]:
        """Return the tasks to be done whose inputs are: short ones, then by work, longest first."""
        ready = [t for t in self.tasks if t.name not in self.done and self.done.issuperset(t.inputs)]
        return sorted(ready, key=lambda task: (task.flops > 0, -task.flops))

    def finish(self, attempt: Attempt) -> None:
        """Record the success of a task."""
        self.record(attempt.task, round(attempt.seconds, 1), attempt.number)

    def record(self, task: Task, seconds: float, attempts: int) -> None:
        """Write down that a task is done, how long it took, at which attempt and what it wrote.

        Where that is not what it wrote before, what followed on it is to be done again.
        """
        before, written = self.read_record(task.name), self.hashes(task)
        if before.get("key") == self.keys[task.name] and before.get("written", written) != written:
            again = {task.name}
            for later in self.tasks:  # each after its inputs
                again |= {later.name} if again & set(later.inputs) else set()
            self.done -= again
        record = {
            "format": RECORD_FORMAT,
            "task": task.name,
            "key": self.keys[task.name],
            "argv": list(task.argv),
            "settings": task.settings,
            "seconds": seconds,
            "attempts": attempts,
            "written": written,
        }
        write_json(self.folder / f"{task.name}.json", record, sealed=True)
        self.records[task.name] = record
        self.done.add(task.name)


class Executor:
    """What the executors share: the attempts that run, the failures, and what becomes of an attempt that has ended.

    Args:
        state: The tasks and which of them are done.
        logs: Folder of their logs.
        observer: Is told what happens.
        import_path: Folder of the packages that the tasks import.
    """

    def __init__(self, state: State, logs: Path, observer: Observer, import_path: Path) -> None:
        self.state, self.logs, self.observer, self.import_path = state, logs, observer, import_path
        logs.mkdir(parents=True, exist_ok=True)
        self.running: list[Any] = []
        self.failures: list[Failure] = []

    def waiting(self) -> list[Task]:
        """Return the tasks that are ready and neither run nor have failed."""
        taken = {a.task.name for a in self.running} | {f.task.name for f in self.failures}
        return [task for task in self.state.ready() if task.name not in taken]

    def conclude(self, attempt: Attempt, code: int | None, lost: str = "", retry: bool = True) -> bool:
        """Take note of an attempt that has ended; return whether its task is to be run once more.

        A task is not run again where its input was bad. Without an exit code, ``lost`` says how it ended.
        """
        self.running.remove(attempt)
        missing = self.state.missing(attempt.task)
        if code == 0 and not missing:
            self.state.finish(attempt)
            self.observer.finished(attempt)
        elif retry and code != USER_ERROR and attempt.number < MAX_ATTEMPTS:
            self.observer.retried(attempt)
            return True
        else:
            reason = lost if code is None else describe_exit(code, missing)
            self.failures.append(Failure(attempt.task, reason, attempt.tail(), code == USER_ERROR))
            self.observer.failed(self.failures[-1])
        return False


def task_environment(import_path: Path) -> dict[str, str]:
    """Return what a task's environment has beside ours: the folder of the packages it imports."""
    path = os.pathsep.join(filter(None, [str(import_path), os.environ.get("PYTHONPATH")]))
    return {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}


def describe_exit(code: int, missing: list[str]) -> str:
    """Say how a task failed: its exit code (minus a signal), or the ``missing`` output of one that exited with 0."""
    if code == 0:
        return f"exit code 0 without {missing[0]}"
    if code > 0:
        return f"exit code {code}"
    hint = ", perhaps out of memory" if -code == signal.SIGKILL else ""
    return f"killed by {signal.Signals(-code).name}{hint}"
