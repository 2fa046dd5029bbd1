"""Runs tasks as processes on this machine, several at a time, and leaves none behind."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle, takewhile
from pathlib import Path
from typing import Any

from llama_scale.cli import leave_terminal
from llama_scale.config import Auto
from llama_scale.scaling.study.backends.state import Attempt, Executor, Failure, Observer, State, task_environment
from llama_scale.scaling.study.backends.task import Task
from llama_scale.scaling.study.backends.warm import WarmProcess, WarmServer

POLL_SECONDS = 0.1
GRACE = 20.0
GPU_NAME = re.compile(r"\d+|(GPU|MIG)-.+")
CGROUPS = "/sys/fs/cgroup"
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@dataclass(kw_only=True)
class LocalAttempt(Attempt):
    """A task that runs as a process in slots of this machine, mostly one."""

    process: subprocess.Popen | WarmProcess
    slots: list[int]


class LocalExecutor(Executor):
    """Runs the tasks of a ``State`` on this machine, one in each slot at a time, or one in as many as it has places.

    Args beside those of an ``Executor``:
        slots: For each place what it adds to the environment, for example one GPU.
        keep_open: File descriptors, as in ``group_that_dies_with_us``.
        grace: Seconds that processes have to stop when told to.
        warm_modules: What an interpreter imports from which the tasks are forked (warm.py); none starts an interpreter
            for each, as do slots with environments of their own.
    """

    def __init__(
        self,
        state: State,
        logs: Path,
        slots: list[dict[str, str]],
        observer: Observer,
        *,
        import_path: Path,
        keep_open: tuple[int, ...] = (),
        grace: float = GRACE,
        warm_modules: Sequence[str] = (),
    ) -> None:
        super().__init__(state, logs, observer, import_path)
        self.slots, self.keep_open, self.grace, self.signals = slots, keep_open, grace, 0
        same = all(slot == slots[0] for slot in slots) and not any("CUDA_VISIBLE_DEVICES" in slot for slot in slots)
        self.warm_modules = tuple(warm_modules) if same else ()
        self.warm: WarmServer | None = None

    def run(self) -> list[Failure]:
        """Run every task whose inputs succeed; return the failures.

        Raises KeyboardInterrupt on SIGINT, SIGTERM or SIGHUP, after the processes have been told to stop, and killed if
        they did not.
        """
        with group_that_dies_with_us(self.keep_open) as group, self._count_signals():
            try:
                while not self.signals and (self._fill_slots(group) or self.running):
                    time.sleep(POLL_SECONDS)
                    self._check_ended(group)
                    self.observer.tick(self.running)
                if self.signals:
                    raise KeyboardInterrupt
            finally:
                self._stop()
                if self.warm:
                    self.warm.close()
        return self.failures

    def _fill_slots(self, group: int) -> bool:
        """Start tasks that are ready in the free slots; return whether one was started."""
        busy = {slot for attempt in self.running for slot in attempt.slots}
        free, started = [slot for slot in range(len(self.slots)) if slot not in busy], False
        for task in self.waiting():
            places = min(task.places, len(self.slots))
            if places > len(free):  # none overtakes it, or it might wait for long
                break
            self._launch(task, free[:places], 1, group)
            self.observer.started(self.running[-1])
            free, started = free[places:], True
        return started

    def _launch(self, task: Task, slots: list[int], number: int, group: int) -> None:
        """Start a task's process in the process group; its output goes to the end of its log."""
        log = self.logs / f"{task.name}.log"
        argv = [*task.argv, *self._share(task, slots[0])]
        with open(log, "ab") as file:
            file.write(f"$ {shlex.join(argv)}\n".encode())
            file.flush()
            start = file.tell()
        process = self._fork(argv, log, group) or self._start(argv, log, slots[0], group)
        self.running.append(
            LocalAttempt(task=task, number=number, log=log, log_start=start, process=process, slots=slots)
        )

    def _start(self, argv: list[str], log: Path, slot: int, group: int) -> subprocess.Popen:
        """Start an interpreter, or another program, for a task."""
        with open(log, "ab") as file:
            return subprocess.Popen(
                argv,
                cwd=self.state.root,
                env=os.environ | task_environment(self.import_path) | self.slots[slot],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                process_group=group,
            )

    def _fork(self, argv: list[str], log: Path, group: int) -> WarmProcess | None:
        """Fork a task from the warm interpreter, which the first one starts; None where that cannot be."""
        if not self.warm_modules or argv[0] != sys.executable or not argv[1].endswith(".py"):
            return None
        if self.warm is None:
            environment = os.environ | task_environment(self.import_path) | self.slots[0]
            self.warm = WarmServer(self.warm_modules, environment, self.logs / "warm.log", group)
        if not self.warm.alive:
            return None
        try:
            return self.warm.start(argv, self.state.root, log)
        except OSError:  # it has ended, and the process that it may have forked with it
            return None

    def _share(self, task: Task, slot: int) -> list[str]:
        """Return the flag that tells a training run its part of a GPU that several slots share."""
        gpu = self.slots[slot].get("CUDA_VISIBLE_DEVICES")
        sharing = sum(other.get("CUDA_VISIBLE_DEVICES") == gpu for other in self.slots)
        return [f"--memory_share={1 / sharing:.4g}"] if gpu and sharing > 1 and task.stage == "train" else []

    def _check_ended(self, group: int) -> None:
        """Take note of the processes that have ended; run a crashed one once more."""
        for attempt in [a for a in self.running if a.process.poll() is not None]:
            if self.conclude(attempt, attempt.process.returncode, retry=not self.signals):
                self._launch(attempt.task, attempt.slots, attempt.number + 1, group)

    def _stop(self) -> None:
        """Ask what still runs to stop, and kill it after the grace or at the next signal."""
        for attempt in self.running:
            attempt.process.terminate()
        deadline, signals_before = time.monotonic() + self.grace, self.signals
        while any(attempt.process.poll() is None for attempt in self.running):
            if time.monotonic() > deadline or self.signals > signals_before:
                break
            time.sleep(POLL_SECONDS)
        for attempt in self.running:
            attempt.process.kill()
            if attempt.process.wait() == 0 and not self.state.missing(attempt.task):
                self.state.finish(attempt)

    @contextmanager
    def _count_signals(self) -> Iterator[None]:
        """Count the signals to stop instead of being stopped by them."""

        def note(number: int, frame: Any) -> None:
            self.signals += 1
            if number == signal.SIGHUP:
                leave_terminal()

        heeded = [number for number in STOP_SIGNALS if signal.getsignal(number) != signal.SIG_IGN]  # nohup's SIGHUP
        previous = {number: signal.signal(number, note) for number in heeded}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


@contextmanager
def group_that_dies_with_us(keep_open: tuple[int, ...] = ()) -> Iterator[int]:
    """Yield a process group that does not outlive this process, even when that is SIGKILLed.

    A shell leads the group and waits for the end of a pipe that this process alone holds; then it kills the whole
    group, itself included. ``keep_open`` are file descriptors, for example of a lock, that stay open until then.
    """
    command = ["/bin/sh", "-c", "read line; kill -KILL 0"]
    streams: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    shell = subprocess.Popen(command, **streams, process_group=0, pass_fds=keep_open)
    try:
        yield shell.pid
    finally:
        shell.communicate()  # closes the pipe and waits


def cpu_count() -> int:
    """Return the CPUs that this process may use: its affinity and its control group's quota."""
    count = len(os.sched_getaffinity(0))
    for names in (["cpu.max"], ["cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"]):
        try:
            quota, period = (int(word) for name in names for word in Path(CGROUPS, name).read_text().split())
        except (OSError, ValueError):
            continue
        if quota > 0:
            count = min(count, max(1, round(quota / period)))
    return count


def gpus() -> list[str]:
    """Return the names by which processes address this machine's GPUs, as CUDA numbers them.

    As CUDA reads CUDA_VISIBLE_DEVICES, what follows the first name that is none (-1, NoDevFiles) does not count, and a
    name given twice leaves no GPU.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        names = list(takewhile(GPU_NAME.fullmatch, map(str.strip, visible.split(","))))
        return names if len(set(names)) == len(names) else []
    try:
        listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return []
    lines = [line for line in listing.stdout.splitlines() if line.startswith("GPU ")]
    return [str(number) for number in range(len(lines))] if listing.returncode == 0 else []


def pick_slots(device: str, parallel: int | Auto, threads: int | None) -> list[dict[str, str]]:
    """Return what each of the runs at a time adds to its environment.

    On GPUs one run on each, on a CPU as many as it has threads for; ``parallel`` runs if that is a number, sharing the
    GPUs in turn.
    """
    gpu_names = [] if device == "cpu" else gpus()
    fitting = len(gpu_names) or (max(1, cpu_count() // threads) if threads else 1)
    count = fitting if parallel == "auto" else parallel
    slots = [{"OMP_NUM_THREADS": str(threads)} if threads else {} for _ in range(count)]
    for slot, name in zip(slots, cycle(gpu_names), strict=False):
        slot["CUDA_VISIBLE_DEVICES"] = name
    return slots
