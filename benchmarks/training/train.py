"""Training steps of ours beside peers': equal shape, tokens, precision and optimizer."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from benchmarks.environment import TRAINING_PEERS, peer_python
from benchmarks.hardware import processor_name
from benchmarks.tables import format_ratio, format_table
from benchmarks.timing import spread
from benchmarks.training.interleave import Contender, run_interleaved, summarize
from benchmarks.training.worker import TrainingJob
from llama_scale.config import ModelConfig
from llama_scale.cost.hardware import GIB
from llama_scale.errors import at_least_1, check_fields, listed


@dataclass(frozen=True)
class TrainBenchmark:
    """Training speed, ours against peers at the same shape, tokens, precision and optimizer.

    Args:
        model: The model's shape; --size NAME reads it from configs/size/NAME.yaml.
        size: Name of the rung.
        peers: Other implementations to run beside ours, separated by commas; empty for none.
        batch: Sequences in a step.
        steps: Timed steps of each contender, interleaved.
        warmup: Untimed steps before them.
        precision: Compute precision of every contender; auto is bf16 where it is fast.
        compile: Add a compiled contender of each: ours block by block, the peers as a whole.
        shipped: Run ours as a long run ships, precision as given and blocks compiled, against the
            peers in fp32 eager.
        device: Where to run; auto is the GPU if there is one.
        threads: CPU threads; null leaves the library's choice.
        out: JSON file for the measurements.
    """

    model: ModelConfig
    size: str = "custom"
    peers: str = "transformers"
    batch: int = 4
    steps: int = 10
    warmup: int = 3
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    compile: bool = False
    shipped: bool = False
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int | None = None
    out: str | None = None

    def __post_init__(self) -> None:
        check_fields(self, "at least 1", at_least_1, "batch steps warmup")
        listed("peers", self.peers, TRAINING_PEERS)

    @property
    def peer_names(self) -> list[str]:
        """Names of the peers."""
        return listed("peers", self.peers, TRAINING_PEERS)


def run(config: TrainBenchmark) -> dict[str, Any]:
    """Time interleaved training steps of every contender from the same weights and tokens."""
    import torch

    from llama_scale.device import pick_device, pick_precision, set_threads

    device = pick_device(config.device)
    set_threads(config.threads)
    bf16, why = pick_precision(config.precision, device, config.model.d_model, config.model.d_ff)
    workers = run_interleaved(contenders(config, device, bf16), config.steps, config.warmup)
    ceiling = spread(workers[0].ceilings)
    gpu = torch.cuda.get_device_name() if device == "cuda" else None
    return {
        "size": config.size,
        "device": processor_name(device),
        "threads": workers[0].threads,
        "tokens_per_step": workers[0].job.tokens,
        "precision": {"value": "bf16" if bf16 else "fp32", "source": why},
        "matmul_ceiling": ceiling["median"],
        "matmul_ceiling_quartiles": ceiling["quartiles"],
        "contenders": [summarize(worker, workers, ceiling["median"], gpu) for worker in workers],
    }


def contenders(config: TrainBenchmark, device: str, bf16: bool) -> list[Contender]:
    """Return every contender, ours first."""
    entries = []
    for compiled in [False, True] if config.compile else [config.shipped]:
        for peer in ("llama_scale", *config.peer_names):
            plain = config.shipped and peer != "llama_scale"
            job = TrainingJob(
                peer=peer,
                model=asdict(config.model),
                micro_batch=config.batch,
                bf16=bf16 and not plain,
                compile=compiled and not plain,
                device=device,
                threads=config.threads,
            )
            name = f"{peer}, compiled" if job.compile else peer
            entries.append(Contender(name, job, peer_python(peer)))
    return entries


def table(result: dict[str, Any]) -> str:
    """Return the measurements as text for the terminal."""
    contenders = result["contenders"]
    own_names = [row["name"] for row in contenders if row["name"].startswith("llama_scale")]
    head = [
        "contender", "precision", "tokens/s", "ms/step", "MFU full", "MFU causal", "of the ceiling",
        "peak GiB", *(f"{name} is (quartiles)" for name in own_names), "first loss",
    ]  # fmt: skip
    rows = [
        [
            row["name"], row["precision"], f"{row['tokens_per_second']:,.0f}",
            f"{row['ms_per_step']:,.1f}", *format_mfu(row), f"{row['share_of_ceiling']:.1%}",
            f"{row['peak_memory'] / GIB:.2f}",
            *(
                format_ratio(row["ratios"][name]["median"], row["ratios"][name]["quartiles"])
                for name in own_names
            ),
            f"{row['losses'][0]:.5f}",
        ]
        for row in contenders
    ]  # fmt: skip
    low, high = (reached / 1e9 for reached in result["matmul_ceiling_quartiles"])
    title = (
        f"{result['size']}, {result['tokens_per_step']:,} tokens a step, {result['device']}, "
        f"{result['threads']} threads, matrix products reach {result['matmul_ceiling'] / 1e9:,.0f} "
        f"GFLOP/s ({low:,.0f} to {high:,.0f}) in the same turns"
    )
    precision = f"precision {result['precision']['value']}: {result['precision']['source']}"
    return f"{title}\n{precision}\n{format_table(head, rows)}"


def format_mfu(row: dict[str, Any]) -> list[str]:
    """Return the two shares of the peak, attention counted full and causal; - where unknown."""
    return [f"{row[key]:.1%}" if key in row else "-" for key in ("mfu_full", "mfu_causal")]
