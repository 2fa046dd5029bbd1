"""The recipe: laws, schedule and parameter groups."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from llama_scale.config import ModelConfig, OptimConfig, TrainConfig
from llama_scale.errors import InputError
from llama_scale.model.llama import Llama
from llama_scale.training.optim import (
    build_optimizer,
    lr_ratio,
    resolve,
    round_batch,
    step_law_batch,
    step_law_lr,
    warmup_law,
)

SHAPE = ModelConfig(d_model=64, n_layers=2, n_heads=2, d_ff=128, vocab_size=50, context_length=32)


def test_step_law():
    # 10^9 parameters on 10^11 tokens, by powers of ten.
    assert step_law_lr(10**9, 1e11) == pytest.approx(1.79 * 10 ** (-6.417 + 3.377))
    assert step_law_batch(1e11) == pytest.approx(0.58 * 10**6.281)
    assert step_law_lr(10_000, 1e6) == 6e-3


@pytest.mark.parametrize(
    ("n", "batch", "steps", "warmup"),
    [
        (10**6, 10**4, 10**5, 100),  # N tokens are exactly 100 steps
        (10**8, 10**5, 10**5, 1000),  # N tokens
        (10**9, 10**5, 10**5, 5000),  # 5 % of the run
        (10**3, 10**4, 10**5, 100),  # at least 100
        (10**9, 10**4, 500, 50),  # a short run: 10 %
        (10**9, 10**4, 3, 1),
    ],
)
def test_warmup(n, batch, steps, warmup):
    assert warmup_law(n, batch, steps) == warmup


def test_schedule():
    config = OptimConfig()
    ratio = [lr_ratio(step, config, warmup_steps=10, steps=110) for step in range(110)]
    assert ratio[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert ratio[59] == pytest.approx(0.55)  # half-way down the cosine from 1 to .1
    assert ratio[-1] == pytest.approx(0.1)
    assert all(a >= b for a, b in pairwise(ratio[9:]))
    constant = OptimConfig(schedule="constant")
    assert lr_ratio(90, constant, 10, 110) == 1.0


def test_resolve_prints_its_laws_and_counts_whole_steps():
    recipe = resolve(TrainConfig(model=SHAPE, tokens=100_000))
    assert recipe.tokens == recipe.steps * recipe.batch * 32 == recipe.steps * recipe.batch_tokens
    assert recipe.tokens == pytest.approx(100_000, rel=0.01)
    assert recipe.batch_tokens == pytest.approx(step_law_batch(100_000), rel=0.13)
    assert set(recipe.laws) == {"lr", "batch_tokens", "warmup_steps"}
    fixed = OptimConfig(lr=0.01, batch_tokens=64, warmup_steps=5)
    recipe = resolve(TrainConfig(model=SHAPE, tokens=6_400, optim=fixed))
    assert (recipe.lr, recipe.batch, recipe.steps, recipe.warmup_steps) == (0.01, 2, 100, 5)
    assert recipe.laws == {}


def test_resolve_refuses_a_run_without_a_step():
    with pytest.raises(InputError, match="tokens: 100 is less than one step"):
        resolve(TrainConfig(model=SHAPE, tokens=100, optim=OptimConfig(batch_tokens=4096)))


@pytest.mark.parametrize("sequences", [1, 9, 11, 100, 1000])
def test_a_given_batch_is_taken_as_it_is(sequences):
    optim = OptimConfig(batch_tokens=sequences * 32)
    assert resolve(TrainConfig(model=SHAPE, tokens=64_000, optim=optim)).batch == sequences


@pytest.mark.parametrize(("batch", "words"), [(300, "288 or 320"), (31, "nearest are 32")])
def test_a_given_batch_of_broken_sequences_is_refused(batch, words):
    optim = OptimConfig(batch_tokens=batch)
    with pytest.raises(InputError, match=rf"optim.batch_tokens: {batch} .* = 32; the .*{words}$"):
        resolve(TrainConfig(model=SHAPE, tokens=64_000, optim=optim))


@pytest.mark.parametrize(("wanted", "rounded"), [(0.3, 1), (6.4, 6), (9, 8), (11, 12), (100, 96)])
def test_a_batch_of_the_law_has_three_bits(wanted, rounded):
    assert round_batch(wanted) == rounded


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
