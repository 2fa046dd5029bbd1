"""Where the time of a training step goes: its kernels by time, and what kinds they are."""

import re
from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from llama_scale.errors import InputError

# Kinds of kernels by words of their names, the first that matches. cuDNN's attention has "wgmma" in its name, too.
KINDS = {
    "compiled elementwise": r"^triton_",
    "attention": r"flash|fmha|attention|sdpa|mha_",
    "matrix products": r"gemm|nvjet|cutlass|cublas|wgmma|xmma|splitk|aten::(mm|addmm|bmm|linear|matmul)\b",
    "optimizer and clipping": r"adam|multi_tensor|foreach|lpnorm|lp_norm",
    "memory copies": r"memcpy|memset",
    "casts and copies": r"copy|fill",
    "other elementwise": r"elementwise|vectorized|unrolled|reduce|softmax|norm|cat|index|embedding|scatter|gather|"
    r"sort|radix|aten::",
}
TOP = 20
NAME = 160  # characters kept of a kernel's name


def kind_of(name: str) -> str:
    """Return the kind of a kernel of this name."""
    for kind, words in KINDS.items():
        if re.search(words, name, re.IGNORECASE):
            return kind
    return "other"


def profile_steps(step: Callable[[], Any], steps: int, device: str) -> dict[str, Any]:
    """Profile calls of ``step``; return the kernels of a step and the share of each kind.

    On a GPU those are its kernels and copies, on a CPU torch's operators. ``ms`` and ``calls`` are of one step. Raises
    InputError where the profiler sees none.
    """
    cuda = device == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU]) as profiler:
        for _ in range(steps):
            step()
        if cuda:
            torch.cuda.synchronize()
    times: dict[str, list[float]] = {}
    for event in profiler.key_averages():
        on_gpu = event.device_type == torch.autograd.DeviceType.CUDA
        if on_gpu == cuda and not event.is_user_annotation:  # which spans kernels that count for themselves
            seconds = (event.self_device_time_total if cuda else event.self_cpu_time_total) / 1e6
            total = times.setdefault(event.key, [0.0, 0])
            total[0], total[1] = total[0] + seconds, total[1] + event.count
    if not times:
        raise InputError("the profiler saw no kernels")
    whole = sum(seconds for seconds, _ in times.values())
    kinds: dict[str, float] = dict.fromkeys([*KINDS, "other"], 0.0)
    for name, (seconds, _) in times.items():
        kinds[kind_of(name)] += seconds / whole
    ordered = sorted(times.items(), key=lambda item: -item[1][0])
    return {
        "steps": steps,
        "ms_per_step": 1e3 * whole / steps,
        "kinds": dict(sorted(kinds.items(), key=lambda item: -item[1])),
        "attention": [name[:NAME] for name, _ in ordered if kind_of(name) == "attention"],
        "top": [
            {
                "name": name[:NAME],
                "kind": kind_of(name),
                "share": seconds / whole,
                "ms": 1e3 * seconds / steps,
                "calls": calls / steps,
            }
            for name, (seconds, calls) in ordered[:TOP]
        ],
    }
