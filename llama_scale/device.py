"""What this machine can compute on."""

import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import psutil
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from llama_scale.errors import InputError


def pick_device(choice: str) -> str:
    """Return "cuda" or "cpu" for auto, cuda or cpu; raise InputError if a GPU is asked for and there is none."""
    if choice == "cuda" and not torch.cuda.is_available():
        raise InputError("device: cuda was asked for and this machine has no usable GPU")
    return "cuda" if choice != "cpu" and torch.cuda.is_available() else "cpu"


def fast_bf16(device: str) -> bool:
    """Whether the device multiplies bf16 matrices faster than float32 ones."""
    cuda = device == "cuda"
    return torch.cuda.is_bf16_supported(including_emulation=False) if cuda else torch.cpu._is_amx_tile_supported()


def why_no_compiling(device: str) -> str | None:
    """Return why torch.compile cannot work here, or None: it writes libraries into a cache folder and loads them."""
    if not any(map(shutil.which, ("g++", "clang++", "c++") if device == "cpu" else ("gcc", "clang", "cc"))):
        return "no C++ compiler" if device == "cpu" else "no C compiler"
    try:
        folder = Path(os.environ.get("TORCHINDUCTOR_CACHE_DIR") or tempfile.gettempdir()).absolute()
    except FileNotFoundError:
        return "no folder for temporary files can be written (TMPDIR)"
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not os.access(there, os.W_OK | os.X_OK):
        return f"{there} cannot be written (TMPDIR or TORCHINDUCTOR_CACHE_DIR)"
    if os.statvfs(there).f_flag & os.ST_NOEXEC:
        return f"{there} lies on a mount without execution (TMPDIR or TORCHINDUCTOR_CACHE_DIR)"
    return None


def device_memory(device: str) -> int:
    """Return the bytes that a run may use on the device."""
    cuda = device == "cuda"
    return torch.cuda.get_device_properties(0).total_memory if cuda else psutil.virtual_memory().available


def device_name(device: str) -> str:
    """Return the GPU's name, or "cpu"."""
    return torch.cuda.get_device_name() if device == "cuda" else "cpu"


def set_threads(threads: int | None) -> None:
    """Compute with that many CPU threads, or the library's choice; raise InputError below one."""
    if threads is not None and threads < 1:
        raise InputError(f"threads: expected at least 1, found {threads}")
    if threads:
        torch.set_num_threads(threads)


def memory_used(device: str) -> int:
    """Return the most bytes that tensors held on the GPU, or what this process holds now."""
    return torch.cuda.max_memory_allocated() if device == "cuda" else psutil.Process().memory_info().rss


def synchronize(device: str) -> None:
    """Wait for the device's queue to empty."""
    if device == "cuda":
        torch.cuda.synchronize()


def attention_backends(device: str) -> AbstractContextManager:
    """Choose the fastest attention kernel that takes the call, on a GPU by this order."""
    if device != "cuda":
        return nullcontext()
    order = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
    return sdpa_kernel(order, set_priority=True)


def fetch(value: torch.Tensor) -> Callable[[], int]:
    """Start copying a whole number () to the host; the returned function waits for it alone."""
    if value.device.type != "cuda":
        return lambda: int(value)
    copy = torch.empty((), dtype=value.dtype, pin_memory=True)
    copy.copy_(value, non_blocking=True)
    arrived = torch.cuda.Event()
    arrived.record()

    def wait() -> int:
        arrived.synchronize()
        return int(copy)

    return wait
