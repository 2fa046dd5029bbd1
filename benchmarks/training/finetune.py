"""Steps of adapters beside those of all weights, and beside peft on transformers, in one run."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from benchmarks.hardware import processor_name
from benchmarks.tables import format_ratio, format_table
from benchmarks.timing import spread
from benchmarks.training.finetune_worker import FinetuneJob
from benchmarks.training.interleave import Contender, run_interleaved, step_ratios
from llama_scale.config import ModelConfig
from llama_scale.cost.hardware import MIB
from llama_scale.errors import InputError, at_least_1, check_fields, listed

CONTENDERS = {"full": ("llama_scale", "full"), "peft": ("peft", "lora")}


@dataclass(frozen=True)
class FinetuneBenchmark:
    """Time and memory of a step of fine-tuning, on examples of unequal length drawn at random.

    Args:
        model: The model's shape; --size NAME reads it from configs/size/NAME.yaml.
        size: Name of the rung.
        batch: Examples in a step.
        length: Tokens of the longest.
        rank: Of the adapters, on every layer but the head.
        peers: Who takes part beside our adapters, separated by commas: full (ours, all weights), peft (adapters by peft
            on transformers).
        steps: Timed steps of each.
        warmup: Steps before those.
        precision: Compute precision; auto is bf16 where the hardware multiplies it fast.
        device: Where to run; auto is the GPU if there is one.
        threads: CPU threads; null leaves the library's choice.
        out: JSON file for the measurements.
    """

    model: ModelConfig
    size: str = "custom"
    batch: int = 8
    length: int = 256
    rank: int = 16
    peers: str = "full,peft"
    steps: int = 20
    warmup: int = 2
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int | None = None
    out: str | None = None

    def __post_init__(self) -> None:
        check_fields(self, "at least 1", at_least_1, "batch rank steps warmup threads")
        listed("peers", self.peers, CONTENDERS)
        if not 8 <= self.length <= self.model.context_length:
            raise InputError(f"length: expected 8 to the context of {self.model.context_length}, found {self.length}")


def run(config: FinetuneBenchmark) -> dict[str, Any]:
    """Time interleaved steps of every contender from the same weights, adapters and tokens."""
    from llama_scale.device import pick_device, pick_precision, set_threads

    device = pick_device(config.device)
    set_threads(config.threads)
    bf16, why = pick_precision(config.precision, device, config.model.d_model, config.model.d_ff)
    named = {"adapters": ("llama_scale", "lora")} | {
        n: CONTENDERS[n] for n in listed("peers", config.peers, CONTENDERS)
    }
    entries = []
    for name, (peer, method) in named.items():
        job = FinetuneJob(
            peer=peer,
            method=method,
            model=asdict(config.model),
            micro_batch=config.batch,
            length=config.length,
            rank=config.rank,
            bf16=bf16,
            device=device,
            threads=config.threads,
        )
        entries.append(Contender(name, job))
    workers = run_interleaved(entries, config.steps, config.warmup)
    return {
        "size": config.size,
        "device": processor_name(device),
        "threads": workers[0].threads,
        "precision": {"value": "bf16" if bf16 else "fp32", "source": why},
        "batch": config.batch,
        "length": config.length,
        "rank": config.rank,
        "contenders": [
            {
                "name": worker.name,
                "ms_per_step": 1e3 * spread(worker.seconds)["median"],
                "peak_memory": worker.memory,
                "ratio": step_ratios(worker, workers[0]),
                "losses": worker.losses,
                "seconds": worker.seconds,
            }
            for worker in workers
        ],
    }


def table(result: dict[str, Any]) -> str:
    """Return the measurements as text for the terminal."""
    rows = [
        [
            row["name"],
            f"{row['ms_per_step']:,.1f}",
            f"{row['peak_memory'] / MIB:,.0f}",
            format_ratio(row["ratio"]["median"], row["ratio"]["quartiles"]),
            f"{row['losses'][0]:.5f}",
        ]
        for row in result["contenders"]
    ]
    title = (
        f"{result['size']}, rank {result['rank']}, {result['batch']} examples of up to {result['length']} tokens, "
        f"{result['precision']['value']}, {result['device']}, {result['threads']} threads"
    )
    return f"{title}\n{format_table(['contender', 'ms/step', 'peak MiB', 'adapters are', 'first loss'], rows)}"
