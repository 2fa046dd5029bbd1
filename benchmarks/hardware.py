"""What a benchmark ran on."""

import resource
import shlex
import sys
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.timing import device_clock, least_seconds

PACKAGES = ("torch", "lightning", "transformers", "litgpt", "numpy")


def provenance() -> dict[str, Any]:
    """Return the command that was typed, the processor and the versions that decide speed."""
    script = Path(sys.argv[0])
    start = ["python", sys.argv[0]] if script.suffix == ".py" else [script.name]
    command = shlex.join([*start, *sys.argv[1:]])
    return {"command": command, "cpu": cpu_name(), "versions": installed_versions()}


def installed_versions() -> dict[str, str]:
    """Return the version of each of ``PACKAGES`` that is installed."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def cpu_name() -> str:
    """Return the processor's name where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "cpu"
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]} x {len(names)}" if names else "cpu"


def processor_name(device: str) -> str:
    """Return the name of the GPU that computes, or of the CPU."""
    from llama_scale.device import device_name

    return device_name(device) if device == "cuda" else cpu_name()


def peak_process_memory() -> int:
    """Return the most bytes of host memory that this process has had.

    Linux's VmHWM counts from the start of the program. ``ru_maxrss``, which serves elsewhere, also
    covers what the parent held when it started this process.
    """
    try:
        status = Path("/proc/self/status").read_text()
        return 1024 * int(status.partition("VmHWM:")[2].split()[0])
    except (OSError, IndexError):
        return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def matmul_ceiling(device: str, bf16: bool, repeats: int = 20, warmup: int = 3) -> float:
    """Return the FLOP/s that a large square matrix product reaches, the best of ``repeats`` after ``warmup``."""
    import torch

    size = 8192 if device == "cuda" else 2048
    dtype = torch.bfloat16 if bf16 else torch.float32
    a, b = torch.randn(2, size, size, device=device, dtype=dtype)
    out = torch.empty_like(a)
    clock = device_clock(device)
    multiply = partial(torch.mm, a, b, out=out)
    least_seconds(multiply, warmup, clock)  # caches and clocks warm up
    seconds = least_seconds(multiply, repeats, clock)
    del a, b, out, multiply
    if device == "cuda":
        torch.cuda.empty_cache()  # for the processes that are measured next
    return 2 * size**3 / seconds
