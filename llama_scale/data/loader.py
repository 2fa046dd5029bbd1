"""Batches as a pure function of (seed, step, rank), so that a resumed run reads the same tokens.

The training text is cut into W windows. Sample i of a run is window ``permute(i mod W)`` of epoch
``i // W``; step s takes samples s B ... s B + B - 1, and batches that a run leaves out move the
later ones up. The order does not depend on the number of ranks or micro-batches.

With W = 5 windows and batches of B = 2, step 0 takes samples 0 and 1, and step 2 samples 4 and 5:
the last window of epoch 0, in that epoch's order, and the first of epoch 1, in another.
"""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from llama_scale.data.shards import Tokens
from llama_scale.errors import InputError
from llama_scale.splitmix import GOLDEN_GAMMA

ROUNDS = 4


def permute(index: np.ndarray, size: int, seed: int, epoch: int) -> np.ndarray:
    """Map ``index`` in [0, size) through a pseudo-random permutation of that range.

    A Feistel network on the next power of four with cycle walking (Black and Rogaway 2002):
    no table, so a trillion windows cost as much memory as ten.

    A round turns the two halves of a number's bits, (left, right), into (right, left ^ f(right)),
    which can be undone whatever f is, so the rounds permute all numbers of that many bits. Of
    size = 5 these are the 16 numbers of 2 + 2 bits; what lands outside [0, 5) is permuted again
    until it is inside, and as each number's path is its own, no two end at the same one.
    """
    keys = np.random.SeedSequence([seed, epoch]).generate_state(ROUNDS, np.uint64)
    half = np.uint64(max(1, (int(size - 1).bit_length() + 1) // 2))
    mask = (np.uint64(1) << half) - np.uint64(1)
    gamma = np.uint64(GOLDEN_GAMMA)
    result = index.astype(np.uint64)  # (B,)
    outside = np.ones(len(result), dtype=bool)  # (B,), all go through the rounds once
    while outside.any():
        left, right = result[outside] >> half, result[outside] & mask
        for key in keys:
            mixed = (right ^ key) * gamma  # f(right), of which half as many bits count
            mixed ^= mixed >> np.uint64(29)
            left, right = right, left ^ ((mixed * gamma >> np.uint64(32)) & mask)
        result[outside] = left << half | right
        outside = result >= size
    return result.astype(np.int64)


class TokenWindows(Dataset):
    """Windows of ``context_length`` + 1 tokens; raises InputError when the split is shorter than one."""

    def __init__(self, tokens: Tokens, context_length: int, seed: int) -> None:
        self.tokens, self.context_length, self.seed = tokens, context_length, seed
        self.n_windows = (tokens.n_tokens - 1) // context_length
        if self.n_windows < 1:
            problem = f"{tokens.n_tokens:,} tokens are less than one window of {context_length + 1}"
            raise InputError(f"{tokens.folder}: {problem}; prepare more data or lower model.context_length")

    def __getitems__(self, samples: list[int]) -> torch.Tensor:
        """Return the windows (B, T + 1) of the given sample numbers, int64."""
        return torch.from_numpy(self.tokens.windows(self.starts(np.asarray(samples)), self.context_length + 1))

    def starts(self, samples: np.ndarray) -> np.ndarray:
        """Return the position of each sample's first token, (B,)."""
        starts = np.empty_like(samples)
        epochs = samples // self.n_windows  # (B,)
        for epoch in np.unique(epochs):  # a batch may hold the end of one and the start of the next
            inside = epochs == epoch
            window = permute(samples[inside] % self.n_windows, self.n_windows, self.seed, epoch)
            starts[inside] = window * self.context_length
        return starts

    def __getitem__(self, sample: int) -> torch.Tensor:
        return self.__getitems__([sample])[0]


@dataclass(frozen=True)
class StepSampler:
    """Yields the sample numbers of each micro-batch of one rank, from ``start_step`` on.

    The batches numbered in ``skipped`` are left out: those after them move up. Of a batch of 8 on
    2 ranks with micro-batches of 2, rank 1 takes 4, 5 and then 6, 7 of step 0.
    """

    batch: int
    micro_batch: int
    start_step: int = 0
    rank: int = 0
    world: int = 1
    skipped: Collection[int] = ()

    def __iter__(self) -> Iterator[list[int]]:
        share = self.batch // self.world
        number = batch_number(self.start_step, self.skipped)
        while True:
            if number not in self.skipped:
                first = number * self.batch + self.rank * share
                for start in range(first, first + share, self.micro_batch):
                    yield list(range(start, start + self.micro_batch))
            number += 1


def batch_number(step: int, skipped: Collection[int]) -> int:
    """Return the number of the batch that step ``step`` (from 0) reads, leaving out ``skipped``.

    Without batches 1 and 2, steps 0, 1 and 2 read batches 0, 3 and 4.
    """
    number = step
    for skipped_number in sorted(skipped):
        number += skipped_number <= number
    return number


def build_loader(dataset: Dataset, sampler: Iterable[list], pin: bool = False) -> DataLoader:
    """Return a loader of the batches that ``dataset`` makes, in this process: worker processes cost more.

    ``pin`` is for batches that go to a GPU: they lie in memory that it can read while the host goes on.
    """
    return DataLoader(dataset, batch_sampler=sampler, collate_fn=lambda windows: windows, pin_memory=pin)
