"""Near duplicates: MinHash finds candidates, the exact Jaccard index decides.

Files are compared as sets of word 5-grams. Of 250 places of a signature in bands of 5, a pair at
the threshold shares a band with probability 1 - (1 - .7^5)^50 = .9999 (25 bands of 10 rows, a
common choice, find half of such pairs).
"""

import functools
import tempfile
from collections.abc import Callable, Iterator, Sequence
from itertools import tee
from pathlib import Path

import numpy as np
from tqdm import tqdm

from data_tools.corpus import corpus
from data_tools.corpus.records import Record
from data_tools.dedup.exact import rank
from data_tools.dedup.minhash import band_keys, jaccard, signature, word_shingles

NGRAM = 5
BANDS = 50
ROWS = 5
THRESHOLD = 0.7


def near_duplicates(folder: Path, records: Sequence[Record], map_: Callable) -> dict[int, dict]:
    """Find the records to remove so that no two that stay are near duplicates.

    Records are taken in the order of ``dedup.rank``; one whose Jaccard index with a record that
    stays is at least THRESHOLD goes. So each removed record has a survivor that it is as close
    to, whatever the order of ``records``.

    Returns:
        Position of each removed record -> {"like": position of the survivor, "jaccard"}.
    """
    task = functools.partial(digest_batch, folder)
    digests = corpus.mapped(task, records, map_, "near duplicates")
    labels = _components(_columns(folder, digests, len(records)), len(records))
    removed = {}
    groups, again = tee(_tasks(records, labels))
    rows = ([list(map(records.__getitem__, group)) for group in task] for task in groups)
    results = map_(functools.partial(resolve_batch, folder), rows)
    bar = tqdm(results, "verifying", unit="MB", leave=False, disable=None)
    for task, found in zip(again, bar, strict=True):
        for group, lost in zip(task, found, strict=True):
            for i, like, index in lost:
                removed[group[i]] = {"like": group[like], "jaccard": index}
    return removed


def digest_batch(folder: Path, batch: list[Record]) -> np.ndarray:
    """Return the band keys of each record: (n, BANDS) uint64; zeros for one without n-grams."""
    keys = np.zeros((len(batch), BANDS), dtype=np.uint64)
    for row, shingles in zip(keys, shingle_sets(folder, batch), strict=True):
        if len(shingles):
            row[:] = band_keys(signature(shingles, BANDS * ROWS), ROWS)
    return keys


def resolve_batch(folder: Path, groups: list[list[Record]]) -> list[list[tuple[int, int, float]]]:
    """Return for each group of records by rank what goes: (place, survivor, Jaccard).

    Only pairs that share a band key are compared, a record with the survivors before it.
    """
    found = []
    for records in groups:
        buckets: dict[tuple[int, int], list[int]] = {}
        kept, removed = {}, []
        shingles = (s for batch in corpus.batches(records) for s in shingle_sets(folder, batch))
        for i, mine in enumerate(shingles):
            places = list(enumerate(band_keys(signature(mine, BANDS * ROWS), ROWS).tolist()))
            near = sorted({j for place in places for j in buckets.get(place, ())})
            for j in near:
                small, large = sorted((len(mine), len(kept[j])))
                if small >= THRESHOLD * large and (index := jaccard(mine, kept[j])) >= THRESHOLD:
                    removed.append((i, j, index))
                    break
            else:
                kept[i] = mine
                for place in places:
                    buckets.setdefault(place, []).append(i)
        found.append(removed)
    return found


def shingle_sets(folder: Path, batch: list[Record]) -> list[np.ndarray]:
    """Return the distinct n-grams of each record, sorted: (n,) uint64."""
    grams = word_shingles(list(corpus.contents(folder, batch)), NGRAM)
    return [np.unique(row) for row in grams]


def _columns(folder: Path, digests: Iterator[np.ndarray], n: int) -> Iterator[np.ndarray]:
    """Yield the keys of each band, (n,) uint64, of digests that come as rows; by way of a file."""
    with tempfile.TemporaryFile(dir=folder) as file:
        start = 0
        for rows in digests:
            for band, keys in enumerate(rows.T):
                file.seek(8 * (band * n + start))
                file.write(keys.tobytes())
            start += len(rows)
        for band in range(BANDS):
            file.seek(8 * band * n)
            yield np.frombuffer(file.read(8 * n), dtype=np.uint64)


def _components(columns: Iterator[np.ndarray], n: int) -> np.ndarray:
    """Return the group of each of ``n`` records, those that share a key joined: (n,) int32."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    labels = np.arange(n, dtype=np.int32)
    for band in columns:
        order = np.argsort(band, kind="stable").astype(np.int32)
        keys = band[order]
        same = np.flatnonzero((keys[:-1] == keys[1:]) & (keys[1:] != 0))
        rows, columns_ = labels[order[same]], labels[order[same + 1]]
        apart = rows != columns_
        if apart.any():
            edges = np.ones(int(apart.sum()), dtype=bool)
            graph = coo_array((edges, (rows[apart], columns_[apart])), (n, n))
            labels = connected_components(graph, directed=False)[1][labels]
    return labels


def _tasks(records: Sequence[Record], labels: np.ndarray) -> Iterator[list[list[int]]]:
    """Yield the groups of two or more, each by rank, in lists of about corpus.BATCH bytes."""
    order = np.argsort(labels, kind="stable").astype(np.int32)
    ends = np.flatnonzero(np.diff(labels[order], append=-1)) + 1
    begins = np.concatenate([[0], ends[:-1]])[: len(ends)]
    several = ends - begins > 1
    task, size = [], 0
    for begin, end in zip(begins[several], ends[several], strict=True):
        group = [(rank(record := records[i]), i, record.size) for i in order[begin:end].tolist()]
        task.append([i for _, i, _ in sorted(group)])
        size += sum(row[2] for row in group)
        if size >= corpus.BATCH:
            yield task
            task, size = [], 0
    if task:
        yield task
