"""Speed of the loader beside the least that a loader can do: random slices of a memory map."""

import statistics
import tempfile
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.tables import format_ratio, format_table
from benchmarks.timing import time_in_turn
from llama_scale.data.loader import StepSampler, TokenWindows, build_loader
from llama_scale.data.shards import DTYPE, ShardWriter, Tokens

SHARDS, SHARD_TOKENS = 2, 1 << 24
DOCUMENT_TOKENS = 1 << 12


def compare_loaders(context_length: int = 2_048, batch: int = 64, rounds: int = 9, batches: int = 20) -> dict[str, Any]:
    """Time our loader and a memory map in turn, on one thread of this process.

    Returns:
        ``contenders``: rows of name, million tokens a second (the median of the rounds), and
        ``ratio``, the median of ours over each, round by round.
    """
    with tempfile.TemporaryDirectory() as folder:
        tokens = write_random_tokens(Path(folder))
        sampler = StepSampler(batch, batch)
        streams = {
            "llama_scale": iter(build_loader(TokenWindows(tokens, context_length, 0), sampler)),
            "np.memmap": memmap_windows(Path(folder) / "train-00000.bin", context_length, batch),
        }
        contenders = {name: token_counter(stream, batches) for name, stream in streams.items()}
        for count in contenders.values():
            count(0)  # the first batches are not timed
        calls = time_in_turn(contenders, rounds)
    rates = {name: [call.value / call.seconds / 1e6 for call in row] for name, row in calls.items()}
    rows = []
    for name, row in rates.items():
        pairs = zip(rates["llama_scale"], row, strict=True)
        rows.append(
            {
                "name": name,
                "million_tokens_per_second": statistics.median(row),
                "ratio": statistics.median(own / other for own, other in pairs),
            }
        )
    return {"context_length": context_length, "batch": batch, "contenders": rows}


def write_random_tokens(folder: Path) -> Tokens:
    """Write shards of random tokens and open them."""
    rng = np.random.default_rng(0)
    with ShardWriter(folder, "train", SHARD_TOKENS) as writer:
        for _ in range(SHARDS * SHARD_TOKENS // DOCUMENT_TOKENS):
            writer.add(rng.integers(0, 32_000, DOCUMENT_TOKENS))
    shards = [np.asarray(np.memmap(folder / row["file"], DTYPE, "r")) for row in writer.shards]
    return Tokens(folder, "train", {}, shards, np.cumsum([len(shard) for shard in shards]))


def memmap_windows(path: Path, context_length: int, batch: int) -> Iterator[torch.Tensor]:
    """Yield windows (B, T + 1) at random positions, int64."""
    data, rng = np.memmap(path, DTYPE, "r"), np.random.default_rng(0)
    while True:
        starts = rng.integers(0, len(data) - context_length, batch)
        rows = [data[start : start + context_length + 1].astype(np.int64) for start in starts]
        yield torch.from_numpy(np.stack(rows))


def token_counter(stream: Iterator[torch.Tensor], batches: int) -> Callable[[int], int]:
    """Return a contender that takes the next batches (B, T + 1) and counts their tokens."""
    return lambda _: sum(windows.numel() for windows in islice(stream, batches))


def loader_table(result: dict[str, Any]) -> str:
    """Return the rates; ratios say how many times as fast ours is."""
    title = f"loader, {result['batch']} x {result['context_length']:,}"
    rows = [
        [row["name"], f"{row['million_tokens_per_second']:,.0f}", format_ratio(row["ratio"])]
        for row in result["contenders"]
    ]
    return format_table([title, "million tokens/s", "llama_scale is"], rows)
