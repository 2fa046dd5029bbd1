"""The filter step: every document judged by its content, by several processes."""

import functools
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from data_tools.corpus import corpus, split
from data_tools.corpus.corpus import Corpus
from data_tools.corpus.records import Record, write_array
from data_tools.filters import rules

LINES = "lines.bin"  # uint32
LENGTHS = "lines.npy"  # lines of each kept document
PART = 1 << 18  # lines compared at a time
BLOCK = 4096  # documents read at a time
SAMPLED_ABOVE = 1 << 29  # bytes of source above which only some lines are compared


def inspect(found: Corpus, parses: bool, map_: Callable) -> tuple[np.ndarray, dict]:
    """Filter a corpus by content and write the hashes of the kept files' lines beside it.

    Returns:
        Positions in ``found.records`` of what is kept, (K,) int64; and ``dropped``: reason ->
        {"files", "bytes"} of all that was left out so far, ``examples``: reason -> a few of them.
    """
    dropped = {reason: dict(row) for reason, row in found.dropped.items()}
    examples = {reason: list(names) for reason, names in found.examples.items()}
    total = int(corpus.sizes(found.records).sum())
    keep_one_in = 1 << max(0, (total // SAMPLED_ABOVE).bit_length())
    task = functools.partial(inspect_batch, found.folder, parses, keep_one_in)
    results = corpus.mapped(task, found.records, map_, "filtering")
    verdicts = (verdict for rows in results for verdict in rows)
    kept, lengths = array("q"), array("q")
    with open(found.folder / LINES, "wb") as file:
        for i, (record, (reason, lines)) in enumerate(zip(found.records, verdicts, strict=True)):
            if reason:
                corpus.count(dropped, reason, record.size)
                corpus.example(examples, reason, record)
            else:
                kept.append(i)
                lengths.append(len(lines))
                file.write(lines.tobytes())
    write_array(found.folder / LENGTHS, np.array(lengths, dtype=np.int64))
    return np.array(kept, dtype=np.int64), {"dropped": dropped, "examples": examples}


def inspect_batch(
    folder: Path, parses: bool, keep_one_in: int, batch: list[Record]
) -> list[tuple[str | None, np.ndarray | None]]:
    """Return for each document why it is left out, or None and the hashes of its lines."""
    rows = []
    for content in corpus.contents(folder, batch):
        reason = rules.content_rejection(content)
        if reason is None and parses and not rules.parses(content):
            reason = "does_not_parse"
        lines = None
        if reason is None:
            lines = split.line_hashes(content)
            lines = lines[lines % np.uint32(keep_one_in) == 0]
        rows.append((reason, lines))
    return rows


def shared_lines(
    folder: Path, owners: np.ndarray, positions: np.ndarray, n_packages: int
) -> np.ndarray:
    """Return the share of each package's lines that others have: ``split.shared_lines``.

    The lines are taken range by range of their hash, PART of them at a time.

    Args:
        folder: Where ``inspect`` wrote.
        owners: (n,) package number of each document.
        positions: (n,) their places among the kept documents.
        n_packages: P.
    """
    lengths = np.load(folder / LENGTHS)  # (K,)
    package = np.full(len(lengths), -1, dtype=np.int32)
    package[positions] = owners
    n_parts = -(-int(lengths.sum()) // PART)
    found, total = np.zeros((2, n_packages))
    for part in range(n_parts):
        mine, lines = [np.empty(0, np.int32)], [np.empty(0, np.uint32)]
        for owner, hashes in _blocks(folder / LINES, package, lengths):
            here = hashes.astype(np.uint64) * np.uint64(n_parts) >> np.uint64(32) == part
            here &= owner >= 0
            mine.append(owner[here])
            lines.append(hashes[here])
        counts = split.shared_lines(np.concatenate(mine), np.concatenate(lines), n_packages)
        found, total = found + counts[0], total + counts[1]
    return found / np.maximum(total, 1)


def _blocks(
    path: Path, package: np.ndarray, lengths: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the package of each line, -1 for none, and its hash, BLOCK documents at a time."""
    with open(path, "rb") as file:
        for start in range(0, len(lengths), BLOCK):
            counts = lengths[start : start + BLOCK]
            hashes = np.frombuffer(file.read(4 * int(counts.sum())), dtype=np.uint32)
            yield np.repeat(package[start : start + BLOCK], counts), hashes
