"""What a person can set, the steps with their shares of the time, and what a step's process is told."""

import time
from dataclasses import dataclass
from typing import Literal

from benchmarks.environment import TRAINING_PEERS
from llama_scale.errors import InputError, listed

# The steps in their order, and the seconds that each has of 8 minutes; what one leaves goes to the next.
SECONDS = {"setup": 25, "correctness": 70, "speed": 165, "sampling": 50, "ladder": 170}
# Of a rehearsal on a CPU, whose time goes to the start of processes.
CPU_SECONDS = {"setup": 20, "correctness": 180, "speed": 80, "sampling": 50, "ladder": 150}


@dataclass(frozen=True)
class GpuBenchmark:
    """Is this installation right, and how fast is it? launch/benchmark.py gpu.

    Args:
        out: Folder of the results: summary.md, gpu.json and logs.tar.gz.
        minutes: Time of all steps together.
        only: Steps to run, separated by commas (setup, correctness, speed, sampling, ladder); null is all.
        device: Where to run; cpu takes tiny shapes, to rehearse the command.
        tokens: Folder of token shards made by launch/prepare.py; null prepares some of the Python installed beside it.
        peers: Other implementations to run beside ours, separated by commas; empty for none.
    """

    out: str = "gpu-results"
    minutes: float = 8.0
    only: str | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"
    tokens: str | None = None
    peers: str = "transformers"

    def __post_init__(self) -> None:
        if not 0 < self.minutes < float("inf"):
            raise InputError(f"minutes: expected a positive number, found {self.minutes}")
        listed("peers", self.peers, TRAINING_PEERS)
        if self.only is not None and not listed("only", self.only, SECONDS):
            raise InputError(f"only: name at least one step of {', '.join(SECONDS)}")

    @property
    def peer_names(self) -> list[str]:
        """Names of the peers."""
        return listed("peers", self.peers, TRAINING_PEERS)

    @property
    def steps(self) -> list[str]:
        """The steps to run, in their order."""
        chosen = list(SECONDS) if self.only is None else listed("only", self.only, SECONDS)
        return [name for name in SECONDS if name in chosen]


@dataclass(frozen=True)
class StepJob:
    """What a step's process is told.

    Args:
        name: The step.
        device: cpu, with tiny shapes, or cuda.
        work: Folder for what the steps make.
        record: JSON file of its result.
        end: When it is ended, in seconds since the epoch.
        tokens: Folder of token shards that was given.
        peers: Other implementations.
    """

    name: str
    device: str
    work: str
    record: str
    end: float
    tokens: str | None
    peers: list[str]

    @property
    def seconds_left(self) -> float:
        """Seconds until it is ended."""
        return self.end - time.time()


def step_ends(names: list[str], seconds: float, device: str) -> dict[str, float]:
    """Return when each step must have ended, in seconds from the start.

    With speed and ladder alone and 670 seconds, they have their 165 and 170 parts: {"speed": 330, "ladder": 670}.
    """
    shares = SECONDS if device == "cuda" else CPU_SECONDS
    whole, end, ends = sum(shares[name] for name in names), 0.0, {}
    for name in names:
        end += seconds * shares[name] / whole
        ends[name] = end
    return ends
