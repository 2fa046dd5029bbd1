"""What a benchmark ran on."""

import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("torch", "lightning", "transformers", "litgpt", "numpy")


def versions() -> dict[str, str]:
    """Return the versions of the packages that decide speed, where they are installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def cpu_name() -> str:
    """Return the processor's name where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "cpu"
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]} x {len(names)}" if names else "cpu"


def matmul_ceiling(device: str, bf16: bool, repeats: int = 20) -> float:
    """Return the FLOP/s that a large square matrix product reaches, the best of ``repeats``."""
    import torch

    from llama_scale.device import synchronize

    size = 8192 if device == "cuda" else 2048
    dtype = torch.bfloat16 if bf16 else torch.float32
    a, b = torch.randn(2, size, size, device=device, dtype=dtype)
    out = torch.empty_like(a)
    seconds = []
    for number in range(repeats + 3):
        synchronize(device)
        start = time.perf_counter()
        torch.mm(a, b, out=out)
        synchronize(device)
        if number >= 3:
            seconds.append(time.perf_counter() - start)
    del a, b, out
    if device == "cuda":
        torch.cuda.empty_cache()  # for the processes that are measured next
    return 2 * size**3 / min(seconds)
