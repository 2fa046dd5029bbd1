"""SplitMix64 in numpy and in torch against the published generator."""

import numpy as np
import pytest
import torch

from llama_scale.splitmix import GOLDEN_GAMMA, as_int64, mix, mix_tensor, shift_right
from tests.llama_scale.helpers import splitmix64


def test_the_published_numbers():
    # The known first outputs for the seed 1234567.
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert [splitmix64(1234567, n) for n in (1, 2, 3)] == published
    counts = np.arange(1, 4, dtype=np.uint64)
    assert mix(np.uint64(1234567) + counts * np.uint64(GOLDEN_GAMMA)).tolist() == published


@pytest.mark.parametrize("seed", [0, 1234567, (1 << 63) - 1, 1 << 63, (1 << 64) - 5])
def test_numpy_and_torch_equal_the_published_generator(seed):
    expected = [splitmix64(seed, n) for n in range(1, 1001)]
    counts = np.arange(1, 1001, dtype=np.uint64)
    assert mix(np.uint64(seed) + counts * np.uint64(GOLDEN_GAMMA)).tolist() == expected
    ours = torch.arange(1, 1001) * as_int64(GOLDEN_GAMMA) + as_int64(seed)  # int64 wraps around
    assert mix_tensor(ours).tolist() == [as_int64(value) for value in expected]


def test_int64_as_uint64():
    assert as_int64((1 << 64) - 1) == -1 and as_int64(5) == 5 and as_int64(1 << 63) == -(1 << 63)
    assert shift_right(torch.tensor([-1, 32]), 60).tolist() == [15, 0]
