"""What the steps measure: real sizes on a GPU, tiny ones on a CPU, where the command is rehearsed."""

from dataclasses import dataclass, field
from typing import Any

from benchmarks.training.table import TableRow
from llama_scale.cost.hardware import GIB


@dataclass(frozen=True)
class SpeedRow:
    """A row of the speed table: its steps, the least memory of the card, and its goal.

    Args:
        row: The size, its micro-batches and its peers.
        steps: Timed steps.
        warmup: Untimed steps before them.
        profile: Profiled steps after them.
        least_memory: Bytes that the card must have.
        goal: Share of the peak to reach, attention counted full.
    """

    row: TableRow
    steps: int
    warmup: int
    profile: int
    least_memory: int = 0
    goal: float | None = None


@dataclass(frozen=True)
class Plan:
    """The shapes of all steps.

    Args:
        size: Size that losses and gradients are compared at, and that a run is stopped and resumed with.
        model: Fields of every model that differ from its size's.
        batch: Sequences of that comparison.
        run_batch: Sequences in a step of that run.
        run_steps: Its steps.
        speed: Rows of the speed table.
        sampling: Settings of the sampling benchmark.
        data: Settings of launch/prepare.py where no tokens are given.
        compile: Compare compiled code with eager code; a CPU's compiler takes longer than a rehearsal.
        study: Settings of the ladder that differ from configs/study/gpu.yaml's.
    """

    size: str
    model: dict[str, Any]
    batch: int
    run_batch: int
    run_steps: int
    speed: list[SpeedRow]
    sampling: dict[str, Any]
    data: dict[str, Any]
    compile: bool = True
    study: dict[str, Any] = field(default_factory=dict)


def gpu_plan(peers: list[str]) -> Plan:
    """Return the plan of a GPU; peers run beside M2."""
    return Plan(
        size="M1",
        model={},
        batch=2,
        run_batch=32,
        run_steps=60,
        speed=[
            SpeedRow(TableRow("M2", [32, 16, 8], peers=peers), steps=25, warmup=4, profile=3, goal=0.5),
            SpeedRow(TableRow("M4", [8, 4, 2], accumulate=8), steps=8, warmup=2, profile=1, goal=0.6),
            SpeedRow(TableRow("M3", [16, 8, 4]), steps=25, warmup=4, profile=3, goal=0.58),
            SpeedRow(TableRow("M5", [4, 2, 1]), steps=20, warmup=3, profile=2, least_memory=120 * GIB, goal=0.6),
        ],
        sampling={"size": "M2", "prompts": 64, "n_samples": 20, "max_new_tokens": 128, "together": 32},
        data={"max_bytes": 40_000_000, "tokenizer_bytes": 16_000_000},
    )


def tiny_plan(peers: list[str]) -> Plan:
    """Return the plan of a rehearsal on a CPU: two tiny rows, the second beside the peers."""
    model = {"context_length": 512, "vocab_size": 1024}
    return Plan(
        size="Q1",
        model=model,
        batch=2,
        run_batch=2,
        run_steps=60,
        speed=[
            SpeedRow(TableRow("Q2", [2], accumulate=2, compile=False, model=model), steps=4, warmup=1, profile=1),
            SpeedRow(TableRow("Q1", [2], peers=peers, compile=False, model=model), steps=4, warmup=1, profile=2),
        ],
        sampling={"size": "Q1", "prompts": 2, "n_samples": 2, "max_new_tokens": 8, "together": 2},
        data={
            "packages": ["networkx", "jinja2"],  # which torch itself needs
            "max_bytes": 1_500_000,
            "tokenizer_bytes": 500_000,
            "vocab_size": 1024,
            "near_duplicates": False,
        },
        compile=False,
        study={
            "device": "cpu",
            "parallel": 2,
            "threads": 1,
            "train": {**{f"model.{name}": value for name, value in model.items()}, "compile": False}
            | {"optim.batch_tokens": 512, "val_every": 0, "val_tokens": 8_192},
            "runs": [
                {"sizes": ["Q1", "Q3"], "tokens": [10_240, 20_480]},
                {"sizes": ["Q2"], "tokens": [10_240, 15_360]},
                {"sizes": ["Q3"], "tokens": [40_960]},
            ],
            "holdout": "largest",
            "evaluate": {"perplexity.max_tokens": 8_192},
        },
    )


def plan_for(device: str, peers: list[str]) -> Plan:
    """Return what to measure on a device."""
    return gpu_plan(peers) if device == "cuda" else tiny_plan(peers)
