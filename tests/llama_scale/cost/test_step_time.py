"""A step's time by its parts against those measured on an H200 (docs/results/gpu.md)."""

import pytest

from llama_scale.config import load_size
from llama_scale.cost.hardware import HARDWARE, find_hardware
from llama_scale.cost.step_time import step_time

H200 = HARDWARE["h200"]
# size, micro-batch, micro-steps, then milliseconds as measured: a step, matrix products, attention, the optimizer
MEASURED = [
    ("M2", 32, 1, 120.64, 55.75, 25.59, 1.02),
    ("M3", 16, 1, 232.48, 147.15, 30.44, 5.53),
    ("M4", 8, 8, 4453.98, 3419.12, 363.95, 32.82),
    ("M5", 4, 1, 676.24, 489.48, 37.74, 74.52),
]


@pytest.mark.parametrize(("size", "micro_batch", "micro_steps", "step", "products", "attention", "optimizer"), MEASURED)
def test_the_steps_it_was_fitted_to(size, micro_batch, micro_steps, step, products, attention, optimizer):
    told = step_time(load_size(size), micro_batch, H200, micro_steps=micro_steps)
    assert 1e3 * told.total == pytest.approx(step, rel=0.03)
    assert 1e3 * told.products == pytest.approx(products, rel=0.04)
    assert 1e3 * told.attention == pytest.approx(attention, rel=0.03)
    assert 1e3 * told.optimizer == pytest.approx(optimizer, rel=0.05)


@pytest.mark.parametrize(
    ("size", "fastest"), [("S1", 15.3), ("S2", 18.9), ("S3", 18.2), ("S4", 23.3)]
)  # milliseconds of 8,192 tokens, up to six runs on the card
def test_small_steps_wait_for_their_launches(size, fastest):
    told = step_time(load_size(size), 4, H200)
    assert told.total == told.host and 1e3 * told.total == pytest.approx(fastest, rel=0.16)
    assert "the host's launches" in str(told)


def test_parts_count_what_they_are_of():
    model = load_size("M4")
    one, two, half = (step_time(model, 4, H200, micro_steps=n, shards=s) for n, s in ((1, 1), (2, 1), (1, 2)))
    assert two.products == pytest.approx(2 * one.products) and two.optimizer == one.optimizer
    assert two.weights == pytest.approx(3 * one.weights)  # casts twice, one sum of gradients
    assert half.optimizer == pytest.approx(one.optimizer / 2) and half.products == one.products
    again = step_time(model, 4, H200, "block")
    assert again.attention == pytest.approx(4 / 3 * one.attention)
    assert one.products < again.products < 4 / 3 * one.products  # the head is not computed again


def test_an_h100_differs_in_memory_traffic_alone():
    assert find_hardware("NVIDIA H100 80GB HBM3") == HARDWARE["h100"]
    h200, h100 = (step_time(load_size("M2"), 16, HARDWARE[name]) for name in ("h200", "h100"))
    assert h100.products == h200.products and h100.attention == h200.attention
    assert h100.elementwise / h200.elementwise == pytest.approx(4.8 / 3.35)
    assert find_hardware("NVIDIA A100-SXM4-80GB").bandwidth is None  # whose rates nobody measured
