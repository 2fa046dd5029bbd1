"""Counts against the built model and torch's own FLOP counter."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from llama_scale.config import load_size
from llama_scale.cost.accounting import count_parameters, flops_per_token
from llama_scale.model.llama import Llama

SIZES = ["M1", "M2", "M3", "M4", "M5", "S1", "S5"]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("fields", [{}, {"tie_embeddings": False}, {"n_kv_heads": 1}])
def test_parameters_equal_the_model(size, fields):
    config = load_size(size, **fields)
    with torch.device("meta"):
        model = Llama(config)
    count = count_parameters(config)
    assert count.total == sum(p.numel() for p in model.parameters())
    tables = {id(model.embedding.weight): 1, id(model.head.weight): 1}
    outside = [p for p in model.parameters() if id(p) not in tables]
    assert count.non_embedding == sum(p.numel() for p in outside)
    head = model.head.weight.numel()
    assert count.matmul == sum(p.numel() for p in outside if p.dim() == 2) + head


@pytest.mark.parametrize("size", SIZES)
def test_flops_equal_torch_counter(size):
    config = load_size(size)
    with torch.device("meta"):
        model = Llama(config)
        tokens = torch.zeros(1, config.context_length, dtype=torch.long)
        with FlopCounterMode(display=False) as counter:
            model(tokens).sum().backward()
    ours = flops_per_token(config, causal=False) * config.context_length
    assert counter.get_total_flops() == pytest.approx(ours, rel=1e-3)


def test_causal_halves_the_attention_alone():
    config = load_size("M1")
    full, causal = flops_per_token(config, causal=False), flops_per_token(config)
    assert full - causal == 6 * config.n_layers * config.d_model * config.context_length
    # 6ND is wrong by about a third at M1 and 4 % at M5.
    assert causal / (6 * count_parameters(config).total) == pytest.approx(1.34, abs=0.02)
    m5 = load_size("M5")
    assert flops_per_token(m5) / (6 * count_parameters(m5).total) == pytest.approx(1.04, abs=0.01)
