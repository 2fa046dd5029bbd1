"""Compiled against eager blocks: python -m benchmarks.training.gradients SETTINGS, a line a size.

SETTINGS is JSON: sizes (of each name the fields of its model configuration and the sequences in a
batch), device, bf16.
"""

import json
import sys
from typing import Any

import torch
from torch import Tensor

from llama_scale.config import ModelConfig
from llama_scale.device import attention_backends
from llama_scale.model.llama import Block, rope_table


def gradients(block: Block, x: Tensor, rope: Tensor, bf16: bool) -> list[Tensor]:
    """Return a loss of the block's output at ``x`` (B, T, D), and its gradients."""
    x = x.clone().requires_grad_()
    with torch.autocast(x.device.type, torch.bfloat16, enabled=bf16, cache_enabled=False):
        y = block(x, rope)  # (B, T, D)
    weights = torch.linspace(-1, 1, y.numel(), device=y.device).view_as(y)
    loss = (y.float() * weights).mean()
    return [loss.detach(), *torch.autograd.grad(loss, [x, *block.parameters()])]


def largest_deviation(values: list[Tensor], reference: list[Tensor]) -> float:
    """Return the largest distance of a tensor from its reference, as a share of its norm."""
    pairs = zip(values, reference, strict=True)
    return max(float((a - b).norm() / b.norm()) for a, b in pairs)


def compare_block(config: ModelConfig, batch: int, device: str, bf16: bool) -> dict[str, float]:
    """Return how far a compiled block is from an eager one in loss and gradients.

    The input is ``batch`` sequences, so that a training step finds the compiled code made.

    ``eager`` is how far the eager one is from float32, which is 0 unless ``bf16``: a compiled block
    rounds at other places, so that it may differ from the eager one by about as much.
    """
    with torch.device(device):
        torch.manual_seed(0)
        block = Block(config)
        x = torch.randn(batch, config.context_length, config.d_model)  # (B, T, D)
    for parameter in block.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=config.init_std)
    rope = rope_table(config, x.device)[:, : x.shape[1]]
    with attention_backends(device):
        exact = gradients(block, x, rope, bf16=False)
        eager = gradients(block, x, rope, bf16)
        block.compile(dynamic=False)
        compiled = gradients(block, x, rope, bf16)
    torch._dynamo.reset()
    return {"compiled": largest_deviation(compiled, eager), "eager": largest_deviation(eager, exact)}


def within_rounding(deviations: dict[str, float]) -> bool:
    """Say whether the compiled block differs by rounding alone."""
    return deviations["compiled"] <= max(1e-5, 2 * deviations["eager"])


def main() -> None:
    """Compare every size and print a line of JSON for each."""
    settings: dict[str, Any] = json.loads(sys.argv[1])
    for name, (model, batch) in settings["sizes"].items():
        try:
            deviations = compare_block(ModelConfig(**model), batch, settings["device"], settings["bf16"])
        except RuntimeError as error:
            print(json.dumps({"size": name, "error": str(error)[:300]}), flush=True)
        else:
            row = {"size": name, **deviations, "agree": within_rounding(deviations)}
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
