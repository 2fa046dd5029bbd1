"""Which pairs are kept: by complexity, in equal parts of it, without copies, and which are held out.

Choices at random are by hashes of names, so that one more pair moves no other.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from data_tools.corpus.corpus import CONTENTS
from data_tools.corpus.records import Record
from data_tools.dedup.near import near_duplicates
from data_tools.filters.benchmark_texts import Part
from data_tools.filters.contamination import build_index, search
from data_tools.progress import with_progress
from evals.metrics.complexity import terciles

AT_A_TIME = 1_000  # contents that are searched as one text
THIRDS = ("low", "middle", "high")
Row = dict[str, Any]


def distinct(rows: Iterable[Row]) -> list[Row]:
    """Return the rows whose code, white space apart, no row before has."""
    seen: dict[str, Row] = {}
    for row in rows:
        seen.setdefault(" ".join(row["reference"].split()), row)
    return list(seen.values())


def without_near_copies(rows: Sequence[Row], work: Path, map_: Callable) -> list[Row]:
    """Return the rows of which no two are near duplicates by their code, as data preparation tells them.

    A row of a published test split stays rather than one of training. ``work`` is a folder for the texts.
    """
    records, offset = [], 0
    with open(work / CONTENTS, "wb") as file:
        for row in rows:
            content = row["reference"].encode()
            digest = hashlib.sha256(content).hexdigest()
            first = int(row.get("split") == "test")  # the record with more stars stays
            own = Record(row["package"], "", row["license"], row["id"], digest, offset, len(content), stars=first)
            records.append(own)
            offset += file.write(content)
    removed = near_duplicates(work, records, map_)
    return [row for i, row in enumerate(rows) if i not in removed]


def without_copies(rows: Sequence[Row], parts: Sequence[Part], reason: str, dropped: Counter[str]) -> list[Row]:
    """Return the rows that neither hold one of ``parts`` nor share 13 words in a row with one."""
    if not parts:
        return list(rows)
    index, kept = build_index(parts), []
    starts = range(0, len(rows), AT_A_TIME)
    for start in with_progress(starts, f"searching: {reason}", len(starts), "batch"):
        batch = rows[start : start + AT_A_TIME]
        found = search([row["reference"].encode() for row in batch], index)
        kept += [row for row, matches in zip(batch, found, strict=True) if not matches]
    dropped[reason] += len(rows) - len(kept)
    return kept


def hold_out(rows: Sequence[Row], count: int, seed: int) -> tuple[list[Row], list[Row]]:
    """Return training rows and ``count`` held-out ones, of whole packages in the order of a hash of their names.

    A package that has more than what is missing gives a part, by the hash of its pairs; the rest of it is left out.
    """
    test: list[Row] = []
    held: set[str] = set()
    sizes = Counter(row["package"] for row in rows)
    # No package with half of all pairs: the others would have too little to train on.
    for package in sorted((name for name in sizes if 2 * sizes[name] <= len(rows)), key=lambda p: place(p, seed)):
        if len(test) == count:
            break
        own = sorted((row for row in rows if row["package"] == package), key=lambda row: place(row["id"], seed))
        test += own[: count - len(test)]
        held.add(package)
    return [row for row in rows if row["package"] not in held], test


def place(name: str, seed: int) -> bytes:
    """Return where a name stands in the random order of ``seed``."""
    return hashlib.sha256(f"{seed}\n{name}".encode()).digest()


def with_thirds(rows: Sequence[Row]) -> list[Row]:
    """Return the rows with ``third``, low, middle or high: where their complexity stands among all of them.

    Equal complexities are in one third: where half of all functions have no decision, low is that half.
    """
    if not rows:
        return []
    numbers = terciles([row["complexity"] for row in rows])
    return [row | {"third": THIRDS[number]} for row, number in zip(rows, numbers, strict=True)]


def balanced(rows: Sequence[Row], by: str, seed: int, dropped: Counter[str]) -> list[Row]:
    """Return as much of each third as the smallest has, chosen at random: pairs, or bytes of completions.

    ``by`` is pairs or bytes. No more than the smallest third's bytes are taken of another.
    """
    thirds = {name: [row for row in rows if row["third"] == name] for name in THIRDS}
    thirds = {name: sorted(own, key=lambda row: place(row["id"], seed)) for name, own in thirds.items() if own}

    def amount(row: Row) -> int:
        return 1 if by == "pairs" else len(row["completion"].encode())

    least = min(sum(map(amount, own)) for own in thirds.values())
    kept: set[str] = set()
    for own in thirds.values():
        total = 0
        for row in own:
            total += amount(row)
            if total > least:
                break
            kept.add(row["id"])
    dropped["balance"] += len(rows) - len(kept)
    return [row for row in rows if row["id"] in kept]
