"""What this machine can compute on."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import NamedTuple

import psutil
import torch
import torch.compiler.config
from torch.nn.attention import SDPBackend, sdpa_kernel

from llama_scale.errors import InputError

PRODUCT_ROWS, PRODUCT_REPEATS = 512, 8
BF16_GAIN = 1.2  # how many times as fast a product must be: what bf16 costs elsewhere in a step is not in it
DECODED_ROWS = (1, 16)  # rows of a decoding step that are timed
DECODED_BYTES, DECODED_COPIES = 1 << 24, 16  # of float32 weights that the timed rows go through, in at most so many
MOST_THREADS = 1024


def pick_device(choice: str) -> str:
    """Return "cuda" or "cpu" for auto, cuda or cpu; raise InputError if a GPU is asked for and there is none."""
    if choice == "cuda" and not torch.cuda.is_available():
        raise InputError("device: cuda was asked for and this machine has no usable GPU")
    return "cuda" if choice != "cpu" and torch.cuda.is_available() else "cpu"


class Precision(NamedTuple):
    """Whether to multiply in bf16, and why."""

    bf16: bool
    why: str

    @property
    def name(self) -> str:
        """Return bf16 or fp32."""
        return "bf16" if self.bf16 else "fp32"


def pick_precision(choice: str, device: str, width: int, inner: int) -> Precision:
    """Return the precision of a model's products for auto, fp32 or bf16.

    ``auto`` asks what a GPU can do. CPUs are not told by their name, since a guest may lack what its processor has: on
    one the model's own product, of ``width`` by ``inner``, is timed both ways, which takes some milliseconds.
    """
    if choice != "auto":
        return Precision(choice == "bf16", "as asked")
    if device == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
        return Precision(fast, f"this GPU multiplies bf16 {'fast' if fast else 'no faster'}")
    fp32, bf16 = time_products(torch.get_num_threads(), width, inner)
    took = f"{PRODUCT_ROWS} x {width} x {inner} take {fp32 * 1e3:.2g} ms in float32, {bf16 * 1e3:.2g} ms in bf16"
    return Precision(fp32 > BF16_GAIN * bf16, f"{took}, casts included, measured")


@cache
def time_products(threads: int, width: int, inner: int) -> tuple[float, float]:
    """Return the seconds of a product in float32 and under bf16 autocast on ``threads`` CPU threads, the least of each.

    The two take turns, so that other work on the machine hits both.
    """
    x, weight = torch.randn(PRODUCT_ROWS, width), torch.randn(inner, width)
    best = [float("inf"), float("inf")]
    for _ in range(PRODUCT_REPEATS):
        for index, bf16 in enumerate((False, True)):
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16, cache_enabled=False):
                started = time.perf_counter()
                torch.nn.functional.linear(x, weight)  # (PRODUCT_ROWS, inner)
                best[index] = min(best[index], time.perf_counter() - started)
    return best[0], best[1]


def pick_decoding_precision(choice: str | None, device: str, width: int, inner: int) -> Precision:
    """Return the precision of a model that decodes, for auto, fp32, bf16 or None.

    None is float32 on a CPU, where a text does not depend on what is decoded beside it: bf16 products of one row and of
    several round differently. ``auto`` asks a GPU as training does, and times products of a few rows on a CPU, by
    matrices of ``width`` by ``inner`` that are stored in each format as for decoding; bf16 has to be faster with each
    number of rows.
    """
    if choice is None:
        return Precision(device == "cuda", "the default of this device")
    if choice != "auto" or device == "cuda":
        return pick_precision(choice, device, width, inner)
    times = time_decoding(torch.get_num_threads(), width, inner)
    took = " and ".join(
        f"{rows} x {width} x {inner} take {fp32 * 1e3:.2g} ms in float32, {bf16 * 1e3:.2g} ms in bf16"
        for rows, (fp32, bf16) in zip(DECODED_ROWS, times, strict=True)
    )
    return Precision(all(fp32 > BF16_GAIN * bf16 for fp32, bf16 in times), f"{took}, measured")


@cache
def time_decoding(threads: int, width: int, inner: int) -> list[tuple[float, float]]:
    """Return for each of ``DECODED_ROWS`` the seconds of its product by float32 and by bf16 weights, the least of each.

    The rows go through several matrices, as through the layers of a model, so that a cache does not hold the one.
    """
    copies = max(1, min(DECODED_COPIES, DECODED_BYTES // (4 * width * inner)))
    fp32 = [torch.ones(width, inner).t() for _ in range(copies)]  # (inner, width) each, stored by columns
    bf16 = [weight.to(torch.bfloat16).contiguous() for weight in fp32]
    times = []
    for rows in DECODED_ROWS:
        best = [float("inf"), float("inf")]
        for _ in range(PRODUCT_REPEATS):
            for index, weights in enumerate((fp32, bf16)):
                x = torch.ones(rows, width, dtype=weights[0].dtype)
                started = time.perf_counter()
                for weight in weights:
                    torch.nn.functional.linear(x, weight)  # (rows, inner)
                best[index] = min(best[index], (time.perf_counter() - started) / copies)
        times.append((best[0], best[1]))
    return times


def device_memory(device: str) -> int:
    """Return the bytes that a run may use on the device."""
    cuda = device == "cuda"
    return torch.cuda.get_device_properties(0).total_memory if cuda else psutil.virtual_memory().available


def device_name(device: str) -> str:
    """Return the GPU's name, or "cpu"."""
    return torch.cuda.get_device_name() if device == "cuda" else "cpu"


def set_threads(threads: int | None) -> None:
    """Compute with that many CPU threads, or the library's choice; raise InputError where there cannot be as many.

    The library itself crashes where it cannot start as many as it was asked for.
    """
    if threads is not None and not 1 <= threads <= MOST_THREADS:
        raise InputError(f"threads: expected 1 to {MOST_THREADS:,}, found {threads:,}")
    if threads:
        torch.set_num_threads(threads)


def memory_used(device: str) -> int:
    """Return the most bytes that tensors held on the GPU, or what this process holds now."""
    return torch.cuda.max_memory_allocated() if device == "cuda" else psutil.Process().memory_info().rss


def synchronize(device: str) -> None:
    """Wait for the device's queue to empty."""
    if device == "cuda":
        torch.cuda.synchronize()


def attention_order(masked: bool) -> list[SDPBackend]:
    """Return the attention kernels of a GPU, fastest first; ``masked`` calls have a mask of their own.

    cuDNN is left out there: its backward pass gives NaN for some lengths (pytorch#196678), and it is no faster.
    """
    order = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
    return [backend for backend in order if not masked or backend != SDPBackend.CUDNN_ATTENTION]


@contextmanager
def attention_backends(device: str, masked: bool = False) -> Iterator[None]:
    """Choose the fastest attention kernel that takes the call, on a GPU by ``attention_order``.

    Code compiled within is stored under that order: the kernel that it calls is chosen when it is traced, and the keys
    of torch's caches do not hold the order.
    """
    if device != "cuda":
        yield
        return
    order = attention_order(masked)
    names = [torch.compiler.config.cache_key_tag, *(backend.name for backend in order)]
    tag = "/".join(filter(None, names))
    salted = torch.compiler.config.patch(cache_key_tag=tag)  # pyright: ignore[reportAttributeAccessIssue]
    with sdpa_kernel(order, set_priority=True), salted:
        yield


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
