"""What a fine-tuning will cost: memory traced without computing, time from FLOPs.

Any model can be tuned, so what autograd keeps is not told by a formula here: the forward pass runs once on tensors
without values (torch's fake tensors, on the device that is meant) and what is kept for the backward pass is counted.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from llama_scale.cost.hardware import GIB, Machine
from llama_scale.cost.memory import BFLOAT16, FLOAT32, HEAD_LOGITS, Memory


@dataclass(frozen=True)
class TuningCost:
    """The cost of a fine-tuning on a machine. Memory is in bytes on each device, ``flops`` are of the whole run."""

    n_params: int
    trainable_params: int
    steps: int
    tokens: int
    flops: float
    memory: Memory
    machine: Machine
    devices: int

    @property
    def hours(self) -> float:
        """Time of the training steps."""
        return self.flops / (self.machine.rate * self.devices) / 3600

    def to_dict(self) -> dict[str, Any]:
        """Return the cost as JSON values; memory has its total."""
        names = ("n_params", "trainable_params", "steps", "tokens", "flops", "hours")
        return {name: getattr(self, name) for name in names} | {
            "memory": asdict(self.memory) | {"total": self.memory.total},
            "memory_available": self.machine.memory,
            "fits": self.memory.total <= self.machine.memory,
            "hardware": self.machine.name,
            "rate": self.machine.rate_source,
        }

    def __str__(self) -> str:
        fits = self.memory.total <= self.machine.memory
        remedy = "lower micro_batch or max_tokens, or set checkpoint_activations to block"
        return "\n".join(
            [
                f"  memory        {self.memory} of {self.machine.memory / GIB:.1f} GiB",
                f"  time          {self.hours:.2g} hours for {self.flops:.3g} FLOPs ({self.machine.rate_source})",
                f"  verdict       {'fits' if fits else f'does not fit; {remedy}'}",
            ]
        )


def tuning_memory(
    model: nn.Module,
    loss: Callable[[nn.Module, Any], Tensor],
    batch: Any,
    *,
    head: nn.Linear,
    targets: int,
    device: str,
    bf16: bool,
    micro_steps: int,
) -> Memory:
    """Return the peak memory of a step of ``model``, which may be on the meta device and is left without values.

    ``loss`` is that of a ``batch``, a named tuple of tensors, of which shapes and types count; ``targets`` of its rows
    go through the ``head`` (V, D), some at a time. Weights, gradients and both of AdamW's moments are in float32. Where
    a step is one micro-batch, gradients take the place of what the backward pass frees.
    """
    vocab_size = head.weight.shape[0]
    parameters = list(model.parameters())
    buffers = sum(buffer.nbytes for buffer in model.buffers())
    total = sum(parameter.numel() for parameter in parameters)
    trained = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
    with FakeTensorMode():
        empty_on(model, device)
        fake = type(batch)(*(torch.empty(value.shape, dtype=value.dtype, device=device) for value in batch))
        activations = kept_for_backward(model, lambda: loss(model, fake), device, bf16)
    rows = min(targets, max(1, HEAD_LOGITS[device] // vocab_size))
    logits = rows * vocab_size * (FLOAT32 + 2 * (BFLOAT16 if bf16 else FLOAT32))
    freed = activations + logits if micro_steps == 1 else 0
    return Memory(
        parameters=FLOAT32 * total + buffers,
        gradients=max(0, FLOAT32 * trained - freed),
        optimizer=2 * FLOAT32 * trained,
        compute_copy=0,
        activations=activations,
        logits=logits,
    )


def empty_on(model: nn.Module, device: str) -> None:
    """Give ``model`` parameters and buffers without values on ``device``; what was one tensor stays one."""
    made: dict[int, Tensor] = {}
    for module in model.modules():
        for name, value in module._parameters.items():
            if value is not None and id(value) not in made:
                empty = torch.empty(value.shape, dtype=value.dtype, device=device)
                made[id(value)] = nn.Parameter(empty, requires_grad=value.requires_grad)
            if value is not None:
                module._parameters[name] = made[id(value)]  # type: ignore[assignment]
        for name, value in module._buffers.items():
            if value is not None:
                module._buffers[name] = torch.empty(value.shape, dtype=value.dtype, device=device)


def kept_for_backward(model: nn.Module, loss: Callable[[], Tensor], device: str, bf16: bool) -> int:
    """Return the bytes that autograd holds after ``loss()``, those of the model's own tensors left out."""
    own = {value.untyped_storage()._cdata for value in [*model.parameters(), *model.buffers()]}
    kept: dict[int, tuple[int, Tensor]] = {}  # by storage; the tensor keeps it from being used again

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage.nbytes(), tensor
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
    with hooks, torch.autocast(device, torch.bfloat16, enabled=bf16):
        loss()
    return sum(size for size, _ in kept.values())
