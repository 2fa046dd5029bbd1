"""Losses and gradients of one model on one batch: eager and compiled, in float32 and bf16, beside a CPU's."""

from dataclasses import dataclass

import torch
from torch import Tensor

from llama_scale.config import ModelConfig
from llama_scale.device import attention_backends
from llama_scale.model.llama import Llama

# Largest relative errors of the loss and of all gradients together, beside eager float32 on the CPU. float32 sums in
# another order lie far under 1e-3. bf16 operands err by 2^-9 each: M1's gradients by .007 on a CPU.
BOUNDS = {False: (1e-5, 1e-3), True: (1e-3, 2e-2)}


@dataclass(frozen=True)
class Deviation:
    """How far a loss and its gradients are from the reference, as shares of it; ``worst`` names the worst matrix."""

    loss: float
    gradient: float
    worst: str
    worst_gradient: float


def loss_and_gradients(
    config: ModelConfig, tokens: Tensor, device: str, bf16: bool, compiled: bool
) -> tuple[float, dict[str, Tensor]]:
    """Return the loss of ``tokens`` (B, T + 1) and its gradients by name, in float64 on the CPU; weights of seed 0."""
    model = Llama.empty_model(config).init_weights(0).to(device).train()
    if compiled:
        model.compile_parts()
    with attention_backends(device), torch.autocast(device, torch.bfloat16, enabled=bf16, cache_enabled=False):
        loss = model.loss(tokens.to(device))
    loss.backward()
    gradients = {name: value.grad.double().cpu() for name, value in model.named_parameters() if value.grad is not None}
    return loss.item(), gradients


def deviation(found: tuple[float, dict[str, Tensor]], reference: tuple[float, dict[str, Tensor]]) -> Deviation:
    """Return ||found - reference|| / ||reference|| of the losses, of all gradients, and of the worst one."""
    (loss, gradients), (true_loss, true_gradients) = found, reference
    errors = {name: float((gradients[name] - true).norm()) for name, true in true_gradients.items()}
    norms = {name: float(true.norm()) for name, true in true_gradients.items()}
    shares = {name: errors[name] / norms[name] for name in errors}
    # NaN is larger than all: it must not pass for a small error.
    worst = max(shares, key=lambda name: float("inf") if shares[name] != shares[name] else shares[name])
    whole = sum(error**2 for error in errors.values()) / sum(norm**2 for norm in norms.values())
    return Deviation(abs(loss - true_loss) / abs(true_loss), whole**0.5, worst, shares[worst])
