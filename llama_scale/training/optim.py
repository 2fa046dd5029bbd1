"""AdamW and the schedule of its learning rate."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from llama_scale.config import OptimConfig


def lr_ratio(step: int, config: OptimConfig, warmup_steps: int, steps: int, first_step: int = 0) -> float:
    """Return the learning rate of optimizer step ``step`` (from 0) as a share of the peak.

    Linear warmup, then a cosine to ``min_lr_ratio`` at the last step, or constant. A cooldown is linear from
    ``first_step``, where its branch begins, to ``min_lr_ratio`` at the last (Hagele et al. 2024). The linear schedule
    is that of transformers: the first step after the warmup has the peak, the last one 1 / (steps after it) of that.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if config.schedule == "constant":
        return 1.0
    if config.schedule == "linear":
        return max(0.0, (steps - step) / max(1, steps - warmup_steps))
    first = first_step if config.schedule == "cooldown" else warmup_steps
    progress = min(1.0, (step + 1 - first) / max(1, steps - first))
    left = 1.0 - progress if config.schedule == "cooldown" else 0.5 * (1.0 + math.cos(math.pi * progress))
    return config.min_lr_ratio + (1.0 - config.min_lr_ratio) * left


def build_optimizer(model: nn.Module, config: OptimConfig, lr: float) -> torch.optim.AdamW:
    """Return fused AdamW with weight decay on matrices and none on norms."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    betas = (config.beta1, config.beta2)
    return torch.optim.AdamW(groups, lr=lr, betas=betas, eps=config.eps, fused=True)


def clip_in_step(optimizer: Any, parameters: Iterable[Tensor], max_norm: float) -> Tensor:
    """Have the next step of a fused ``optimizer`` clip the gradients to ``max_norm``; return their global norm ().

    The kernel divides each gradient by ``grad_scale`` as it reads it, which saves the pass over all gradients of
    clip_grad_norm_. Gradients of a norm up to ``max_norm`` are divided by exactly 1.
    """
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    norm = norm.full_tensor() if isinstance(norm, DTensor) else norm  # ()
    optimizer.grad_scale = ((norm + 1e-6) / max_norm).clamp(min=1.0)
    return norm
