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
    # Sorted by 64 bits of their SHA-256, equal files are neighbors; the pairs of neighbors that
    # agree are joined into groups, so only records that have a copy are read.
    #     keys of the sorted records   3 3 3 5 8 8
    #     equal to the next            ^ ^     ^      groups: the first three, the last two
    # Files that share the 64 bits alone fall into one group; _mark_copies compares the whole hash.
    digests = (int(record.sha256[:16], 16) for record in records)
    keys = np.fromiter(digests, np.uint64, len(records))  # (D,)
    order = np.argsort(keys, kind="stable")
    equals_next = keys[order[1:]] == keys[order[:-1]]  # (D - 1,)
    is_copy = np.zeros(len(records), dtype=bool)
    group: list[int] = []
    for i in np.flatnonzero(equals_next).tolist():
        first, second = int(order[i]), int(order[i + 1])
        if group[-1:] != [first]:
            _mark_copies(records, group, is_copy)
            group = [first]
        group.append(second)
    _mark_copies(records, group, is_copy)
    return np.flatnonzero(~is_copy)


def _mark_copies(records: Sequence[Record], group: list[int], is_copy: np.ndarray) -> None:
    """Mark in ``is_copy`` (D,) all of a group but the best record of each content."""
    seen = set()
    members = ((records[i], i) for i in group)
    for record, i in sorted(members, key=lambda member: survivor_order(member[0])):
        is_copy[i] = record.sha256 in seen
        seen.add(record.sha256)


def survivor_order(record: Record) -> tuple[int, int, int, str, str]:
    """Return the sort key of copies: the one to keep comes first."""
    return -record.stars, -record.forks, record.path.count("/"), record.package, record.path
