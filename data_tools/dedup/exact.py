"""Exact duplicates: of the files with equal content, one survives."""

from collections.abc import Sequence

import numpy as np

from data_tools.corpus.records import Record


def exact_survivors(records: Sequence[Record]) -> np.ndarray:
    """Return the position of one record for each content, ascending: (n,) int64.

    The survivor is the one with the most stars, then the most forks, then the fewest folders in
    its path (an original rather than a copy inside another package), then the first by
    (package, path); so it does not depend on the order of the records. Memory: 24 bytes a record.
    """
    digests = (int(record.sha256[:16], 16) for record in records)
    keys = np.fromiter(digests, np.uint64, len(records))  # (D,)
    order = np.argsort(keys, kind="stable")
    same = keys[order[1:]] == keys[order[:-1]]
    lost = np.zeros(len(records), dtype=bool)
    group: list[int] = []
    for place in np.flatnonzero(same).tolist():
        first, second = int(order[place]), int(order[place + 1])
        if group[-1:] != [first]:
            _mark(records, group, lost)
            group = [first]
        group.append(second)
    _mark(records, group, lost)
    return np.flatnonzero(~lost)


def _mark(records: Sequence[Record], group: list[int], lost: np.ndarray) -> None:
    """Mark in ``lost`` (D,) all of a group but the best record of each content."""
    seen = set()
    for record, i in sorted(((records[i], i) for i in group), key=lambda pair: rank(pair[0])):
        lost[i] = record.sha256 in seen
        seen.add(record.sha256)


def rank(record: Record) -> tuple[int, int, int, str, str]:
    """Return what orders copies: the one to keep comes first."""
    return -record.stars, -record.forks, record.path.count("/"), record.package, record.path
