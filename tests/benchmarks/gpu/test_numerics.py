"""Losses and gradients beside a reference."""

import pytest
import torch

from benchmarks.gpu.numerics import BOUNDS, deviation, loss_and_gradients
from llama_scale.config import ModelConfig
from llama_scale.model.llama import Llama

CONFIG = ModelConfig(d_model=32, n_layers=2, n_heads=2, d_ff=64, vocab_size=128, context_length=16)
TOKENS = torch.randint(0, 128, (2, 17), generator=torch.Generator().manual_seed(1))


def test_deviations_are_shares_of_the_reference():
    reference = (2.0, {"a": torch.tensor([3.0, 4.0]), "b": torch.tensor([0.0, 12.0])})
    found = (2.2, {"a": torch.tensor([3.0, 3.5]), "b": torch.tensor([0.0, 12.0])})
    far = deviation(found, reference)
    assert far.loss == pytest.approx(0.1)
    assert far.gradient == pytest.approx(0.5 / 13)
    assert (far.worst, far.worst_gradient) == ("a", pytest.approx(0.1))


def test_nan_is_worse_than_any_error():
    reference = (2.0, {"a": torch.tensor([3.0, 4.0]), "b": torch.tensor([1.0])})
    far = deviation((2.0, {"a": torch.tensor([9.0, 9.0]), "b": torch.tensor([float("nan")])}), reference)
    assert far.worst == "b"
    assert not far.gradient <= BOUNDS[True][1]


def test_precision_shows_in_gradients():
    """float32 is within its bound of float64's gradients, bf16 within its own and outside float32's."""
    exact = Llama.empty_model(CONFIG).init_weights(0).double()
    logits = exact(TOKENS[:, :-1])
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), TOKENS[:, 1:].flatten()).backward()
    gradients = {name: value.grad for name, value in exact.named_parameters()}
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), TOKENS[:, 1:].flatten()).item()
    for bf16 in (False, True):
        far = deviation(loss_and_gradients(CONFIG, TOKENS, "cpu", bf16, compiled=False), (loss, gradients))
        assert far.loss <= BOUNDS[bf16][0] and far.gradient <= BOUNDS[bf16][1]
        assert (far.gradient > BOUNDS[False][1]) is bf16
