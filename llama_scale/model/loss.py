"""The output head and its cross-entropy in one, without ever holding all logits.

Logits of a few rows at a time are made, turned into their own gradient in place and multiplied back, all in the forward
pass, so that the backward pass only scales. Saves two of the three copies of the (M, V) logits that the plain form
moves through memory, and on a CPU a third of the head's time.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from llama_scale.cost.memory import head_rows

# logits (R, V), targets (R, 1) and a factor -> nats () and gradient (R, V): see ``nll_and_grad``
NllAndGrad = Callable[[Tensor, Tensor, float], tuple[Tensor, Tensor]]


def nll_and_grad(logits: Tensor, target: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Return the nats of ``target`` (R, 1) under ``logits`` (R, V) and a gradient by the logits.

    The nats () are the sum over the rows, in float32; the gradient (R, V) is that of ``share``
    times them, in the type of the logits. Logits in float32 are overwritten by it.

    With p = softmax(logits), a row's nats are log sum exp(logits) - logits[target], and their
    gradient is p, less 1 at the target: logits (0, 0) and target 0 give log 2 and (-1/2, 1/2).
    """
    x = logits.float()  # (R, V)
    x -= x.amax(dim=-1, keepdim=True)
    at_target = x.gather(-1, target)  # (R, 1)
    total = x.exp_().sum(dim=-1, keepdim=True)  # (R, 1)
    nats = (total.log() - at_target).sum()
    x *= share / total
    gradient = x.to(logits.dtype)
    of_target = share * (at_target.exp() / total - 1)
    return nats, gradient.scatter_(-1, target, of_target.to(logits.dtype))


def nll_and_grad_of_copy(logits: Tensor, target: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Return the same and leave ``logits`` as they are: to be compiled, which costs no copy."""
    return nll_and_grad(logits.clone(), target, share)


def linear_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, nll_and_grad: NllAndGrad = nll_and_grad
) -> Tensor:
    """Return the mean nats of ``targets`` (M,) under softmax(``hidden`` ``weight``^T).

    ``hidden`` is (M, D) and ``weight`` (V, D). The softmax is in float32; the products are in
    autocast's type where that is on, and the weight is cast to it once. ``nll_and_grad`` is the
    function above, or that compiled.
    """
    # Compiled code is for one shape, so the parts are as equal as can be: 100 rows of which 30 may
    # be held are four times 25, not 30, 30, 30 and 10.
    rows = head_rows(len(targets), len(weight), hidden.device.type)
    if torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad):
        return _LinearCrossEntropy.apply(hidden, weight, targets, rows, nll_and_grad)
    weight = weight.to(product_type(weight))
    pairs = zip(hidden.split(rows), targets.split(rows), strict=True)
    nats = [F.cross_entropy(F.linear(h.to(weight.dtype), weight).float(), t, reduction="sum") for h, t in pairs]
    return torch.stack(nats).sum() / len(targets)


def product_type(weight: Tensor) -> torch.dtype:
    """Return the type that a product with ``weight`` is computed in: autocast's where that is on."""
    device = weight.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, rows: int, nll_and_grad: NllAndGrad
    ) -> Tensor:
        share = 1.0 / len(targets)
        wants_weight = ctx.needs_input_grad[1]  # not of a frozen head
        hidden_grad = torch.empty_like(hidden)
        weight_grad = torch.zeros_like(weight) if wants_weight else None
        nats = torch.zeros((), device=hidden.device)
        weight = weight.to(product_type(weight))  # once, not in both products of each part
        for start in range(0, len(targets), rows):
            h = hidden[start : start + rows].to(weight.dtype)  # (R, D)
            target = targets[start : start + rows, None]  # (R, 1)
            part, gradient = nll_and_grad(F.linear(h, weight), target, share)  # (), (R, V)
            nats += part
            hidden_grad[start : start + rows] = gradient @ weight
            if weight_grad is None:
                continue
            if gradient.dtype == h.dtype == weight_grad.dtype:
                weight_grad.addmm_(gradient.T, h)  # in one call
            else:
                weight_grad += gradient.T @ h
        ctx.save_for_backward(hidden_grad, weight_grad)
        return nats * share

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        hidden_grad, weight_grad = ctx.saved_tensors
        # In place: the two are nobody else's, and no second backward pass is allowed to read them.
        return hidden_grad.mul_(scale), None if weight_grad is None else weight_grad.mul_(scale), None, None, None
