"""What a run will cost, told from its configuration alone: no data, no model, no device needed."""

import dataclasses
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llama_scale.config import TrainConfig
from llama_scale.cost.accounting import (
    GIB,
    HARDWARE,
    USABLE,
    Memory,
    bf16_peak,
    count_parameters,
    flops_per_token,
    training_memory,
)
from llama_scale.errors import InputError, nearest
from llama_scale.files import read_json
from llama_scale.training.optim import resolve

CPU_FLOPS_PER_THREAD = 30e9
RECOMPUTE = 4 / 3  # a second forward pass beside one forward and one backward of twice its work
ROOM = 0.9
BUSY_TOKENS = 16_384  # in a forward pass of one device: more of them gain little
MOST_SEQUENCES = 65_536  # in a forward pass of one device
COMPILE_PAYS_SECONDS = {"cpu": 600, "cuda": 180}


@dataclass(frozen=True)
class Machine:
    """Devices that a run is meant for: bytes for tensors on each, FLOP/s reached by each."""

    name: str
    device: str
    memory: float
    rate: float
    rate_source: str


def describe_machine(hardware: str | None, mfu: float, device: str, threads: int | None) -> Machine:
    """Return the named hardware, or this machine; raise InputError if the name is unknown.

    ``mfu`` is the share of the dense bf16 peak that a run reaches, attention counted full.
    """
    if not 0 < mfu <= 1:
        raise InputError(f"mfu: expected a share between 0 and 1, found {mfu}")
    if hardware is not None:
        if hardware not in HARDWARE:
            known = ", ".join(sorted(HARDWARE))
            raise InputError(f"hardware: {hardware!r}{nearest(hardware, HARDWARE)}; known: {known}")
        found = HARDWARE[hardware]
        source = f"{100 * mfu:.0f} % of {found.peak / 1e12:.0f} TFLOP/s"
        return Machine(hardware, "cuda", USABLE["cuda"] * found.memory, mfu * found.peak, source)
    import torch

    from llama_scale.device import device_memory, device_name, pick_device

    device = pick_device(device)
    memory = USABLE[device] * device_memory(device)
    peak = bf16_peak(device_name(device))
    if peak is None:
        threads = threads or torch.get_num_threads()
        rate = CPU_FLOPS_PER_THREAD * threads
        source = f"about {CPU_FLOPS_PER_THREAD / 1e9:.0f} GFLOP/s for each of {threads} threads"
        return Machine(f"this machine ({device_name(device)})", device, memory, rate, source)
    source = f"{100 * mfu:.0f} % of {peak / 1e12:.0f} TFLOP/s"
    return Machine(f"this machine ({device_name(device)})", device, memory, mfu * peak, source)


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
        return (
            f"{count}, micro-batch {self.micro_batch} x {self.micro_steps}, "
            f"recompute {self.checkpoint_activations}"
        )


def layout_memory(
    config: TrainConfig, layout: Layout, bf16: bool, compiled: bool, device: str
) -> Memory:
    """Return the peak memory of a device under a layout."""
    return training_memory(
        config.model,
        layout.micro_batch,
        bf16,
        layout.checkpoint_activations,
        layout.shards,
        device,
        compiled,
        layout.micro_steps,
    )


def candidates(config: TrainConfig, batch: int, device: str) -> Iterator[Layout]:
    """Yield the layouts that the configuration allows."""
    devices = config.devices * config.nodes
    share = batch // devices
    sizes = [n for n in range(min(share, MOST_SEQUENCES), 0, -1) if share % n == 0]
    if device == "cpu":
        limit = max(1, 4096 // config.model.context_length)
        sizes = [n for n in sizes if n <= limit] or [1]
    if config.micro_batch != "auto":
        sizes = [config.micro_batch]
    shards = {"ddp": [1], "fsdp": [devices], "auto": [1, devices]}[config.strategy]
    for count in dict.fromkeys(shards):
        for size in sizes:
            steps = share // size
            yield Layout(devices, count, size, steps, config.checkpoint_activations)


def pick_compile(config: TrainConfig, tokens: int, machine: Machine) -> bool:
    """Whether to compile the blocks: as asked, or if the run is long enough to repay it."""
    if config.compile != "auto":
        return config.compile
    compilers = ("g++", "clang++", "c++")
    if machine.device == "cpu" and not any(map(shutil.which, compilers)):
        return False
    seconds = tokens * flops_per_token(config.model) / machine.rate
    return seconds > COMPILE_PAYS_SECONDS[machine.device]


def pick_layout(
    config: TrainConfig, batch: int, bf16: bool, compiled: bool, device: str, have: float
) -> Layout:
    """Return the fastest layout that fits in ``have`` bytes, or the smallest if none does.

    A layout that leaves some room goes first, for memory is an estimate; up to BUSY_TOKENS a
    larger micro-batch is worth more than whole weights. Raises InputError when devices or
    micro_batch do not divide the batch.
    """
    devices = config.devices * config.nodes
    if batch % devices:
        context = config.model.context_length
        raise InputError(
            f"devices: {devices} do not divide the batch of {batch} sequences; pass "
            f"--optim.batch_tokens {max(1, round(batch / devices)) * devices * context}"
        )
    wanted = config.micro_batch
    if wanted != "auto" and batch // devices % wanted:
        raise InputError(
            f"micro_batch: {wanted} does not divide the batch of {batch // devices} sequences"
            + (" on each device" if devices > 1 else "")
        )
    layouts = list(candidates(config, batch, device))
    need = {x: layout_memory(config, x, bf16, compiled, device).total for x in layouts}
    roomy = [x for x in layouts if need[x] <= ROOM * have]
    if not roomy:
        return min(layouts, key=need.__getitem__)

    def speed(layout: Layout) -> tuple[int, int, int]:
        tokens = layout.micro_batch * config.model.context_length
        return min(tokens, BUSY_TOKENS), -layout.shards, layout.micro_batch

    return max(roomy, key=speed)


def nearest_fit(
    config: TrainConfig, batch: int, bf16: bool, compiled: bool, machine: Machine
) -> str | None:
    """Return the smallest change of flags that makes the run fit, or None."""

    def fits(devices: int, shards: int, recompute: str) -> bool:
        layout = Layout(devices, shards, 1, batch // devices, recompute)
        need = layout_memory(config, layout, bf16, compiled, machine.device)
        return need.total <= machine.memory

    devices = config.devices * config.nodes
    modes = {config.checkpoint_activations: "", "block": "--checkpoint_activations block"}
    for count in dict.fromkeys([devices, *(2**n for n in range(1, 11))]):
        if count < devices or batch % count:
            continue
        for mode, flag in modes.items():
            for shards in dict.fromkeys([1, count]):
                if not fits(count, shards, mode):
                    continue
                flags = [f"--devices {count}"] if count != devices else []
                if count > 8:
                    flags = [f"--nodes {count // 8} --devices 8"]
                flags += ["--strategy fsdp"] if shards > 1 and config.strategy == "ddp" else []
                flags += [flag] if flag else []
                flags += ["--micro_batch 1"] if config.micro_batch not in (1, "auto") else []
                return " ".join(flags)
    return None


@dataclass(frozen=True)
class Forecast:
    """The cost of a run and whether it fits. Memory is in bytes on each device."""

    size: str
    parameters: int
    parameters_non_embedding: int
    parameters_matmul: int
    flops_per_token: int
    flops_per_token_full: int
    flops: int
    tokens: int
    data_tokens: int | None
    steps: int
    batch_tokens: int
    warmup_steps: int
    lr: float
    schedule: str
    laws: dict[str, str]
    hardware: str
    layout: Layout
    precision: str
    compile: bool
    memory: Memory
    memory_available: float
    fits: bool
    change: str | None
    rate: str
    hours: float
    device_hours: float  # recomputation included

    def to_dict(self) -> dict[str, Any]:
        """Return the forecast as JSON values; memory has its total."""
        return dataclasses.asdict(self) | {
            "memory": dataclasses.asdict(self.memory) | {"total": self.memory.total}
        }

    def __str__(self) -> str:
        def law(name: str) -> str:
            return f"  [{self.laws[name]}]" if name in self.laws else ""

        epochs = ""
        if self.data_tokens:
            epochs = f" ({self.tokens / self.data_tokens:.2f} epochs of {self.data_tokens:,})"
        verdict = "fits" if self.fits else "does not fit"
        if not self.fits:
            change = self.change or "no number of these devices holds it: choose a smaller --size"
            verdict += f"; nearest change that fits: {change}"
        return "\n".join(
            [
                f"{self.size} on {self.hardware}",
                f"  parameters    {self.parameters:,} total, {self.parameters_non_embedding:,} "
                f"non-embedding, {self.parameters_matmul:,} matmul",
                f"  FLOPs         {self.flops_per_token:,} a token with causal attention, "
                f"{self.flops_per_token_full:,} with full; {self.flops:.3g} in all (causal)",
                f"  tokens        {self.tokens:,}{epochs}" + law("tokens"),
                f"  batch         {self.batch_tokens:,} tokens" + law("batch_tokens"),
                f"  steps         {self.steps:,}, warmup {self.warmup_steps:,}"
                + law("warmup_steps"),
                f"  learning rate {self.lr:.3g}, {self.schedule}" + law("lr"),
                f"  layout        {self.layout}, {self.precision}",
                f"  memory        {self.memory} of {self.memory_available / GIB:.1f} GiB "
                f"on each device ({'compiled' if self.compile else 'eager'} blocks, estimate)",
                f"  time          {_hours(self.hours)} hours, {_hours(self.device_hours)} "
                f"device-hours ({self.rate})",
                f"  verdict       {verdict}",
            ]
        )


def _hours(hours: float) -> str:
    return f"{hours:,.0f}" if hours >= 100 else f"{hours:.2g}"


def forecast(config: TrainConfig, hardware: str | None = None, mfu: float = 0.4) -> Forecast:
    """Tell what the run costs on the named hardware, or on this machine.

    Raises InputError when the configuration contradicts itself or the hardware is unknown.
    """
    recipe = resolve(config)
    machine = describe_machine(hardware, mfu, config.device, config.threads)
    bf16 = config.precision == "bf16" or (config.precision == "auto" and hardware is not None)
    if config.precision == "auto" and hardware is None:
        from llama_scale.device import fast_bf16

        bf16 = fast_bf16(machine.device)
    compiled = pick_compile(config, recipe.tokens, machine)
    layout = pick_layout(config, recipe.batch, bf16, compiled, machine.device, machine.memory)
    memory = layout_memory(config, layout, bf16, compiled, machine.device)
    fits = memory.total <= machine.memory
    count = count_parameters(config.model)
    full = flops_per_token(config.model, causal=False)
    work = full * (RECOMPUTE if layout.checkpoint_activations == "block" else 1)
    hours = recipe.tokens * work / (machine.rate * layout.devices) / 3600
    manifest = Path(config.data) / "manifest.json"
    data_tokens = None
    if manifest.is_file():
        data_tokens = read_json(manifest)["splits"]["train"]["tokens"]
    return Forecast(
        size=config.size,
        parameters=count.total,
        parameters_non_embedding=count.non_embedding,
        parameters_matmul=count.matmul,
        flops_per_token=flops_per_token(config.model),
        flops_per_token_full=full,
        flops=recipe.tokens * flops_per_token(config.model),
        tokens=recipe.tokens,
        data_tokens=data_tokens,
        steps=recipe.steps,
        batch_tokens=recipe.batch_tokens,
        warmup_steps=recipe.warmup_steps,
        lr=recipe.lr,
        schedule=config.optim.schedule,
        laws=recipe.laws,
        hardware=machine.name,
        layout=layout,
        precision="bf16 autocast, float32 weights" if bf16 else "float32",
        compile=compiled,
        memory=memory,
        memory_available=machine.memory,
        fits=fits,
        change=None if fits else nearest_fit(config, recipe.batch, bf16, compiled, machine),
        rate=machine.rate_source,
        hours=hours,
        device_hours=hours * layout.devices,
    )
