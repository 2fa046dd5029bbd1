"""The data order: a permutation, the same for any world size, and from any step."""

import numpy as np
import pytest

from llama_scale.data import StepSampler, permute


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


def take(sampler: StepSampler, steps: int, per_step: int) -> list[list[int]]:
    batches = iter(sampler)
    return [[i for _ in range(per_step) for i in next(batches)] for _ in range(steps)]


@pytest.mark.parametrize("world", [1, 2, 4])
@pytest.mark.parametrize("micro_batch", [1, 2])
def test_global_batch_is_the_same_for_any_split(world, micro_batch):
    per_step = 8 // world // micro_batch
    ranks = [
        take(StepSampler(8, micro_batch, 3, rank, world), 5, per_step) for rank in range(world)
    ]
    for step in range(5):
        samples = [i for rank in ranks for i in rank[step]]
        assert samples == list(range((step + 3) * 8, (step + 4) * 8))


def test_loader_benchmark():
    from llama_scale.speed.loader import loader

    ours, raw = loader(context_length=64, batch=4, rounds=2, batches=2)["contenders"]
    assert (ours["name"], ours["ratio"]) == ("llama_scale", 1.0)
    assert raw["million_tokens_per_second"] > 0
