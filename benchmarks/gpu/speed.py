"""Step 3: training speed, memory and kernels of the sizes, beside the forecast."""

from dataclasses import asdict, replace

import torch

from benchmarks.gpu.plan import SpeedRow, plan_for
from benchmarks.gpu.record import Record
from benchmarks.gpu.settings import StepJob
from benchmarks.hardware import matmul_ceiling
from benchmarks.training.table import TableBenchmark, measure
from llama_scale.cost.hardware import GIB
from llama_scale.errors import InputError

RESERVE = 12.0  # seconds of a row that are not timed steps, at its end


def run(job: StepJob, record: Record) -> None:
    """Measure one size after another; one that fails is recorded with its reason."""
    cuda = job.device == "cuda"
    gpu = torch.cuda.get_device_name() if cuda else None
    memory = torch.cuda.get_device_properties(0).total_memory if cuda else None
    ceiling = matmul_ceiling(job.device, bf16=cuda)
    record.note(matmul_ceiling=ceiling, gpu=gpu)
    failed = []
    for speed in plan_for(job.device, job.peers).speed:
        size = speed.row.size
        if memory is not None and memory < speed.least_memory:
            reason = f"needs a card of {speed.least_memory / GIB:.0f} GiB, this one has {memory / GIB:.0f}"
            record.add(size=size, skipped=reason)
            continue
        try:
            measured = measure(speed.row, benchmark_of(speed, job), ceiling, gpu)
        except InputError as error:
            failed.append(size)
            record.add(size=size, error=str(error))
            continue
        record.add(size=size, row=asdict(speed.row), goal=speed.goal, **measured)
    if failed:
        raise InputError(f"{', '.join(failed)}: not measured")


def benchmark_of(speed: SpeedRow, job: StepJob) -> TableBenchmark:
    """Return the settings of a row; its timed steps end with the time of this step."""
    settings = TableBenchmark(
        name="gpu",
        rows=[speed.row],
        device=job.device,
        precision="bf16" if job.device == "cuda" else "fp32",
        steps=speed.steps,
        warmup=speed.warmup,
        profile=speed.profile,
    )
    return replace(settings, seconds=max(1.0, job.seconds_left - RESERVE))
