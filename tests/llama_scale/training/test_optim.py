"""The optimizer: schedule, parameter groups and AdamW itself."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from llama_scale.config import ModelConfig, OptimConfig
from llama_scale.model.llama import Llama
from llama_scale.training.optim import build_optimizer, clip_in_step, lr_ratio

SHAPE = ModelConfig(d_model=64, n_layers=2, n_heads=2, d_ff=128, vocab_size=50, context_length=32)


def test_schedule():
    config = OptimConfig()
    ratio = [lr_ratio(step, config, warmup_steps=10, steps=110) for step in range(110)]
    assert ratio[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert ratio[59] == pytest.approx(0.55)  # half-way down the cosine from 1 to .1
    assert ratio[-1] == pytest.approx(0.1)
    assert all(a >= b for a, b in pairwise(ratio[9:]))
    constant = OptimConfig(schedule="constant")
    assert lr_ratio(90, constant, 10, 110) == 1.0


def test_weight_decay_is_on_matrices_alone():
    model = Llama(SHAPE)
    decayed, plain = build_optimizer(model, OptimConfig(), lr=1e-3).param_groups
    assert decayed["weight_decay"] == 0.1 and all(p.dim() == 2 for p in decayed["params"])
    assert plain["weight_decay"] == 0 and all(p.dim() == 1 for p in plain["params"])
    grouped = len(decayed["params"]) + len(plain["params"])
    assert grouped == len(list(model.parameters()))


def test_adamw_steps_by_hand():
    """Loshchilov and Hutter 2019, algorithm 2, in numpy, with a value of its own for each field."""
    config = OptimConfig(beta1=0.7, beta2=0.8, eps=0.01, weight_decay=0.3)
    model = torch.nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[2.0, -1.0]]))
    optimizer = build_optimizer(model, config, lr=0.1)
    weight, first, second = np.array([2.0, -1.0]), np.zeros(2), np.zeros(2)
    for step, gradient in enumerate(np.array([[3.0, -0.5], [-1.0, 2.0], [0.0, 4.0]]), start=1):
        model.weight.grad = torch.tensor(gradient[None], dtype=torch.float32)
        optimizer.step()
        first = 0.7 * first + 0.3 * gradient
        second = 0.8 * second + 0.2 * gradient**2
        weight *= 1 - 0.1 * 0.3
        weight -= 0.1 * (first / (1 - 0.7**step)) / (np.sqrt(second / (1 - 0.8**step)) + 0.01)
        assert model.weight.detach().numpy()[0] == pytest.approx(weight, abs=1e-6)


@pytest.mark.parametrize("max_norm", [0.5, 1e6, float("inf")])
def test_clipping_in_the_step_equals_clip_grad_norm(max_norm):
    ours, theirs = (Llama(SHAPE).init_weights(0) for _ in range(2))
    optimizers = [build_optimizer(model, OptimConfig(), lr=1e-2) for model in (ours, theirs)]
    for seed in range(3):
        tokens = torch.randint(0, 50, (2, 33), generator=torch.Generator().manual_seed(seed))
        for model in (ours, theirs):
            model.zero_grad()
            model.loss(tokens).backward()
        norm = clip_in_step(optimizers[0], ours.parameters(), max_norm)
        expected = torch.nn.utils.clip_grad_norm_(theirs.parameters(), max_norm)
        torch.testing.assert_close(norm, expected)
        for optimizer in optimizers:
            optimizer.step()
    exact = {"atol": 0, "rtol": 0} if max_norm > 1 else {"atol": 1e-5, "rtol": 1e-5}
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, **exact)
    for a, b in zip(*(optimizer.state.values() for optimizer in optimizers), strict=True):
        torch.testing.assert_close(a["exp_avg"], b["exp_avg"], **exact)
        torch.testing.assert_close(a["exp_avg_sq"], b["exp_avg_sq"], **exact)
