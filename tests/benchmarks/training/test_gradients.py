"""Compiled blocks beside eager ones, of every size."""

import pytest
import torch

from benchmarks.training.gradients import compare_block, largest_deviation, within_rounding
from llama_scale.config import CONFIGS, load_size

SIZES = sorted(path.stem for path in (CONFIGS / "size").glob("*.yaml"))
SHAPES = {load_size(size): size for size in SIZES}  # M1 is S3, M2 is S8


@pytest.mark.parametrize("size", SHAPES.values())
def test_compiled_and_eager_blocks_agree(size):
    deviations = compare_block(load_size(size, context_length=64), 1, "cpu", bf16=False)
    assert deviations["eager"] == 0 and deviations["compiled"] < 1e-5
    assert within_rounding(deviations)


@pytest.mark.parametrize("size", ["M1", "S8"])
def test_compiled_and_eager_blocks_agree_under_autocast(size):
    deviations = compare_block(load_size(size, context_length=64), 1, "cpu", bf16=True)
    assert 1e-3 < deviations["eager"] < 5e-2, "bf16 is not float32"
    assert within_rounding(deviations)


def test_deviation_by_hand():
    a, b = torch.tensor([3.0, 4.0]), torch.tensor([3.0, 4.5])
    assert largest_deviation([b, a], [a, a]) == pytest.approx(0.1)
    assert not within_rounding({"compiled": 0.1, "eager": 0.04})
    assert not within_rounding({"compiled": 2e-5, "eager": 0})
