"""A run of launch/train.py beside the same run stopped by SIGTERM and continued; its memory beside the forecast."""

import signal
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.environment import ROOT, child_environment
from benchmarks.gpu.plan import Plan
from benchmarks.gpu.record import Record
from benchmarks.gpu.settings import StepJob
from llama_scale.config import ModelConfig, load_size, read_yaml
from llama_scale.cost.hardware import GIB
from llama_scale.cost.memory import training_memory
from llama_scale.data.shards import read_manifest
from llama_scale.device import pick_precision
from llama_scale.errors import InputError
from llama_scale.files import read_json, read_jsonl

STOPPED = 128 + signal.SIGTERM
LOG_EVERY = 2
MEMORY_TOLERANCE = 0.05


def compare_runs(job: StepJob, plan: Plan, folder: Path, record: Record) -> None:
    """Train twice at once with deterministic kernels, one of the two stopped on the way and continued; compare.

    Raises InputError with the last line of a process that failed.
    """
    straight, resumed = (Path(job.work) / "runs" / "correctness" / name for name in ("straight", "resumed"))
    other, first = start(job, plan, folder, straight), start(job, plan, folder, resumed)
    metrics = resumed / "metrics.jsonl"
    while first.poll() is None and not (metrics.exists() and metrics.stat().st_size):
        time.sleep(0.02)
    first.send_signal(signal.SIGTERM)
    stopped = finish(first, "the run to be stopped", (0, STOPPED))
    steps = read_jsonl(metrics)[-1]["step"]
    continued = start(job, plan, folder, resumed)
    finish(other, "the run without a stop")
    check_memory(job, plan, straight, record)
    finish(continued, "the continued run")
    losses = [read_json(run / "result.json")["val_loss"] for run in (straight, resumed)]
    gap = abs(losses[0] - losses[1])
    where = f"stopped at step {steps} of {plan.run_steps}" if stopped == STOPPED else "ended before it was told to stop"
    record.check(
        "stopped and resumed",
        f"{where}; validation loss {losses[1]:.6f}, without a stop {losses[0]:.6f}, {gap:.1e} apart (bound 0)",
        stopped == STOPPED and gap == 0,
        losses=losses,
    )


def start(job: StepJob, plan: Plan, folder: Path, run: Path) -> subprocess.Popen:
    """Start launch/train.py on a run folder."""
    tokens = plan.run_batch * model_of(plan, folder).context_length
    model = plan.model | {"vocab_size": model_of(plan, folder).vocab_size}
    command = [
        sys.executable, str(ROOT / "launch" / "train.py"), f"--size={plan.size}",
        *(f"--model.{name}={value}" for name, value in model.items()),
        f"--data={folder}", f"--run={run}", f"--device={job.device}", f"--tokens={plan.run_steps * tokens}",
        f"--optim.batch_tokens={tokens}", f"--micro_batch={plan.run_batch}", "--compile=false", "--deterministic=true",
        f"--log_every={LOG_EVERY}", "--val_every=0", f"--val_tokens={tokens}", f"--checkpoint_every={plan.run_steps}",
    ]  # fmt: skip
    run.parent.mkdir(parents=True, exist_ok=True)
    return subprocess.Popen(
        command, env=child_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def finish(process: subprocess.Popen, name: str, codes: tuple[int, ...] = (0,)) -> int:
    """Wait for a process; return its exit code, or raise InputError where that is none of ``codes``."""
    errors = process.communicate()[1]
    print(errors, flush=True)
    if process.returncode not in codes:
        raise InputError(f"{name} ended with {process.returncode}: {(errors.strip().splitlines() or [''])[-1][:300]}")
    return process.returncode


def model_of(plan: Plan, folder: Path) -> ModelConfig:
    """Return the model of the run, with the vocabulary of the tokens."""
    return load_size(plan.size, **plan.model | {"vocab_size": read_manifest(folder)["tokenizer"]["vocab_size"]})


def check_memory(job: StepJob, plan: Plan, run: Path, record: Record) -> None:
    """Record the most bytes that tensors held in a run beside the forecast; on a CPU they are not comparable."""
    found = max(row["memory"] for row in read_jsonl(run / "metrics.jsonl") if "memory" in row)
    config = read_yaml(run / "config.yaml")
    model = model_of(plan, Path(config["data"]))
    bf16 = pick_precision("auto", job.device, model.d_model, model.d_ff).bf16
    forecast = training_memory(model, plan.run_batch, bf16, device=job.device, micro_steps=1).total
    off = forecast / found - 1
    record.check(
        "memory of a run",
        f"{found / GIB:.2f} GiB, forecast {forecast / GIB:.2f} ({off:+.1%})",
        abs(off) <= MEMORY_TOLERANCE if job.device == "cuda" else None,
        memory=found,
        forecast=forecast,
    )
