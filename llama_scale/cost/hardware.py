"""Accelerators by name, and the machine that a run is meant for: memory, peak and reached rate."""

import re
from dataclasses import dataclass

from llama_scale.errors import InputError, nearest

MIB = 1024**2
GIB = 1024**3

DEFAULT_MFU = 0.4  # share of the bf16 peak that a run is taken to reach, attention counted full
CPU_FLOPS_PER_THREAD = 30e9

# Part of a device's memory that tensors may take: the rest is the driver's context, the libraries' workspaces and
# fragmentation.
USABLE = {"cpu": 0.9, "cuda": 0.94}


@dataclass(frozen=True)
class Hardware:
    """An accelerator: the words of its device name, its memory in bytes, its bf16 peak in FLOP/s.

    The peak is the dense one of the vendor's data sheet, products summed in float32, never the figure with sparsity.
    """

    words: str
    memory: int
    peak: float


HARDWARE = {
    "gb200": Hardware("GB200", 184 * GIB, 2500e12),
    "b200": Hardware("B200", 178 * GIB, 2250e12),
    "gh200": Hardware("GH200", 94 * GIB, 989e12),
    "h200-nvl": Hardware("H200 NVL", 139 * GIB, 835e12),
    "h200": Hardware("H200", 139 * GIB, 989e12),
    "h100-nvl": Hardware("H100 NVL", 93 * GIB, 835e12),
    "h100-pcie": Hardware("H100 PCIe", 79 * GIB, 756e12),
    "h100": Hardware("H100", 79 * GIB, 989e12),
    "a100-40gb": Hardware("A100 40GB", 39 * GIB, 312e12),
    "a100": Hardware("A100", 79 * GIB, 312e12),
    "a40": Hardware("A40", 44 * GIB, 149.7e12),
    "a30": Hardware("A30", 23 * GIB, 165e12),
    "a10": Hardware("A10", 22 * GIB, 125e12),
    "l40s": Hardware("L40S", 44 * GIB, 362e12),
    "l40": Hardware("L40", 44 * GIB, 181e12),
    "l4": Hardware("L4", 22 * GIB, 121e12),
}


def bf16_peak(device_name: str) -> float | None:
    """Return the dense bf16 peak of a GPU in FLOP/s, or None when its name is not known.

    Whole words count: an RTX A1000 is no A100, and an H100 NVL has a row of its own. Nor is a part of a GPU known,
    which has MIG or a profile such as 40C in its name.
    """
    words = set(re.findall(r"[A-Z0-9]+", device_name.upper()))
    if "MIG" in words or any(re.fullmatch(r"\d+[ABCQ]", word) for word in words):
        return None
    matching = [known for known in HARDWARE.values() if set(known.words.upper().split()) <= words]
    return max(matching, key=lambda known: len(known.words.split())).peak if matching else None


@dataclass(frozen=True)
class Machine:
    """Devices that a run is meant for: bytes for tensors on each, FLOP/s reached by each."""

    name: str
    device: str
    memory: float
    rate: float
    rate_source: str


def describe_machine(
    hardware: str | None, mfu: float, device: str, threads: int | None, memory_share: float = 1.0
) -> Machine:
    """Return the named hardware, or this machine; raise InputError if the name is unknown.

    ``mfu`` is the share of the dense bf16 peak that a run reaches, attention counted full. ``memory_share`` is the part
    of a GPU's memory that is the run's; of a CPU's it has what is free.
    """

    def machine(name: str, device: str, memory: int, peak: float) -> Machine:
        source = f"{100 * mfu:.0f} % of {peak / 1e12:.0f} TFLOP/s"
        share = memory_share if device == "cuda" else 1.0
        return Machine(name, device, share * USABLE[device] * memory, rate=mfu * peak, rate_source=source)

    if not 0 < mfu <= 1:
        raise InputError(f"mfu: expected a share between 0 and 1, found {mfu}")
    if hardware is not None:
        if hardware not in HARDWARE:
            known = ", ".join(sorted(HARDWARE))
            raise InputError(f"hardware: {hardware!r}{nearest(hardware, HARDWARE)}; known: {known}")
        return machine(hardware, "cuda", HARDWARE[hardware].memory, HARDWARE[hardware].peak)
    import torch  # only where it is this machine

    from llama_scale.device import device_memory, device_name, pick_device

    device = pick_device(device)
    name, memory = f"this machine ({device_name(device)})", device_memory(device)
    if peak := bf16_peak(device_name(device)):
        return machine(name, device, memory, peak)
    threads = threads or torch.get_num_threads()
    source = f"about {CPU_FLOPS_PER_THREAD / 1e9:.0f} GFLOP/s for each of {threads} threads"
    share = memory_share if device == "cuda" else 1.0
    rate = CPU_FLOPS_PER_THREAD * threads
    return Machine(name, device, share * USABLE[device] * memory, rate=rate, rate_source=source)
