"""Speed of the loader beside the least that a loader can do: random slices of a memory map."""

import statistics
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from llama_scale.data.loader import StepSampler, TokenWindows, build_loader
from llama_scale.data.shards import DTYPE, ShardWriter, Tokens

SHARDS, SHARD_TOKENS = 2, 1 << 24
DOCUMENT = 1 << 12


def loader(
    context_length: int = 2_048, batch: int = 64, rounds: int = 9, batches: int = 20
) -> dict[str, Any]:
    """Time our loader and a memory map in turn, on one thread of this process.

    Returns:
        ``contenders``: rows of name, million tokens a second (the median of the rounds), and
        ``ratio``, the median of ours over each, round by round.
    """
    with tempfile.TemporaryDirectory() as folder:
        tokens = _tokens(Path(folder))
        sampler = StepSampler(batch, batch)
        contenders = {
            "llama_scale": iter(build_loader(TokenWindows(tokens, context_length, 0), sampler)),
            "np.memmap": _memmap(Path(folder) / "train-00000.bin", context_length, batch),
        }
        rates: dict[str, list[float]] = {name: [] for name in contenders}
        for number in range(rounds + 1):  # the first is not counted
            for name, stream in contenders.items():
                began = time.perf_counter()
                seen = sum(windows.numel() for windows in islice(stream, batches))
                rate = seen / (time.perf_counter() - began) / 1e6
                if number:
                    rates[name].append(rate)
    rows = []
    for name, row in rates.items():
        ratios = [ours / other for ours, other in zip(rates["llama_scale"], row, strict=True)]
        rows.append(
            {
                "name": name,
                "million_tokens_per_second": statistics.median(row),
                "ratio": statistics.median(ratios),
            }
        )
    return {"context_length": context_length, "batch": batch, "contenders": rows}


def _tokens(folder: Path) -> Tokens:
    """Write shards of random tokens and open them."""
    rng = np.random.default_rng(0)
    with ShardWriter(folder, "train", SHARD_TOKENS) as writer:
        for _ in range(SHARDS * SHARD_TOKENS // DOCUMENT):
            writer.add(rng.integers(0, 32_000, DOCUMENT))
    shards = [np.asarray(np.memmap(folder / row["file"], DTYPE, "r")) for row in writer.shards]
    return Tokens(folder, "train", {}, shards, np.cumsum([len(shard) for shard in shards]))


def _memmap(path: Path, context_length: int, batch: int) -> Iterator[torch.Tensor]:
    """Yield windows (B, T + 1) at random places, int64."""
    data, rng = np.memmap(path, DTYPE, "r"), np.random.default_rng(0)
    while True:
        starts = rng.integers(0, len(data) - context_length, batch)
        rows = [data[start : start + context_length + 1].astype(np.int64) for start in starts]
        yield torch.from_numpy(np.stack(rows))
