"""What a run will cost, told from its configuration alone: no data, no model, no device needed."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama_scale.config import TrainConfig
from llama_scale.cost.accounting import count_parameters, flops_per_token
from llama_scale.cost.hardware import DEFAULT_MFU, GIB, describe_machine
from llama_scale.cost.layout import Layout, layout_memory, nearest_fit, pick_compile, pick_layout
from llama_scale.cost.memory import Memory
from llama_scale.files import read_json

if TYPE_CHECKING:
    from llama_scale.training.recipe import Recipe

RECOMPUTE = 4 / 3  # a second forward pass beside one forward and one backward of twice its work


@dataclass(frozen=True)
class RunCost:
    """The cost of a run and whether it fits. Memory is in bytes on each device."""

    size: str
    n_params: int
    n_params_non_embedding: int
    n_params_matmul: int
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
        """Return the cost as JSON values; memory has its total."""
        return dataclasses.asdict(self) | {"memory": dataclasses.asdict(self.memory) | {"total": self.memory.total}}

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
                f"  parameters    {self.n_params:,} total, {self.n_params_non_embedding:,} "
                f"non-embedding, {self.n_params_matmul:,} matmul",
                f"  FLOPs         {self.flops_per_token:,} a token with causal attention, "
                f"{self.flops_per_token_full:,} with full; {self.flops:.3g} in all (causal)",
                f"  tokens        {self.tokens:,}{epochs}" + law("tokens"),
                f"  batch         {self.batch_tokens:,} tokens" + law("batch_tokens"),
                f"  steps         {self.steps:,}, warmup {self.warmup_steps:,}" + law("warmup_steps"),
                f"  learning rate {self.lr:.3g}, {self.schedule}" + law("lr"),
                f"  layout        {self.layout}, {self.precision}",
                f"  memory        {self.memory} of {self.memory_available / GIB:.1f} GiB "
                f"on each device ({'compiled' if self.compile else 'eager'} blocks, estimate)",
                f"  time          {_hours(self.hours)} hours, {_hours(self.device_hours)} device-hours ({self.rate})",
                f"  verdict       {verdict}",
            ]
        )


def _hours(hours: float) -> str:
    return f"{hours:,.0f}" if hours >= 100 else f"{hours:.2g}"


def _computes_in_bf16(config: TrainConfig, device: str, named: bool) -> bool:
    """Whether a run is in bf16: as asked; with auto on all named hardware, here if it is fast."""
    if config.precision != "auto" or named:
        return config.precision != "fp32"
    from llama_scale.device import fast_bf16  # torch, only where it is this machine

    return fast_bf16(device)


def _data_tokens(config: TrainConfig) -> int | None:
    """Return the training tokens of the data, or None where it is not there yet."""
    manifest = Path(config.data) / "manifest.json"
    return read_json(manifest)["splits"]["train"]["tokens"] if manifest.is_file() else None


def dry_run(config: TrainConfig, recipe: "Recipe", hardware: str | None = None, mfu: float = DEFAULT_MFU) -> RunCost:
    """Tell what the run costs on the named hardware, or on this machine.

    ``recipe`` is that of ``config``: its tokens, batch and rate without any auto.

    Raises InputError when the configuration contradicts itself or the hardware is unknown.
    """
    machine = describe_machine(hardware, mfu, config.device, config.threads)
    bf16 = _computes_in_bf16(config, machine.device, named=hardware is not None)
    compiled = pick_compile(config, recipe.tokens, machine)
    layout = pick_layout(
        config, recipe.batch, bf16=bf16, compiled=compiled, device=machine.device, memory=machine.memory
    )
    memory = layout_memory(config, layout, bf16=bf16, compiled=compiled, device=machine.device)
    fits = memory.total <= machine.memory
    count = count_parameters(config.model)
    full = flops_per_token(config.model, causal=False)
    work = full * (RECOMPUTE if layout.checkpoint_activations == "block" else 1)
    hours = recipe.tokens * work / (machine.rate * layout.devices) / 3600
    return RunCost(
        size=config.size,
        n_params=count.total,
        n_params_non_embedding=count.non_embedding,
        n_params_matmul=count.matmul,
        flops_per_token=flops_per_token(config.model),
        flops_per_token_full=full,
        flops=recipe.tokens * flops_per_token(config.model),
        tokens=recipe.tokens,
        data_tokens=_data_tokens(config),
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
