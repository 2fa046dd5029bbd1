"""Contenders in processes of their own, their steps taken in turn on the same machine."""

import json
import math
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from tqdm import tqdm

from benchmarks.environment import child_environment, module_command
from benchmarks.hardware import matmul_ceiling
from benchmarks.timing import rotated, slow_steps, spread
from benchmarks.training.worker import OUT_OF_MEMORY, TrainingJob
from llama_scale.config import ModelConfig
from llama_scale.cost.accounting import flops_per_token
from llama_scale.cost.hardware import bf16_peak
from llama_scale.errors import InputError

# Nats that losses may differ by at the first step, in float32 and where anything is in bf16; at the second one twice as
# much. Those two tell another model from the same one. Later ones do not: at a full rate without warm-up Adam turns the
# rounding of a gradient near zero into a whole step, and trajectories part.
LOSS_TOLERANCE = {False: 2e-4, True: 1e-2}
COMPARED_STEPS = 2


class ContenderError(InputError):
    """A contender cannot go on: ``name`` says which, ``reason`` why."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name}: {reason}")
        self.name, self.reason = name, reason


class ContenderOutOfMemory(ContenderError):
    """The device cannot hold a contender."""


@dataclass(frozen=True)
class Contender:
    """What takes part: a name, what it trains, and the interpreter that can import it."""

    name: str
    job: TrainingJob
    python: str = sys.executable


@dataclass
class Worker:
    """A process that holds one contender, and what was measured of it."""

    name: str
    job: TrainingJob
    process: subprocess.Popen
    errors: Any
    threads: int = 0
    torch: str = ""
    seconds: list[float] = field(default_factory=list)
    ceilings: list[float] = field(default_factory=list)  # FLOP/s of matrix products in the turns of ``seconds``
    losses: list[float] = field(default_factory=list)
    memory: int = 0
    kernels: dict[str, Any] | None = None

    @classmethod
    def start(cls, contender: Contender) -> "Worker":
        """Start the process, which builds the contender: ``wait_until_built``."""
        errors = tempfile.TemporaryFile(mode="w+")  # noqa: SIM115, read when the process dies
        process = subprocess.Popen(
            module_command(contender.job.MODULE, json.dumps(asdict(contender.job)), python=contender.python),
            env=child_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        return cls(contender.name, contender.job, process, errors)

    def wait_until_built(self) -> None:
        """Wait for the process to be ready for steps; raise ContenderError if it cannot hold the contender."""
        ready = self.read_reply()
        self.threads, self.torch = ready["threads"], ready["torch"]

    def read_reply(self) -> dict[str, Any]:
        """Return the next reply; raise ContenderError if it is an error or none comes."""
        line = self.process.stdout.readline()
        reply = json.loads(line) if line else {"error": self.exit_reason()}
        if reply.get("error") == OUT_OF_MEMORY:
            raise ContenderOutOfMemory(self.name, OUT_OF_MEMORY)
        if "error" in reply:
            raise ContenderError(self.name, reply["error"])
        return reply

    def exit_reason(self) -> str:
        """Return how the process ended and the last line that it wrote to standard error."""
        code = self.process.wait()
        self.errors.seek(0)
        lines = [line for line in self.errors.read().splitlines() if line.strip()] or [""]
        killed = code == -signal.SIGKILL
        reason = "killed, perhaps for lack of memory" if killed else lines[-1][:300]
        return f"its process ended with {code}: {reason}"

    def request_step(self, number: int) -> None:
        """Ask for training step ``number``, which fixes the tokens."""
        try:
            print(number, file=self.process.stdin, flush=True)
        except BrokenPipeError:
            raise ContenderError(self.name, self.exit_reason()) from None

    def record_step(self, timed: bool) -> None:
        """Wait for the step that was asked for and record what it measured."""
        reply = self.read_reply()
        self.losses.append(reply["loss"])
        self.memory = reply["memory"]
        if timed:
            self.seconds.append(reply["seconds"])

    def profile(self, steps: int) -> None:
        """Record the kernels of so many more steps, or why there are none: what was timed stays."""
        try:
            self.request_step(-steps)
            self.kernels = self.read_reply()["kernels"]
        except ContenderError as error:
            self.kernels = {"error": error.reason}

    def stop(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.communicate()
        self.errors.close()


def run_interleaved(
    contenders: Sequence[Contender], steps: int, warmup: int, profile: int = 0, seconds: float | None = None
) -> list[Worker]:
    """Take ``warmup`` untimed and ``steps`` timed steps of each in turn, the order turning.

    The ceiling of matrix products is measured in each timed turn: a machine that other work slows in some turns slows
    both, and steps would pass a ceiling that was measured before them. Steps far above their median are told of.
    All take the first step, in which they compile, at once. The losses of those that train the same
    must agree: they are the same model on the same tokens. Of the first, ``profile`` more steps
    give its kernels. No step begins when ``seconds`` are over, but two are timed at least. Raises
    ContenderError if losses do not agree, or when a process fails.
    """
    end = time.monotonic() + (float("inf") if seconds is None else seconds)
    workers: list[Worker] = []
    progress = tqdm(total=len(contenders) * (warmup + steps), unit="step", disable=None)
    try:
        workers += map(Worker.start, contenders)
        for worker in workers:
            progress.set_description(f"building {worker.name}")
            worker.wait_until_built()
        progress.set_description("first step")
        for worker in workers:
            worker.request_step(0)
        for worker in workers:
            worker.record_step(timed=False)
            progress.update()
        for number in range(1, warmup + steps):
            if time.monotonic() > end and number >= warmup + 2:
                break
            for worker in rotated(workers, number):
                progress.set_description(worker.name)
                worker.request_step(number)
                worker.record_step(timed=number >= warmup)
                progress.update()
            if number >= warmup:
                bf16 = any(worker.job.bf16 for worker in workers)
                reached = matmul_ceiling(workers[0].job.device, bf16, repeats=2, warmup=1)
                for worker in workers:
                    worker.ceilings.append(reached)
            check_losses(workers)
        if profile:
            workers[0].profile(profile)
    finally:
        progress.close()
        for worker in workers:
            worker.stop()
    for line in filter(None, (slow_steps(worker.name, worker.seconds) for worker in workers)):
        print(line, file=sys.stderr, flush=True)
    return workers


def check_losses(workers: Sequence[Worker]) -> None:
    """Raise ContenderError when the first losses do not agree, or one is no number: it is not the same model."""
    tolerance = LOSS_TOLERANCE[any(worker.job.bf16 for worker in workers)]
    firsts: dict[str, Worker] = {}
    for other in workers:
        reference = firsts.setdefault(other.job.trains, other)
        for number, pair in enumerate(zip(reference.losses, other.losses, strict=True)):
            gap = abs(pair[0] - pair[1])
            if not gap <= (tolerance * (number + 1) if number < COMPARED_STEPS else math.inf):
                reason = f"its loss differs from ours by {gap:.2g} at step {number + 1}"
                raise ContenderError(other.name, f"{reason}; not compared")


def summarize(worker: Worker, workers: Sequence[Worker], ceiling: float, gpu: str | None) -> dict[str, Any]:
    """Return a contender's rate, its memory and, step by step, its time over each of ours.

    Its share of the ceiling is that of the same turn, step by step; ``ceiling``, in FLOP/s, stands for turns in which
    it was not measured.
    """
    job, config = worker.job, ModelConfig(**worker.job.model)
    seconds = spread(worker.seconds)["median"]
    rate = job.tokens / seconds
    full, causal = flops_per_token(config, causal=False), flops_per_token(config)
    ceilings = worker.ceilings or [ceiling] * len(worker.seconds)
    turns = zip(worker.seconds, ceilings, strict=True)
    shares = spread([job.tokens / step * full / reached for step, reached in turns])
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
        "matmul_ceiling": spread(ceilings)["median"],
        "matmul_ceiling_quartiles": spread(ceilings)["quartiles"],
        "share_of_ceiling": shares["median"],
        "share_of_ceiling_quartiles": shares["quartiles"],
        "ratios": {own.name: step_ratios(worker, own) for own in workers if own.job.peer == "llama_scale"},
        "losses": worker.losses,
        "seconds": worker.seconds,
        "kernels": worker.kernels,
    }
    if peak := gpu and bf16_peak(gpu):
        row |= {"mfu_full": rate * full / peak, "mfu_causal": rate * causal / peak}
    return row


def step_ratios(slower: Worker, faster: Worker) -> dict[str, Any]:
    """Return how many times as fast ``faster`` is, over the steps taken side by side."""
    pairs = zip(slower.seconds, faster.seconds, strict=True)
    return spread([slow / fast for slow, fast in pairs])
