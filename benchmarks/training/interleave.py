"""Contenders in processes of their own, their steps taken in turn on the same machine."""

import json
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from tqdm import tqdm

from benchmarks.environment import ROOT, variables
from benchmarks.training.worker import OUT_OF_MEMORY, Job
from llama_scale.config import ModelConfig
from llama_scale.cost.accounting import flops_per_token
from llama_scale.cost.hardware import bf16_peak
from llama_scale.errors import InputError

# Nats that losses may differ by at the first step, in float32 and where anything is in bf16; n
# steps later, when rounding has moved the weights apart, n + 1 times as much.
LOSS_TOLERANCE = {False: 2e-4, True: 1e-2}


class Failed(InputError):
    """A contender cannot go on; ``name`` says which."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__(f"{name}: {why}")
        self.name, self.why = name, why


class OutOfMemory(Failed):
    """The device cannot hold a contender."""


@dataclass
class Worker:
    """A process that holds one contender, and what was measured of it."""

    name: str
    job: Job
    process: subprocess.Popen
    errors: Any
    threads: int = 0
    torch: str = ""
    seconds: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    memory: int = 0

    @classmethod
    def start(cls, name: str, job: Job, python: str = sys.executable) -> "Worker":
        """Start the process; raise Failed with its reason if it cannot hold the contender."""
        errors = tempfile.TemporaryFile(mode="w+")  # noqa: SIM115, read when the process dies
        process = subprocess.Popen(
            [python, "-m", "benchmarks.training.worker", json.dumps(asdict(job))],
            cwd=ROOT,
            env=variables(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        worker = cls(name, job, process, errors)
        try:
            ready = worker.read()
        except BaseException:
            worker.stop()
            raise
        worker.threads, worker.torch = ready["threads"], ready["torch"]
        return worker

    def read(self) -> dict[str, Any]:
        """Return the process's next answer; raise Failed if it is an error or none comes."""
        line = self.process.stdout.readline()
        said = json.loads(line) if line else {"error": self.last_words()}
        if said.get("error") == OUT_OF_MEMORY:
            raise OutOfMemory(self.name, OUT_OF_MEMORY)
        if "error" in said:
            raise Failed(self.name, said["error"])
        return said

    def last_words(self) -> str:
        """Return how the process ended and the last line that it wrote to standard error."""
        code = self.process.wait()
        self.errors.seek(0)
        lines = [line for line in self.errors.read().splitlines() if line.strip()] or [""]
        why = "killed, perhaps for lack of memory" if code == -signal.SIGKILL else lines[-1][:300]
        return f"its process ended with {code}: {why}"

    def ask(self, number: int) -> None:
        """Ask for training step ``number``, which fixes the tokens."""
        try:
            print(number, file=self.process.stdin, flush=True)
        except BrokenPipeError:
            raise Failed(self.name, self.last_words()) from None

    def take(self, timed: bool) -> None:
        """Wait for the step that was asked for and keep what it measured."""
        said = self.read()
        self.losses.append(said["loss"])
        self.memory = said["memory"]
        if timed:
            self.seconds.append(said["seconds"])

    def stop(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.communicate()
        self.errors.close()


def race(entries: Sequence[tuple[str, Job, str]], steps: int, warmup: int) -> list[Worker]:
    """Take ``warmup`` untimed and ``steps`` timed steps of each entry in turn, the order turning.

    ``entries`` are name, job and the interpreter to run it with. All take the first step, in which
    they compile, at once. The losses of all must agree with the first one's: they are the same
    model on the same tokens. Raises Failed if they do not, or when a process fails.
    """
    workers: list[Worker] = []
    progress = tqdm(total=len(entries) * (warmup + steps), unit="step", disable=None)
    try:
        for entry in entries:
            progress.set_description(f"building {entry[0]}")
            workers.append(Worker.start(*entry))
        progress.set_description("first step")
        for worker in workers:
            worker.ask(0)
        for worker in workers:
            worker.take(timed=False)
            progress.update()
        for number in range(1, warmup + steps):
            turn = number % len(workers)
            for worker in workers[turn:] + workers[:turn]:
                progress.set_description(worker.name)
                worker.ask(number)
                worker.take(timed=number >= warmup)
                progress.update()
            check_losses(workers)
    finally:
        progress.close()
        for worker in workers:
            worker.stop()
    return workers


def check_losses(workers: Sequence[Worker]) -> None:
    """Raise Failed when losses do not agree: then it is not the same model."""
    tolerance = LOSS_TOLERANCE[any(worker.job.bf16 for worker in workers)]
    ours, *others = workers
    for other in others:
        for number, pair in enumerate(zip(ours.losses, other.losses, strict=True)):
            gap = abs(pair[0] - pair[1])
            if not gap <= tolerance * (number + 1):
                why = f"its loss differs from ours by {gap:.2g} at step {number + 1}"
                raise Failed(other.name, f"{why}; not compared")


def summarise(
    worker: Worker, workers: Sequence[Worker], ceiling: float, gpu: str | None
) -> dict[str, Any]:
    """Return a contender's rate, its memory and, step by step, its time over each of ours.

    ``ceiling`` is what the machine's matrix products reach in FLOP/s.
    """
    job, config = worker.job, ModelConfig(**worker.job.model)
    seconds = statistics.median(worker.seconds)
    rate = job.tokens / seconds
    full, causal = flops_per_token(config, causal=False), flops_per_token(config)
    row = {
        "name": worker.name,
        "torch": worker.torch,
        "precision": "bf16" if job.bf16 else "fp32",
        "compile": job.compile,
        "micro_batch": job.micro_batch,
        "accumulate": job.accumulate,
        "recompute": job.recompute,
        "tokens_per_second": rate,
        "ms_per_step": 1e3 * seconds,
        "peak_memory": worker.memory,
        "share_of_ceiling": rate * full / ceiling,
        "ratios": {w.name: ratio(worker, w) for w in workers if w.job.peer == "llama_scale"},
        "losses": worker.losses,
        "seconds": worker.seconds,
    }
    if peak := gpu and bf16_peak(gpu):
        row |= {"mfu_full": rate * full / peak, "mfu_causal": rate * causal / peak}
    return row


def ratio(other: Worker, ours: Worker) -> dict[str, Any]:
    """Return how many times as fast as ``other`` ours is, over the steps taken side by side."""
    ratios = [b / a for a, b in zip(ours.seconds, other.seconds, strict=True)]
    quartiles = statistics.quantiles(ratios, n=4)[::2] if len(ratios) > 1 else ratios * 2
    return {"median": statistics.median(ratios), "quartiles": quartiles}
