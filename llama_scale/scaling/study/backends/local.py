"""Runs tasks as processes on this machine, several at a time, and leaves none behind."""

import json
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from llama_scale.cli import USER_ERROR
from llama_scale.files import write_json
from llama_scale.scaling.study.plan import REPOSITORY
from llama_scale.scaling.study.tasks import Task, keys

TICK = 0.1
GRACE = 20.0
ATTEMPTS = 2
TAIL_LINES = 12
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@dataclass(kw_only=True)
class Running:
    """A task's attempt: its log, where in it the attempt begins, and since when it runs."""

    task: Task
    attempt: int
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


@dataclass(kw_only=True)
class Process(Running):
    """A task's attempt as a process in a slot of this machine."""

    process: subprocess.Popen
    slot: int


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
        said = self.lines[-1] if self.lines else ""
        return f"{self.task.name}: {said if self.user_error and said else self.reason}"


@dataclass
class State:
    """What is known of the tasks: which are done, and how long those of each stage took.

    Done tasks have a record <folder>/<task>.json, written after the success, with the command
    and a key that stands for it and for all that it followed.
    """

    folder: Path
    root: Path
    tasks: list[Task]
    done: set[str] = field(default_factory=set)
    records: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.keys = keys(self.tasks)
        for task in self.tasks:
            record = self._read(task)
            if record.get("key") == self.keys[task.name] and not self.missing(task):
                self.records[task.name] = record
                self.done.add(task.name)

    def _read(self, task: Task) -> dict[str, Any]:
        try:
            return json.loads((self.folder / f"{task.name}.json").read_text(encoding="utf-8"))
        except (FileNotFoundError, json.JSONDecodeError):
            return {}

    def missing(self, task: Task) -> list[str]:
        """Return the outputs of a task that do not exist."""
        return [output for output in task.outputs if not (self.root / output).exists()]

    def ready(self) -> list[Task]:
        """Return the tasks to be done whose inputs are: short ones, then by work, longest first."""
        found = [
            t for t in self.tasks if t.name not in self.done and self.done.issuperset(t.inputs)
        ]
        return sorted(found, key=lambda task: (task.flops > 0, -task.flops))

    def finish(self, running: Running) -> None:
        """Record the success of a task."""
        record = {
            "task": running.task.name,
            "key": self.keys[running.task.name],
            "argv": list(running.task.argv),
            "seconds": round(running.seconds, 1),
            "attempts": running.attempt,
        }
        write_json(self.folder / f"{running.task.name}.json", record)
        self.records[running.task.name] = record
        self.done.add(running.task.name)


class Observer(Protocol):
    """Is told what an executor does."""

    def started(self, running: Running) -> None: ...  # noqa: D102
    def finished(self, running: Running) -> None: ...  # noqa: D102
    def retried(self, running: Running) -> None: ...  # noqa: D102
    def failed(self, failure: Failure) -> None: ...  # noqa: D102
    def tick(self, running: list[Running]) -> None: ...  # noqa: D102


class LocalExecutor:
    """Runs the tasks of a ``State`` on this machine, one in each slot at a time.

    ``slots`` holds for each place what it adds to the environment, for example one GPU.
    ``keep_open`` as in ``tether``; ``grace`` is the time in seconds that processes have to stop
    when told to.
    """

    def __init__(
        self,
        state: State,
        logs: Path,
        slots: list[dict[str, str]],
        observer: Observer,
        keep_open: tuple[int, ...] = (),
        grace: float = GRACE,
    ) -> None:
        self.state, self.logs, self.slots, self.observer = state, logs, slots, observer
        self.keep_open, self.grace = keep_open, grace
        self.running: list[Process] = []
        self.failures: list[Failure] = []
        self.signals = 0

    def run(self) -> list[Failure]:
        """Run every task whose inputs succeed; return the failures.

        Raises KeyboardInterrupt on SIGINT, SIGTERM or SIGHUP, after the processes have been told
        to stop, and killed if they did not.
        """
        self.logs.mkdir(parents=True, exist_ok=True)
        with tether(self.keep_open) as group, self._signals():
            try:
                while not self.signals and (self._start(group) or self.running):
                    time.sleep(TICK)
                    self._collect(group)
                    self.observer.tick(self.running)
                if self.signals:
                    raise KeyboardInterrupt
            finally:
                self._stop()
        return self.failures

    def _start(self, group: int) -> bool:
        """Fill the free slots with tasks that are ready; return whether one was started."""
        busy = {running.slot for running in self.running}
        taken = {r.task.name for r in self.running} | {f.task.name for f in self.failures}
        waiting = [task for task in self.state.ready() if task.name not in taken]
        free = [slot for slot in range(len(self.slots)) if slot not in busy]
        for slot, task in zip(free, waiting, strict=False):
            self._launch(task, slot, 1, group)
            self.observer.started(self.running[-1])
        return bool(free and waiting)

    def _launch(self, task: Task, slot: int, attempt: int, group: int) -> None:
        log = self.logs / f"{task.name}.log"
        path = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))
        environment = os.environ | {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1"} | self.slots[slot]
        with open(log, "ab") as file:
            file.write(f"$ {shlex.join(task.argv)}\n".encode())
            file.flush()
            start = file.tell()
            process = subprocess.Popen(
                task.argv,
                cwd=self.state.root,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                process_group=group,
            )
        self.running.append(
            Process(
                task=task, attempt=attempt, log=log, log_start=start, process=process, slot=slot
            )
        )

    def _collect(self, group: int) -> None:
        """Take note of the processes that have ended; run a crashed one once more."""
        for running in [r for r in self.running if r.process.poll() is not None]:
            self.running.remove(running)
            code, missing = running.process.returncode, self.state.missing(running.task)
            if code == 0 and not missing:
                self.state.finish(running)
                self.observer.finished(running)
            elif code != USER_ERROR and running.attempt < ATTEMPTS and not self.signals:
                self.observer.retried(running)
                self._launch(running.task, running.slot, running.attempt + 1, group)
            else:
                reason = exit_words(code) if code else f"exit code 0 without {missing[0]}"
                failure = Failure(running.task, reason, running.tail(), code == USER_ERROR)
                self.failures.append(failure)
                self.observer.failed(failure)

    def _stop(self) -> None:
        """Ask what still runs to stop; the tether kills what is left after the grace."""
        for running in self.running:
            running.process.terminate()
        deadline, asked = time.monotonic() + self.grace, self.signals
        while any(running.process.poll() is None for running in self.running):
            if time.monotonic() > deadline or self.signals > asked:
                break
            time.sleep(TICK)
        for running in self.running:
            running.process.kill()
            if running.process.wait() == 0 and not self.state.missing(running.task):
                self.state.finish(running)

    @contextmanager
    def _signals(self) -> Iterator[None]:
        def note(number: int, frame: Any) -> None:
            self.signals += 1

        previous = {number: signal.signal(number, note) for number in STOP_SIGNALS}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


@contextmanager
def tether(keep_open: tuple[int, ...] = ()) -> Iterator[int]:
    """Yield a process group that does not outlive this process, even when that is SIGKILLed.

    A shell leads the group and waits for the end of a pipe that this process alone holds; then
    it kills the whole group, itself included. ``keep_open`` are file descriptors, for example of
    a lock, that stay open until then.
    """
    shell = subprocess.Popen(
        ["/bin/sh", "-c", "read line; kill -KILL 0"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        process_group=0,
        pass_fds=keep_open,
    )
    try:
        yield shell.pid
    finally:
        shell.stdin.close()
        shell.wait()


def exit_words(code: int) -> str:
    """Describe an exit code: a negative one is the number of the signal that killed it."""
    if code >= 0:
        return f"exit code {code}"
    hint = ", perhaps out of memory" if -code == signal.SIGKILL else ""
    return f"killed by {signal.Signals(-code).name}{hint}"


def cpu_count() -> int:
    """Return the CPUs that this process may use: its affinity and its control group's quota."""
    count = len(os.sched_getaffinity(0))
    for quota_file, period_file in (
        ("/sys/fs/cgroup/cpu.max", None),
        ("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "/sys/fs/cgroup/cpu/cpu.cfs_period_us"),
    ):
        try:
            words = Path(quota_file).read_text().split()
            words += Path(period_file).read_text().split() if period_file else []
            quota, period = int(words[0]), int(words[1])
        except (OSError, ValueError, IndexError):
            continue
        if quota > 0:
            count = min(count, max(1, round(quota / period)))
    return count


def gpus() -> list[str]:
    """Return the names by which processes address this machine's GPUs, as CUDA numbers them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name.strip()]
    try:
        listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return []
    lines = [line for line in listing.stdout.splitlines() if line.startswith("GPU ")]
    return [str(number) for number in range(len(lines))] if listing.returncode == 0 else []


def pick_slots(device: str, parallel: int | str, threads: int | None) -> list[dict[str, str]]:
    """Return what each of the runs at a time adds to its environment.

    On GPUs one run on each, on a CPU as many as it has threads for; ``parallel`` runs if that is
    a number, sharing the GPUs in turn.
    """
    found = [] if device == "cpu" else gpus()
    limit = {"OMP_NUM_THREADS": str(threads)} if threads else {}
    if found:
        count = len(found) if parallel == "auto" else parallel
        return [{"CUDA_VISIBLE_DEVICES": found[i % len(found)], **limit} for i in range(count)]
    count = max(1, cpu_count() // threads) if threads else 1
    return [dict(limit) for _ in range(count if parallel == "auto" else parallel)]
