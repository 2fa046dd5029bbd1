"""Other projects' models with our weights."""

import torch

from benchmarks.baselines import to_litgpt
from llama_scale.model.llama import Llama
from tests.benchmarks.training.helpers import TINY


def test_litgpt_gets_every_weight_once():
    model = Llama(TINY).init_weights(0)
    renamed = to_litgpt(model.state_dict(), TINY.n_layers)
    values = torch.cat([value.flatten() for value in renamed.values()]).sort().values
    expected = torch.cat([value.flatten() for value in model.state_dict().values()]).sort().values
    assert torch.equal(values, expected)
    first = model.blocks[0].attention
    qkv = renamed["transformer.h.0.attn.qkv.weight"]  # (D + 2 G K, D)
    parts = qkv.split([32, 16, 16])
    assert all(torch.equal(p, getattr(first, n).weight) for p, n in zip(parts, "qkv", strict=True))
