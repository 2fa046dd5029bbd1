"""Accelerators by name, and the machine that a run is meant for: memory, peak and reached rate."""

import re
from dataclasses import dataclass

from llama_scale.errors import InputError, nearest

MIB = 1024**2
GIB = 1024**3

# Share of the bf16 peak that a run is taken to reach, attention counted full, where a card's rates were not measured.
DEFAULT_MFU = 0.4
CPU_FLOPS_PER_THREAD = 30e9

# Part of a device's memory that tensors may take: the rest is the driver's context, the libraries' workspaces and
# fragmentation.
USABLE = {"cpu": 0.9, "cuda": 0.94}


# What may stand in a device's name beside its row's words: maker, board, memory.
PLAIN = re.compile(
    r"NVIDIA|TESLA|GPU|DGX|HGX|GRACE|HOPPER|BLACKWELL|SUPERCHIP|SXM\d?|PCIE|HBM\d[A-Z]?"
    r"|(?:24|40|48|80|94|96|120|141|144|180|184|192|480)GB?"
)


@dataclass(frozen=True)
class Hardware:
    """An accelerator: the words of its device name, its memory in bytes, its bf16 peak in FLOP/s.

    The peak is the dense one of the vendor's data sheet, products summed in float32, never the figure with sparsity.
    ``bandwidth`` is that of its memory in bytes a second, stated where a step's time is reckoned by parts (see
    step_time.py): on an H200, where they were measured, and on others of its chip at the same power.
    """

    words: str
    memory: int
    peak: float
    bandwidth: float | None = None


HARDWARE = {
    "gb200": Hardware("GB200", 184 * GIB, 2500e12),
    "b200": Hardware("B200", 178 * GIB, 2250e12),
    "gh200": Hardware("GH200", 94 * GIB, 989e12, bandwidth=4.0e12),
    "h200-nvl": Hardware("H200 NVL", 139 * GIB, 835e12),
    "h200": Hardware("H200", 139 * GIB, 989e12, bandwidth=4.8e12),
    "h100-nvl": Hardware("H100 NVL", 93 * GIB, 835e12),
    "h100-pcie": Hardware("H100 PCIe", 79 * GIB, 756e12),
    "h100": Hardware("H100", 79 * GIB, 989e12, bandwidth=3.35e12),
    "a100-40gb": Hardware("A100 40GB", 39 * GIB, 312e12),
    "a100": Hardware("A100", 79 * GIB, 312e12),
    "a40": Hardware("A40", 44 * GIB, 149.7e12),
    "a30": Hardware("A30", 23 * GIB, 165e12),
    "a10": Hardware("A10", 22 * GIB, 125e12),
    "l40s": Hardware("L40S", 44 * GIB, 362e12),
    "l40": Hardware("L40", 44 * GIB, 181e12),
    "l4": Hardware("L4", 22 * GIB, 121e12),
}


def find_hardware(device_name: str) -> Hardware | None:
    """Return the GPU of this name, or None when it is not known.

    Whole words count: an RTX A1000 is no A100, and an H100 NVL has a row of its own. A word that is not PLAIN makes it
    another card, as of an H100 CNX, one of other memory, as an A100 of 64 GB, or a part of one (MIG, a profile as 40C).
    """
    words = set(re.findall(r"[A-Z0-9]+", device_name.upper()))
    matching = [known for known in HARDWARE.values() if set(known.words.upper().split()) <= words]
    if not matching:
        return None
    found = max(matching, key=lambda known: len(known.words.split()))
    rest = words - set(found.words.upper().split())
    return found if all(map(PLAIN.fullmatch, rest)) else None


def bf16_peak(device_name: str) -> float | None:
    """Return the dense bf16 peak of a GPU in FLOP/s, or None when its name is not known."""
    known = find_hardware(device_name)
    return known.peak if known else None


@dataclass(frozen=True)
class Machine:
    """Devices that a run is meant for: bytes for tensors on each, FLOP/s reached by each.

    ``card`` is set where the time of a bf16 step is reckoned by its parts instead of ``rate``.
    """

    name: str
    device: str
    memory: float
    rate: float
    rate_source: str
    card: Hardware | None = None


def describe_machine(
    hardware: str | None, mfu: float | None, device: str, threads: int | None, memory_share: float = 1.0
) -> Machine:
    """Return the named hardware, or this machine; raise InputError if the name is unknown.

    ``mfu`` is the share of the dense bf16 peak that a run reaches, attention counted full; None is a step's measured
    parts where the card has them, and DEFAULT_MFU elsewhere. ``memory_share`` is the part of a GPU's memory that is the
    run's; of a CPU's it has what is free.
    """
    if mfu is not None and not 0 < mfu <= 1:
        raise InputError(f"mfu: expected a share between 0 and 1, found {mfu}")
    share_of_peak = DEFAULT_MFU if mfu is None else mfu

    def machine(name: str, device: str, memory: int, card: Hardware) -> Machine:
        share = memory_share if device == "cuda" else 1.0
        return Machine(
            name,
            device,
            share * USABLE[device] * memory,
            rate=share_of_peak * card.peak,
            rate_source=f"{100 * share_of_peak:.0f} % of {card.peak / 1e12:.0f} TFLOP/s",
            card=card if mfu is None and card.bandwidth else None,
        )

    if hardware is not None:
        if hardware not in HARDWARE:
            known = ", ".join(sorted(HARDWARE))
            raise InputError(f"hardware: {hardware!r}{nearest(hardware, HARDWARE)}; known: {known}")
        return machine(hardware, "cuda", HARDWARE[hardware].memory, HARDWARE[hardware])
    import torch  # only where it is this machine

    from llama_scale.device import device_memory, device_name, pick_device

    device = pick_device(device)
    name, memory = f"this machine ({device_name(device)})", device_memory(device)
    if card := find_hardware(device_name(device)):
        return machine(name, device, memory, card)
    threads = threads or torch.get_num_threads()
    source = f"about {CPU_FLOPS_PER_THREAD / 1e9:.0f} GFLOP/s for each of {threads} threads"
    share = memory_share if device == "cuda" else 1.0
    rate = CPU_FLOPS_PER_THREAD * threads
    return Machine(name, device, share * USABLE[device] * memory, rate=rate, rate_source=source)
