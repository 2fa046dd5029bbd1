"""Runs tasks as processes on this machine, several at a time, and leaves none behind."""

import os
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

from llama_scale.cli import leave_terminal
from llama_scale.config import Auto
from llama_scale.scaling.study.backends.state import Attempt, Executor, Failure, Observer, State, task_environment
from llama_scale.scaling.study.backends.task import Task

POLL_SECONDS = 0.1
GRACE = 20.0
CGROUPS = "/sys/fs/cgroup"
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@dataclass(kw_only=True)
class LocalAttempt(Attempt):
    """A task that runs as a process in a slot of this machine."""

    process: subprocess.Popen
    slot: int


class LocalExecutor(Executor):
    """Runs the tasks of a ``State`` on this machine, one in each slot at a time.

    Args beside those of an ``Executor``:
        slots: For each place what it adds to the environment, for example one GPU.
        keep_open: File descriptors, as in ``group_that_dies_with_us``.
        grace: Seconds that processes have to stop when told to.
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
    ) -> None:
        super().__init__(state, logs, observer, import_path)
        self.slots, self.keep_open, self.grace, self.signals = slots, keep_open, grace, 0

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
        return self.failures

    def _fill_slots(self, group: int) -> bool:
        """Start tasks that are ready in the free slots; return whether one was started."""
        busy, waiting = {attempt.slot for attempt in self.running}, self.waiting()
        free = [slot for slot in range(len(self.slots)) if slot not in busy]
        for slot, task in zip(free, waiting, strict=False):
            self._launch(task, slot, 1, group)
            self.observer.started(self.running[-1])
        return bool(free and waiting)

    def _launch(self, task: Task, slot: int, number: int, group: int) -> None:
        """Start a task's process in the process group; its output goes to the end of its log."""
        log = self.logs / f"{task.name}.log"
        with open(log, "ab") as file:
            file.write(f"$ {shlex.join(task.argv)}\n".encode())
            file.flush()
            start = file.tell()
            process = subprocess.Popen(
                task.argv,
                cwd=self.state.root,
                env=os.environ | task_environment(self.import_path) | self.slots[slot],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                process_group=group,
            )
        self.running.append(
            LocalAttempt(task=task, number=number, log=log, log_start=start, process=process, slot=slot)
        )

    def _check_ended(self, group: int) -> None:
        """Take note of the processes that have ended; run a crashed one once more."""
        for attempt in [a for a in self.running if a.process.poll() is not None]:
            if self.conclude(attempt, attempt.process.returncode, retry=not self.signals):
                self._launch(attempt.task, attempt.slot, attempt.number + 1, group)

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
