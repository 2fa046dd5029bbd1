"""What a run will cost, told from its configuration alone: no data, no model, no device needed."""

from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama_scale.config import TrainConfig
from llama_scale.cost.accounting import count_parameters, flops_per_token
from llama_scale.cost.hardware import GIB, Machine, describe_machine
from llama_scale.cost.layout import (
    Layout,
    layout_memory,
    layout_step,
    nearest_fit,
    pick_compile,
    pick_layout,
    training_seconds,
    why_no_compiling,
)
from llama_scale.cost.memory import Memory
from llama_scale.cost.step_time import LAW, StepTime
from llama_scale.errors import InputError
from llama_scale.files import read_json

if TYPE_CHECKING:
    from llama_scale.training.recipe import Recipe


@dataclass(frozen=True)
class RunCost:
    """The cost of a run on a machine and whether it fits. Memory is in bytes on each device.

    ``data_tokens`` is None where the data is not there yet, and ``change`` the flags that make the run fit, None where
    it does or nothing helps.
    """

    config: TrainConfig
    recipe: "Recipe"
    machine: Machine
    layout: Layout
    bf16: bool
    compile: bool
    memory: Memory
    data_tokens: int | None
    change: str | None

    @property
    def fits(self) -> bool:
        """Whether the memory of a device is enough."""
        return self.memory.total <= self.machine.memory

    @property
    def step(self) -> StepTime | None:
        """The parts of a step's time; None where only a share of the peak is reckoned with."""
        return layout_step(self.config, self.layout, self.machine, self.bf16)

    @property
    def hours(self) -> float:
        """Time of the training steps, recomputation included."""
        return training_seconds(self.config, self.recipe.tokens, self.layout, self.machine, self.bf16) / 3600

    def to_dict(self) -> dict[str, Any]:
        """Return the cost as JSON values; memory has its total."""
        config, recipe = self.config, self.recipe
        count = count_parameters(config.model)
        return {
            "size": config.size,
            "n_params": count.total,
            "n_params_non_embedding": count.non_embedding,
            "n_params_matmul": count.matmul,
            "flops_per_token": flops_per_token(config.model),
            "flops_per_token_full": flops_per_token(config.model, causal=False),
            "flops": recipe.tokens * flops_per_token(config.model),
            "tokens": recipe.tokens,
            "data_tokens": self.data_tokens,
            "steps": recipe.steps,
            "batch_tokens": recipe.batch_tokens,
            "warmup_steps": recipe.warmup_steps,
            "lr": recipe.lr,
            "schedule": config.optim.schedule,
            "init_std": recipe.init_std,
            "laws": recipe.laws,
            "hardware": self.machine.name,
            "layout": asdict(self.layout),
            "precision": "bf16 autocast, float32 weights" if self.bf16 else "float32",
            "compile": self.compile,
            "memory": asdict(self.memory) | {"total": self.memory.total},
            "memory_available": self.machine.memory,
            "fits": self.fits,
            "change": self.change,
            "rate": f"parts measured on an H200: {LAW}" if self.step else self.machine.rate_source,
            "step_seconds": asdict(self.step) | {"total": self.step.total} if self.step else None,
            "hours": self.hours,
            "device_hours": self.hours * self.layout.devices,
        }

    def __str__(self) -> str:
        cost = self.to_dict()
        change = self.change or "no number of these devices holds it: choose a smaller --size"
        verdict = "fits" if self.fits else f"does not fit; nearest change that fits: {change}"
        parameters, *rest = recipe_lines(self.config, self.recipe, self.data_tokens)
        hours, device_hours = (f"{h:,.0f}" if h >= 100 else f"{h:.2g}" for h in (cost["hours"], cost["device_hours"]))
        rate = f"{self.step}{'' if self.compile else '; eager blocks take longer'}" if self.step else cost["rate"]
        law = [f"                [{LAW}; measured on an H200]"] if self.step else []
        return "\n".join(
            [
                f"{cost['size']} on {cost['hardware']}",
                parameters,
                f"  FLOPs         {cost['flops_per_token']:,} a token with causal attention, "
                f"{cost['flops_per_token_full']:,} with full; {cost['flops']:.3g} in all (causal)",
                *rest,
                f"  layout        {self.layout}, {cost['precision']}",
                f"  memory        {self.memory} of {self.machine.memory / GIB:.1f} GiB "
                f"on each device ({'compiled' if self.compile else 'eager'} blocks, estimate)",
                f"  time          {hours} hours, {device_hours} device-hours; {rate}",
                *law,
                f"  verdict       {verdict}",
            ]
        )


def recipe_lines(config: TrainConfig, recipe: "Recipe", data_tokens: int | None, batch: str = "") -> list[str]:
    """Return a run's settings as lines of text, each derived value with the law that set it.

    ``batch`` is what there is to say of the batch beside its tokens.
    """
    count = count_parameters(config.model)
    epochs = f" ({recipe.tokens / data_tokens:.2f} epochs of {data_tokens:,})" if data_tokens else ""
    laws = defaultdict(str, {name: f"  [{law}]" for name, law in recipe.laws.items()})
    return [
        f"  parameters    {count.total:,} total, {count.non_embedding:,} non-embedding, {count.matmul:,} matmul",
        f"  tokens        {recipe.tokens:,}{epochs}{laws['tokens']}",
        f"  batch         {recipe.batch_tokens:,} tokens{batch}{laws['batch_tokens']}",
        f"  steps         {recipe.steps:,}, warmup {recipe.warmup_steps:,}{laws['warmup_steps']}",
        f"  learning rate {recipe.lr:.3g}, {config.optim.schedule}{laws['lr']}",
        f"  initial scale {recipe.init_std:.3g}{laws['init_std']}",
    ]


def dry_run(config: TrainConfig, recipe: "Recipe", hardware: str | None = None, mfu: float | None = None) -> RunCost:
    """Tell what the run costs on the named hardware, or on this machine.

    ``recipe`` is that of ``config``: its tokens, batch and rate without any auto. ``mfu`` is as describe_machine takes
    it. Raises InputError when the configuration contradicts itself or the hardware is unknown.
    """
    machine = describe_machine(hardware, mfu, config.device, config.threads, config.memory_share)
    bf16 = config.precision != "fp32"
    if config.precision == "auto" and hardware is None:
        from llama_scale.device import pick_precision  # torch, only where it is this machine

        bf16, _ = pick_precision("auto", machine.device, config.model.d_model, config.model.d_ff)
    here = hardware is None
    can = not here or why_no_compiling(machine.device) is None
    compiled, _ = pick_compile(config, recipe.tokens, recipe.batch, machine, can)
    layout = pick_layout(config, recipe.batch, bf16, compiled, device=machine.device, memory=machine.memory)
    memory = layout_memory(config, layout, bf16, compiled, machine.device)
    manifest = Path(config.data) / "manifest.json"
    return RunCost(
        config=config,
        recipe=recipe,
        machine=machine,
        layout=layout,
        bf16=bf16,
        compile=compiled,
        memory=memory,
        data_tokens=_tokens_of(manifest) if manifest.exists() or manifest.is_symlink() else None,
        change=nearest_fit(config, recipe.batch, bf16, compiled, machine) if memory.total > machine.memory else None,
    )


def _tokens_of(manifest: Path) -> int:
    """Return the training tokens of a build; raise InputError where its manifest does not tell them."""
    values = read_json(manifest)
    try:
        return int(values["splits"]["train"]["tokens"])
    except (KeyError, TypeError, IndexError, ValueError):
        raise InputError(f"{manifest}: no tokens of a train split in it; make the data again") from None
