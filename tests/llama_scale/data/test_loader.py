"""The data order: a permutation, the same for any world size, and from any step."""

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from llama_scale.data.loader import StepSampler, TokenWindows, permute
from llama_scale.data.shards import Tokens
from llama_scale.errors import InputError


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 1000, 4097])
def test_permute_is_a_permutation(size):
    mapped = permute(np.arange(size), size, seed=1, epoch=0)
    assert sorted(mapped) == list(range(size))


def test_permute_depends_on_seed_and_epoch_and_scatters():
    index = np.arange(10_000)
    first = permute(index, 10_000, seed=1, epoch=0)
    assert (first == permute(index, 10_000, seed=1, epoch=0)).all()
    for other in (permute(index, 10_000, 2, 0), permute(index, 10_000, 1, 1)):
        assert (first == other).mean() < 0.005
    assert abs(np.corrcoef(index, first)[0, 1]) < 0.05
    assert abs(np.corrcoef(first[:-1], first[1:])[0, 1]) < 0.05
    # One element alone maps as it does in company.
    assert permute(np.array([17]), 10_000, 1, 0)[0] == first[17]


CONTEXT = 5


def windows(n_tokens: int) -> TokenWindows:
    """Windows over two shards in which token i is the number i."""
    ids, cut = np.arange(n_tokens, dtype="<u2"), n_tokens // 3
    ends = np.array([cut, n_tokens])
    return TokenWindows(Tokens(Path("x"), "train", {}, [ids[:cut], ids[cut:]], ends), CONTEXT, 0)


@pytest.mark.parametrize("spare", range(1, CONTEXT + 1))
def test_an_epoch_has_each_target_once_and_the_next_another_order(spare):
    """37 windows take 185 targets and the token before; ``spare`` counts that and what is over."""
    data = windows(37 * CONTEXT + spare)
    assert data.n_windows == 37
    epochs = []
    for epoch in range(3):
        rows = data.__getitems__(list(range(37 * epoch, 37 * (epoch + 1)))).numpy()
        assert (np.diff(rows) == 1).all()  # each row is CONTEXT + 1 tokens on end
        assert sorted(rows[:, 1:].ravel()) == list(range(1, 37 * CONTEXT + 1))
        epochs.append(rows[:, 0].tolist())
    for one, other in combinations([sorted(epochs[0]), *epochs], 2):
        assert sum(a == b for a, b in zip(one, other, strict=True)) < 37 / 3


def test_a_split_of_no_window_is_refused():
    assert windows(CONTEXT + 1).n_windows == 1
    with pytest.raises(InputError, match=f"5 tokens are less than one window of {CONTEXT + 1}"):
        windows(CONTEXT)


def take(sampler: StepSampler, steps: int, per_step: int) -> list[list[int]]:
    batches = iter(sampler)
    return [[i for _ in range(per_step) for i in next(batches)] for _ in range(steps)]


@pytest.mark.parametrize("world", [1, 2, 4])
@pytest.mark.parametrize("micro_batch", [1, 2])
def test_global_batch_is_the_same_for_any_split(world, micro_batch):
    per_step = 8 // world // micro_batch
    ranks = [take(StepSampler(8, micro_batch, 3, rank, world), 5, per_step) for rank in range(world)]
    for step in range(5):
        samples = [i for rank in ranks for i in rank[step]]
        assert samples == list(range((step + 3) * 8, (step + 4) * 8))
