"""What the trainer costs beside a bare loop, and how long a command takes to its first step."""

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from benchmarks.environment import ROOT, child_environment
from benchmarks.hardware import processor_name
from benchmarks.tables import format_table
from benchmarks.timing import spread
from llama_scale.config import ModelConfig, OptimConfig, TrainConfig
from llama_scale.errors import InputError, at_least_1, check_fields


@dataclass(frozen=True)
class OverheadBenchmark:
    """Steps of launch/train.py's trainer beside those of a bare loop, in one process, in turn.

    Args:
        model: The model's shape; --size NAME reads it from configs/size/NAME.yaml.
        size: Name of the rung.
        data: Folder of token shards made by launch/prepare.py.
        batch: Sequences in a step, one forward pass each.
        steps: Timed steps of each.
        warmup: Untimed steps before them.
        block: Steps of one before it is the other's turn; null is 1 on a CPU and 10 on a GPU,
            where the host runs ahead of the device.
        precision: Compute precision of both.
        compile: Compile the blocks of both.
        device: Where to run; auto is the GPU if there is one.
        threads: CPU threads; null leaves the library's choice.
        out: JSON file for the measurements.
    """

    model: ModelConfig
    size: str = "custom"
    data: str = "data/installed"
    batch: int = 1
    steps: int = 40
    warmup: int = 5
    block: int | None = None
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    compile: bool = False
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int | None = None
    out: str | None = None

    def __post_init__(self) -> None:
        check_fields(self, "at least 1", at_least_1, "batch steps warmup")


def run(config: OverheadBenchmark) -> dict[str, Any]:
    """Time the trainer's steps and the bare loop's, turn by turn, and a command's first step."""
    from benchmarks.training.bare_loop import BareLoop
    from llama_scale.training.run_plan import plan_run
    from llama_scale.training.trainer import fit

    with tempfile.TemporaryDirectory() as folder:
        planned = plan_run(training_config(config, f"{folder}/run"))
        block = config.block or (10 if planned.device == "cuda" else 1)
        bare_loop = BareLoop(planned, config.warmup, block)
        if signal := fit(planned, [bare_loop]):
            sys.exit(128 + signal)
        if not bare_loop.trainer_seconds:
            raise InputError(f"steps: {config.steps} are too few for turns of {block}; take more")
        first = seconds_to_first_step(config, Path(folder))
    trainer, bare = bare_loop.trainer_seconds, bare_loop.bare_seconds
    overhead = spread([ours / its - 1 for ours, its in zip(trainer, bare, strict=True)])
    return {
        "size": config.size,
        "device": processor_name(planned.device),
        "precision": "bf16" if planned.bf16 else "fp32",
        "compile": config.compile,
        "tokens_per_step": config.batch * config.model.context_length,
        "trainer_ms": 1e3 * spread(trainer)["median"] / block,
        "bare_ms": 1e3 * spread(bare)["median"] / block,
        "overhead": overhead["median"],
        "overhead_quartiles": overhead["quartiles"],
        "seconds_to_first_step": first,
    }


def training_config(config: OverheadBenchmark, run: str) -> TrainConfig:
    """Return a training run of the steps to be timed, without validation."""
    tokens = config.batch * config.model.context_length
    return TrainConfig(
        model=config.model,
        size=config.size,
        data=config.data,
        run=run,
        tokens=tokens * (config.warmup + config.steps),
        optim=OptimConfig(batch_tokens=tokens),
        device=config.device,
        precision=config.precision,
        compile=config.compile,
        micro_batch=config.batch,
        threads=config.threads,
        val_every=0,
    )


def seconds_to_first_step(config: OverheadBenchmark, folder: Path) -> float:
    """Return the seconds from the command to the end of its first optimizer step."""
    run = folder / "first"
    tokens = config.batch * config.model.context_length
    shape = [f"--model.{k}={json.dumps(v)}" for k, v in asdict(config.model).items()]
    command = [
        sys.executable, str(ROOT / "launch" / "train.py"), *shape,
        "--data", str(Path(config.data).resolve()), "--run", str(run), "--tokens", str(2 * tokens),
        "--optim.batch_tokens", str(tokens), "--log_every", "1", "--device", config.device,
    ]  # fmt: skip
    if config.threads:
        command += ["--threads", str(config.threads)]
    start = time.perf_counter()
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=child_environment()
    )
    rows = run / "metrics.jsonl"
    while not (rows.exists() and rows.stat().st_size):
        if process.poll() is not None:
            raise InputError(f"train.py ended without a step: {process.stderr.read().strip()}")
        time.sleep(0.01)
    seconds = time.perf_counter() - start
    process.kill()
    process.communicate()
    return seconds


def table(result: dict[str, Any]) -> str:
    """Return the measurements as text for the terminal."""
    low, high = result["overhead_quartiles"]
    overhead = f"{result['overhead']:+.2%} ({low:+.2%} to {high:+.2%})"
    rows = [["trainer", f"{result['trainer_ms']:.1f}", overhead], ["bare loop", f"{result['bare_ms']:.1f}", "-"]]
    compiled = ", compiled" if result["compile"] else ""
    return (
        f"{result['size']}, {result['tokens_per_step']:,} tokens a step, {result['precision']}"
        f"{compiled}, {result['device']}\n"
        f"{format_table(['loop', 'ms/step', 'over the bare loop (quartiles)'], rows)}\n\n"
        f"first step of launch/train.py after {result['seconds_to_first_step']:.1f} s"
    )
