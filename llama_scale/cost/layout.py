"""How a step is laid out on the devices: micro-batch, shards, recomputing, compiled blocks."""

import importlib.util
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from llama_scale.config import TrainConfig
from llama_scale.cost.accounting import flops_per_token
from llama_scale.cost.hardware import Machine
from llama_scale.cost.memory import Memory, training_memory
from llama_scale.cost.step_time import RECOMPUTE, StepTime, step_time
from llama_scale.errors import InputError

COMFORTABLE = 0.9  # share of the memory that a layout is chosen by: memory is an estimate
BUSY_TOKENS = 16_384  # in a forward pass of one device: more of them gain little
MOST_SEQUENCES = 65_536  # in a forward pass of one device
# Estimated seconds of training from which on compiled blocks are worth the time that they take to compile.
COMPILE_PAYS_SECONDS = {"cpu": 600, "cuda": 25}
COMPILERS = {"cpu": ("CXX", "g++", "clang++", "c++"), "cuda": ("CC", "gcc", "clang")}  # that torch.compile can use


@dataclass(frozen=True)
class Layout:
    """How a step is laid out on the devices; ``shards`` is the devices that share the weights."""

    devices: int
    shards: int
    micro_batch: int
    micro_steps: int
    checkpoint_activations: str

    def __str__(self) -> str:
        share = "fsdp" if self.shards > 1 else ("ddp" if self.devices > 1 else "")
        count = f"{self.devices} device{'s' if self.devices > 1 else ''} {share}".strip()
        return f"{count}, micro-batch {self.micro_batch} x {self.micro_steps}, recompute {self.checkpoint_activations}"


def layout_memory(config: TrainConfig, layout: Layout, bf16: bool, compiled: bool, device: str) -> Memory:
    """Return the peak memory of a device under a layout.

    DDP's gradients lie in its message buffers, which stay from step to step, so that even a step of one micro-batch
    has them beside its activations.
    """
    gradients_stay = layout.devices > 1 and layout.shards == 1
    compiled_loss = compiled or config.compile == "loss" or (config.compile == "auto" and device == "cuda")
    return training_memory(
        config.model,
        layout.micro_batch,
        bf16,
        checkpoint_activations=layout.checkpoint_activations,
        shards=layout.shards,
        device=device,
        compiled=compiled,
        micro_steps=max(2, layout.micro_steps) if gradients_stay else layout.micro_steps,
        compiled_loss=compiled_loss,
    )


def layout_step(config: TrainConfig, layout: Layout, machine: Machine, bf16: bool) -> StepTime | None:
    """Return the parts of a step's time under a layout, or None where only a share of the peak is reckoned with."""
    if machine.card is None or not bf16:
        return None
    return step_time(
        config.model,
        layout.micro_batch,
        machine.card,
        checkpoint_activations=layout.checkpoint_activations,
        shards=layout.shards,
        micro_steps=layout.micro_steps,
    )


def training_seconds(config: TrainConfig, tokens: int, layout: Layout, machine: Machine, bf16: bool) -> float:
    """Return the time that ``tokens`` of training take: of their steps by parts, or by FLOPs at the machine's rate."""
    if step := layout_step(config, layout, machine, bf16):
        sequences = layout.devices * layout.micro_batch * layout.micro_steps
        return tokens / (sequences * config.model.context_length) * step.total
    work = flops_per_token(config.model, causal=False)
    work *= RECOMPUTE if layout.checkpoint_activations == "block" else 1
    return tokens * work / (machine.rate * layout.devices)


def busy_layout(config: TrainConfig, batch: int) -> Layout:
    """Return a layout to reckon the time of a ``batch`` of sequences with, whatever memory it needs."""
    share = max(1, batch // (config.devices * config.nodes))
    size = max(1, BUSY_TOKENS // config.model.context_length) if config.micro_batch == "auto" else config.micro_batch
    size = min(size, share)
    return Layout(config.devices * config.nodes, 1, size, -(-share // size), config.checkpoint_activations)


def candidates(config: TrainConfig, batch: int, device: str) -> Iterator[Layout]:
    """Yield the layouts that the configuration allows of a ``batch`` of sequences.

    A micro-batch divides the device's share of the batch: 12 sequences on 2 devices are 6 each, hence micro-batches of
    6, 3, 2 or 1.
    """
    devices = config.devices * config.nodes
    share = batch // devices
    sizes = [n for n in range(min(share, MOST_SEQUENCES), 0, -1) if share % n == 0]
    if device == "cpu":
        limit = max(1, 4096 // config.model.context_length)
        sizes = [n for n in sizes if n <= limit] or [1]
    if config.micro_batch != "auto":
        sizes = [config.micro_batch]
    shards = {"ddp": [1], "fsdp": [devices], "auto": [1, devices]}[config.strategy]
    for count, size in product(dict.fromkeys(shards), sizes):
        yield Layout(devices, count, size, share // size, config.checkpoint_activations)


def why_no_compiling(device: str) -> str | None:
    """Return why torch.compile cannot work here, or None.

    It needs a compiler, on a GPU Triton, and a cache folder whose libraries it can write and load.
    """
    variable, *names = COMPILERS[device]
    if variable not in os.environ and not any(map(shutil.which, names)):
        return "no C++ compiler such as g++" if device == "cpu" else "no C compiler such as gcc"
    if device == "cuda" and importlib.util.find_spec("triton") is None:
        return "no Triton"
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


def pick_compile(
    config: TrainConfig, tokens: int, batch: int, machine: Machine, can_compile: bool = True
) -> tuple[bool, bool]:
    """Return whether to compile the blocks, and whether the softmax of the loss: as asked, or by ``auto``.

    Blocks are compiled where the run of ``tokens``, ``batch`` sequences a step, is long enough to repay it. The softmax
    goes with them, and on a GPU by itself: it is a quick compilation, of one shape for most sizes, and reads the logits
    a third as often.
    """
    if config.compile != "auto":
        return config.compile is True, config.compile is not False
    seconds = training_seconds(config, tokens, busy_layout(config, batch), machine, bf16=config.precision != "fp32")
    blocks = can_compile and seconds > COMPILE_PAYS_SECONDS[machine.device]
    return blocks, blocks or (can_compile and machine.device == "cuda")


def pick_layout(config: TrainConfig, batch: int, bf16: bool, compiled: bool, device: str, memory: float) -> Layout:
    """Return the fastest layout that fits in ``memory`` bytes, or the smallest if none does.

    Fast is a micro-batch of at least BUSY_TOKENS tokens, then whole weights, then a larger micro-batch. A layout fits
    where it needs no more than the share COMFORTABLE. Raises InputError when devices or micro_batch do not divide the
    ``batch`` of sequences.
    """
    devices = config.devices * config.nodes
    if batch % devices:
        tokens = max(1, round(batch / devices)) * devices * config.model.context_length
        raise InputError(
            f"devices: {devices} do not divide the batch of {batch} sequences; set optim.batch_tokens to {tokens}"
        )
    if config.micro_batch != "auto" and batch // devices % config.micro_batch:
        where = " on each device" if devices > 1 else ""
        batch = batch // devices
        raise InputError(f"micro_batch: {config.micro_batch} does not divide the batch of {batch} sequences{where}")
    layouts = candidates(config, batch, device)
    need = {layout: layout_memory(config, layout, bf16, compiled, device).total for layout in layouts}
    fitting = [layout for layout, total in need.items() if total <= COMFORTABLE * memory]
    if not fitting:
        return min(need, key=need.__getitem__)

    def speed(layout: Layout) -> tuple[int, int, int]:
        tokens = layout.micro_batch * config.model.context_length
        return min(tokens, BUSY_TOKENS), -layout.shards, layout.micro_batch

    return max(fitting, key=speed)


def nearest_fit(config: TrainConfig, batch: int, bf16: bool, compiled: bool, machine: Machine) -> str | None:
    """Return the smallest change of flags that makes the run fit, or None."""
    devices = config.devices * config.nodes
    counts = [devices, *(2**n for n in range(1, 11) if 2**n > devices)]
    modes = dict.fromkeys([config.checkpoint_activations, "block"])
    for count, mode, split in product((n for n in counts if batch % n == 0), modes, (False, True)):
        layout = Layout(count, count if split else 1, 1, batch // count, mode)
        if layout_memory(config, layout, bf16, compiled, machine.device).total > machine.memory:
            continue
        flags = {
            f"--nodes {count // 8} --devices 8": count > 8,
            f"--devices {count}": count != devices and count <= 8,
            "--strategy fsdp": layout.shards > 1 and config.strategy == "ddp",
            "--checkpoint_activations block": mode == "block",
            "--micro_batch 1": config.micro_batch not in (1, "auto"),
        }
        return " ".join(flag for flag, is_needed in flags.items() if is_needed)
    return None
