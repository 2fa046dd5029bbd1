"""Runs a study's tasks as jobs of a SLURM cluster through submitit, in arrays; can be left alone.

The study's process only submits and watches. When it ends the jobs go on, and the same command attaches to them again.
A job that reaches its time limit or is pre-empted puts itself back into the queue, and the training run continues from
its newest checkpoint.
"""

import os
import shlex
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama_scale.errors import InputError
from llama_scale.files import read_json, write_json
from llama_scale.scaling.study.backends.state import Attempt, Executor, Failure, Observer, State, task_environment
from llama_scale.scaling.study.backends.task import Task

if TYPE_CHECKING:
    import submitit

POLL_SECONDS = 10.0
GRACE = 60.0
# submitit's states of a job that ended without leaving a result.
LOST_STATES = ("NO PROCESS AND NO RESULT",)


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
            process = subprocess.Popen(self.argv, cwd=self.root, stdout=log, stderr=subprocess.STDOUT)
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
class SlurmAttempt(Attempt):
    """A task that was submitted as a job, which runs once it has written to its log."""

    job: Any

    def restart_clock_in_queue(self) -> None:
        """Begin its time anew while the job waits in the queue and has written nothing."""
        if _size(self.log) <= self.log_start:
            self.started = time.monotonic()


def _size(path: Path) -> int:
    """Return the bytes of a file; 0 where there is none."""
    return path.stat().st_size if path.exists() else 0


class SlurmExecutor(Executor):
    """Runs the tasks of a ``State`` as jobs; tasks that are ready together are one job array.

    Args beside those of an ``Executor``:
        parameters: submitit's, for example {"slurm_partition": "gpu", "timeout_min": 600, "gpus_per_node": 1}.
        cluster: submitit's: slurm, or local for jobs on this machine.
        poll: Seconds between two looks at the jobs.

    Raises:
        InputError: submitit is not installed or does not know a parameter.
    """

    def __init__(
        self,
        state: State,
        logs: Path,
        parameters: dict[str, Any],
        observer: Observer,
        *,
        import_path: Path,
        cluster: str = "slurm",
        poll: float = POLL_SECONDS,
    ) -> None:
        try:
            import submitit
        except ImportError:
            raise InputError("executor: slurm needs submitit; install it with pip install llama_scale[slurm]") from None
        super().__init__(state, logs, observer, import_path)
        self.poll, self.submitted = poll, state.folder / "submitted.json"
        try:
            self.executor = submitit.AutoExecutor(folder=logs / "jobs", cluster=cluster)
            self.executor.update_parameters(name=state.folder.parent.name, **parameters)
        except (NameError, RuntimeError, TypeError) as error:
            raise InputError(f"slurm: {' '.join(str(error).split())}") from None

    def run(self) -> list[Failure]:
        """Run every task whose inputs succeed; return the failures.

        KeyboardInterrupt leaves the jobs alone: the next call finds them again.
        """
        self._attach()
        while self._submit_ready() or self.running:
            time.sleep(self.poll)
            self._check_ended()
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
            if job.state not in LOST_STATES:
                log, start = self._log(name), row.get("log_start", 0)
                self.running.append(
                    SlurmAttempt(task=tasks[name], number=row["attempt"], log=log, log_start=start, job=job)
                )

    def _log(self, name: str) -> Path:
        return self.logs / f"{name}.log"

    def _submit_ready(self) -> bool:
        """Submit the tasks that are ready as one array; return whether there were any."""
        if waiting := self.waiting():
            self._submit_array(waiting, 1)
            for attempt in self.running[-len(waiting) :]:
                self.observer.started(attempt)
        return bool(waiting)

    def _submit_array(self, tasks: list[Task], number: int) -> None:
        """Submit tasks as one array of jobs, each at its ``number``-th attempt."""
        starts = [_size(self._log(task.name)) for task in tasks]
        before = dict(os.environ)
        # A job gets the environment of the process that submits it.
        os.environ |= task_environment(self.import_path)
        try:
            with self.executor.batch():
                commands = [Command(task.argv, str(self.state.root), str(self._log(task.name))) for task in tasks]
                jobs = [self.executor.submit(command) for command in commands]
        finally:
            os.environ.clear()
            os.environ.update(before)
        for task, start, job in zip(tasks, starts, jobs, strict=True):
            log = self._log(task.name)
            self.running.append(SlurmAttempt(task=task, number=number, log=log, log_start=start, job=job))
        self._write_submitted()

    def _write_submitted(self) -> None:
        """Write down the jobs, so that another process can attach to them."""
        rows = {}
        for attempt in self.running:
            name, job = attempt.task.name, attempt.job.job_id
            key = self.state.keys[name]
            rows[name] = {"job": job, "attempt": attempt.number, "log_start": attempt.log_start, "key": key}
        write_json(self.submitted, rows)

    def _check_ended(self) -> None:
        """Take note of the jobs that have begun and ended; submit a crashed one once more."""
        for attempt in self.running:
            attempt.restart_clock_in_queue()
        for attempt in [a for a in self.running if a.job.done()]:
            job = attempt.job
            code, lost = (None, f"job {job.job_id} {job.state}") if job.exception() else (job.result(), "")
            if self.conclude(attempt, code, lost):
                self._submit_array([attempt.task], attempt.number + 1)
            self._write_submitted()
