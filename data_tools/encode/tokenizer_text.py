"""The text that the tokenizer is trained on, and its training."""

from pathlib import Path

import numpy as np

from data_tools.corpus.corpus import read_contents
from data_tools.corpus.records import Records
from data_tools.corpus.split import number_packages
from llama_scale.data.tokenizer import train_tokenizer

TOKENIZER = "tokenizer.model"
THREADS = 4  # stored in the model file, so the same on every machine


def sample_tokenizer_text(records: Records, limit: int, even: bool) -> Records:
    """Return about ``limit`` bytes of records, which come in a random order; all when they are less.

    ``even`` takes small packages whole and of large ones equal shares, instead of the first records, which are of a
    package as its share of all is.
    """
    if not even:
        return records.take(np.arange(_count_reaching(records.sizes, limit)))
    # Sorted by how many bytes of its own package come before each document, packages take turns:
    # all first documents (0 bytes before), then whatever is furthest behind. A small package runs
    # out and is in whole; the large ones are cut at about the same height.
    #     a 5  a 5  b 2  a 5  b 2      bytes before, of the same package: 0 5 0 10 2
    #     order: a b b a a             a limit of 9 takes a, b, b: 5 + 2 + 2
    _, owners = number_packages(records)
    before = _bytes_before(owners, records.sizes)
    order = np.argsort(before, kind="stable")
    return records.take(np.sort(order[: _count_reaching(records.sizes[order], limit)]))


def _bytes_before(owners: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Return the bytes of the same package before each document: (D,) int64; both arguments are (D,)."""
    # Sorted by package, one running sum has all of them, less where each package began.
    #     sorted  a 5  a 5  a 5  b 2  b 2
    #     starts    0    5   10   15   17      the running sum before each
    #     base      0    0    0   15   15      the same at the first of its package
    order = np.argsort(owners, kind="stable")
    starts = np.cumsum(sizes[order]) - sizes[order]
    is_first = np.diff(owners[order], prepend=-1) != 0  # owners are 0 or more
    base = np.maximum.accumulate(np.where(is_first, starts, 0))
    before = np.empty(len(owners), dtype=np.int64)
    before[order] = starts - base
    return before


def _count_reaching(sizes: np.ndarray, limit: int) -> int:
    """Return how many leading ``sizes`` first sum to ``limit``; all when they do not."""
    return min(len(sizes), int(np.searchsorted(np.cumsum(sizes), limit)) + 1)


def train_on_records(work: Path, records: Records, vocab_size: int) -> None:
    """Train the tokenizer of a build on some of its documents."""
    texts = (content.decode("utf-8") for content in read_contents(work, records))
    train_tokenizer(texts, work / TOKENIZER, vocab_size, THREADS)
