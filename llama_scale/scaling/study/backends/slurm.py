"""Runs a study's tasks as jobs of a SLURM cluster through submitit, in arrays; can be left alone.

The study's process only submits and watches. When it ends the jobs go on, and the same command
attaches to them again. A job that reaches its time limit or is pre-empted puts itself back into
the queue, and the training run continues from its newest checkpoint.
"""

import os
import shlex
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama_scale.cli import USER_ERROR
from llama_scale.errors import InputError
from llama_scale.files import read_json, write_json
from llama_scale.scaling.study.backends.local import (
    ATTEMPTS,
    Failure,
    Observer,
    Running,
    State,
    exit_words,
)
from llama_scale.scaling.study.plan import REPOSITORY
from llama_scale.scaling.study.tasks import Task

if TYPE_CHECKING:
    import submitit

POLL = 10.0
GRACE = 60.0
LOST = ("NO PROCESS AND NO RESULT",)


@dataclass
class Command:
    """A task's command as a job: runs it, its output appended to the task's log."""

    argv: tuple[str, ...]
    root: str
    log: str

    def __call__(self) -> int:
        """Run the command and return its exit code."""
        with open(self.log, "ab") as log:
            log.write(f"$ {shlex.join(self.argv)}\n".encode())
            log.flush()
            process = subprocess.Popen(
                self.argv, cwd=self.root, stdout=log, stderr=subprocess.STDOUT
            )
            self.__dict__["process"] = process
            return process.wait()

    def checkpoint(self) -> "submitit.helpers.DelayedSubmission":
        """Stop the command so that it saves, and put the job back into the queue."""
        from submitit.helpers import DelayedSubmission

        process = self.__dict__["process"]
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(GRACE)
        return DelayedSubmission(Command(self.argv, self.root, self.log))


@dataclass(kw_only=True)
class Submitted(Running):
    """A task's attempt as a job, which runs once it has written to its log."""

    job: Any

    def wait(self) -> None:
        """Take note of whether the job still waits in the queue: then its time has not begun."""
        if _size(self.log) <= self.log_start:
            self.started = time.monotonic()


def _size(path: Path) -> int:
    """Return the bytes of a file; 0 where there is none."""
    return path.stat().st_size if path.exists() else 0


class SlurmExecutor:
    """Runs the tasks of a ``State`` as jobs; tasks that are ready together are one job array.

    ``parameters`` are submitit's, for example {"slurm_partition": "gpu", "timeout_min": 600,
    "gpus_per_node": 1}. ``cluster`` is submitit's: slurm, or local for jobs on this machine.
    Raises InputError if submitit is not installed or does not know a parameter.
    """

    def __init__(
        self,
        state: State,
        logs: Path,
        parameters: dict[str, Any],
        observer: Observer,
        cluster: str = "slurm",
        poll: float = POLL,
    ) -> None:
        try:
            import submitit
        except ImportError:
            raise InputError(
                "executor: slurm needs submitit; install it with pip install llama_scale[slurm]"
            ) from None
        self.state, self.logs, self.observer, self.poll = state, logs, observer, poll
        logs.mkdir(parents=True, exist_ok=True)
        self.submitted = state.folder / "submitted.json"
        try:
            self.executor = submitit.AutoExecutor(folder=logs / "jobs", cluster=cluster)
            self.executor.update_parameters(name=state.folder.parent.name, **parameters)
        except (NameError, RuntimeError, TypeError) as error:
            raise InputError(f"slurm: {' '.join(str(error).split())}") from None
        self.running: list[Submitted] = []
        self.failures: list[Failure] = []

    def run(self) -> list[Failure]:
        """Run every task whose inputs succeed; return the failures.

        KeyboardInterrupt leaves the jobs alone: the next call finds them again.
        """
        self._attach()
        while self._submit() or self.running:
            time.sleep(self.poll)
            self._collect()
            self.observer.tick(self.running)
        self.submitted.unlink(missing_ok=True)
        return self.failures

    def _attach(self) -> None:
        """Take up the jobs that an earlier process submitted and that are not lost."""
        known = read_json(self.submitted) if self.submitted.exists() else {}
        tasks = {task.name: task for task in self.state.ready()}
        for name, row in known.items():
            if name not in tasks or row["key"] != self.state.keys[name]:
                continue
            job = self.executor._executor.job_class(self.executor.folder, row["job"])
            if job.state not in LOST:
                self.running.append(
                    Submitted(
                        task=tasks[name],
                        attempt=row["attempt"],
                        log=self._log(name),
                        log_start=row.get("log_start", 0),
                        job=job,
                    )
                )

    def _log(self, name: str) -> Path:
        return self.logs / f"{name}.log"

    def _submit(self) -> bool:
        """Submit the tasks that are ready as one array; return whether there were any."""
        taken = {r.task.name for r in self.running} | {f.task.name for f in self.failures}
        waiting = [task for task in self.state.ready() if task.name not in taken]
        if waiting:
            self._array([(task, 1) for task in waiting])
            for running in self.running[-len(waiting) :]:
                self.observer.started(running)
        return bool(waiting)

    def _array(self, tasks: list[tuple[Task, int]]) -> None:
        starts = [_size(self._log(task.name)) for task, _ in tasks]
        path = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))
        before = dict(os.environ)
        os.environ |= {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}
        try:
            with self.executor.batch():
                jobs = [
                    self.executor.submit(
                        Command(task.argv, str(self.state.root), str(self._log(task.name)))
                    )
                    for task, _ in tasks
                ]
        finally:
            os.environ.clear()
            os.environ.update(before)
        for (task, attempt), start, job in zip(tasks, starts, jobs, strict=True):
            log = self._log(task.name)
            self.running.append(
                Submitted(task=task, attempt=attempt, log=log, log_start=start, job=job)
            )
        self._record()

    def _record(self) -> None:
        rows = {
            r.task.name: {
                "job": r.job.job_id,
                "attempt": r.attempt,
                "log_start": r.log_start,
                "key": self.state.keys[r.task.name],
            }
            for r in self.running
        }
        write_json(self.submitted, rows)

    def _collect(self) -> None:
        """Take note of the jobs that have begun and ended; submit a crashed one once more."""
        for running in self.running:
            running.wait()
        for running in [r for r in self.running if r.job.done()]:
            self.running.remove(running)
            failed, code = running.job.exception(), None
            code = None if failed else running.job.result()
            missing = self.state.missing(running.task)
            if code == 0 and not missing:
                self.state.finish(running)
                self.observer.finished(running)
            elif code != USER_ERROR and running.attempt < ATTEMPTS:
                self.observer.retried(running)
                self._array([(running.task, running.attempt + 1)])
            else:
                reason = f"job {running.job.job_id} {running.job.state}" if failed else ""
                reason = reason or (
                    exit_words(code) if code else f"exit code 0 without {missing[0]}"
                )
                failure = Failure(running.task, reason, running.tail(), code == USER_ERROR)
                self.failures.append(failure)
                self.observer.failed(failure)
            self._record()
