"""Near duplicates: MinHash finds candidates, the exact Jaccard index decides.

Files are compared as sets of word 5-grams. Of 250 places of a signature in bands of 5, a pair at the threshold shares a
band with probability 1 - (1 - .7^5)^50 = .9999 (25 bands of 10 rows, a common choice, find half of such pairs).
"""

import functools
import tempfile
from collections.abc import Callable, Iterator, Sequence
from itertools import tee
from pathlib import Path

import numpy as np

from data_tools.corpus import corpus
from data_tools.corpus.records import Record
from data_tools.dedup.exact import survivor_order
from data_tools.dedup.minhash import band_keys, jaccard, minhash_signature, word_shingles
from data_tools.progress import with_progress

NGRAM = 5
BANDS = 50
ROWS = 5
THRESHOLD = 0.7


def near_duplicates(folder: Path, records: Sequence[Record], map_: Callable) -> dict[int, dict]:
    """Find the records to remove so that no two that stay are near duplicates.

    Records are taken in ``survivor_order``; one whose Jaccard index with a record that stays is at least THRESHOLD
    goes. So each removed record has a survivor that it is as close to, whatever the order of ``records``.

    Returns:
        Position of each removed record -> {"like": position of the survivor, "jaccard"}.
    """
    task = functools.partial(band_keys_of_batch, folder)
    keys = corpus.map_batches(task, records, map_, "near duplicates")
    labels = _connected_groups(_keys_by_band(folder, keys, len(records)), len(records))
    sizes = corpus.document_sizes(records)  # (D,)
    batches = corpus.batches(_groups(records, labels), size=lambda group: int(sizes[group].sum()))
    # The positions are used three times: by the map that reads their records, and beside its results to count their
    # bytes and to name what goes.
    to_compare, to_count, compared = tee(batches, 3)
    groups = ([[records[i] for i in group] for group in batch] for batch in to_compare)
    results = map_(functools.partial(compare_groups, folder), groups)
    total = int(sizes[np.bincount(labels)[labels] > 1].sum())  # bytes in groups of two or more
    amounts = (int(sizes[np.concatenate(batch)].sum()) for batch in to_count)
    removed = {}
    results = with_progress(results, "verifying", total, "B", amounts)
    for batch, verdicts in zip(compared, results, strict=True):
        for group, removals in zip(batch, verdicts, strict=True):
            for member, survivor, index in removals:
                removed[group[member]] = {"like": group[survivor], "jaccard": index}
    return removed


def band_keys_of_batch(folder: Path, batch: list[Record]) -> np.ndarray:
    """Return the band keys of each record: (n, BANDS) uint64; zeros for one without n-grams."""
    keys = np.zeros((len(batch), BANDS), dtype=np.uint64)
    for row, shingles in zip(keys, shingle_sets(folder, batch), strict=True):
        if len(shingles):
            row[:] = band_keys(minhash_signature(shingles, BANDS * ROWS), ROWS)
    return keys


def compare_groups(folder: Path, groups: list[list[Record]]) -> list[list[tuple[int, int, float]]]:
    """Return what goes from each group of records in survivor order.

    Only pairs that share a band key are compared, a record with the survivors before it.

    Returns:
        For each group (number of the record in it, number of its survivor, Jaccard index).
    """
    verdicts = []
    for records in groups:
        buckets: dict[tuple[int, int], list[int]] = {}  # (band, key) -> survivors
        survivors, removed = {}, []
        sets = (s for batch in corpus.batches(records) for s in shingle_sets(folder, batch))
        for i, shingles in enumerate(sets):
            keys = band_keys(minhash_signature(shingles, BANDS * ROWS), ROWS).tolist()
            band_and_key = list(enumerate(keys))
            candidates = sorted({j for key in band_and_key for j in buckets.get(key, ())})
            for j in candidates:
                smaller, larger = sorted((len(shingles), len(survivors[j])))
                # Sets of 60 and 100 share at most 60 of 100: no need to count.
                if smaller < THRESHOLD * larger:
                    continue
                if (index := jaccard(shingles, survivors[j])) >= THRESHOLD:
                    removed.append((i, j, index))
                    break
            else:
                survivors[i] = shingles
                for key in band_and_key:
                    buckets.setdefault(key, []).append(i)
        verdicts.append(removed)
    return verdicts


def shingle_sets(folder: Path, batch: list[Record]) -> list[np.ndarray]:
    """Return the distinct n-grams of each record, sorted: (n,) uint64."""
    grams = word_shingles(list(corpus.read_contents(folder, batch)), NGRAM)
    return [np.unique(row) for row in grams]


def _keys_by_band(folder: Path, batches: Iterator[np.ndarray], n: int) -> Iterator[np.ndarray]:
    """Yield the keys of each band, (n,) uint64, of batches that have a row for each record.

    A transpose by way of a file: 400 bytes a record are too many for memory, 8 are not.
    Key k of record r goes to byte 8 * (k * n + r), so a band is then one piece of n keys.
    """
    with tempfile.TemporaryFile(dir=folder) as file:
        start = 0
        for keys in batches:  # (rows, BANDS)
            for band, column in enumerate(keys.T):
                file.seek(8 * (band * n + start))
                file.write(column.tobytes())
            start += len(keys)
        for band in range(BANDS):
            file.seek(8 * band * n)
            yield np.frombuffer(file.read(8 * n), dtype=np.uint64)


def _connected_groups(bands: Iterator[np.ndarray], n: int) -> np.ndarray:
    """Return the group of each of ``n`` records, those that share a key joined: (n,) int32.

    The bands are joined one by one, as union-find does, but by whole arrays. ``labels`` are the
    groups so far. Sorted by their key in the next band, records with equal keys are neighbors, and
    an edge between the labels of each two neighbors is enough to join all of them.

    Example: labels 0 1 2 3, keys 7 5 7 5. Sorted by key: records 1 3 (5), 0 2 (7); edges 1-3 and 0-2, so labels are 0 1
    0 1. The next band, keys 4 4 6 8, has the edge of records 0 and 1, which joins their groups: labels 0 0 0 0.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    labels = np.arange(n, dtype=np.int32)
    for keys in bands:
        order = np.argsort(keys, kind="stable").astype(np.int32)
        in_order = keys[order]
        equal = np.flatnonzero((in_order[:-1] == in_order[1:]) & (in_order[1:] != 0))
        left, right = labels[order[equal]], labels[order[equal + 1]]
        new = left != right
        if new.any():
            ones = np.ones(int(new.sum()), dtype=bool)
            graph = coo_array((ones, (left[new], right[new])), (n, n))
            # A component of the graph of labels is a group: new label of each old one, then of each record.
            labels = connected_components(graph, directed=False)[1][labels]
    return labels


def _groups(records: Sequence[Record], labels: np.ndarray) -> Iterator[list[int]]:
    """Yield each group of two or more: the positions of its records in survivor order."""
    # labels 0 1 0 2 1 sorted are 0 0 1 1 2: a group ends where the next label differs, ends are
    # 2 4 5, begins 0 2 4, and the last group has one record only.
    order = np.argsort(labels, kind="stable").astype(np.int32)
    ends = np.flatnonzero(np.diff(labels[order], append=-1)) + 1
    begins = np.concatenate([[0], ends[:-1]])[: len(ends)]
    several = ends - begins > 1
    for begin, end in zip(begins[several], ends[several], strict=True):
        yield sorted(order[begin:end].tolist(), key=lambda i: survivor_order(records[i]))
