"""Train and validation by package, so that no file of a validation package is trained on.

All orders here are orders of a hash of (seed, name). They look random, do not depend on the order
in which names come, and one more name moves none of the others: with names a, b, c in the order
b, c, a, a new one only goes somewhere between them.
"""

import hashlib
import struct
from array import array
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from data_tools.corpus.line_overlap import shared_line_share
from data_tools.corpus.records import Record, Records
from llama_scale.data.shards import Split
from llama_scale.errors import InputError

MAX_SHARED_LINES = 0.1  # share of a validation package's lines that others may have
MAX_PACKAGE_SHARE = 0.25  # of the target: a larger package would rule the loss by its style


def split_by_package(
    records: Records, positions: np.ndarray, work: Path, val_share: float, seed: int
) -> dict[Split, Records]:
    """Return {"train", "val"}: the documents of each split in shard order.

    Args:
        records: What passed the filters.
        positions: (n,) which of them are left.
        work: Where the filter step left the hashes of lines.
        val_share: Target share of the bytes for validation.
        seed: Seed of the packages and of the order.
    """
    remaining = records.take(positions)
    names, owners = number_packages(remaining)
    sizes = np.bincount(owners, weights=remaining.sizes, minlength=len(names)).astype(int)  # (P,)
    shared = shared_line_share(work, owners, positions, len(names))  # (P,)
    val_packages = choose_validation_packages(
        dict(zip(names, sizes.tolist(), strict=True)), dict(zip(names, shared.tolist(), strict=True)), val_share, seed
    )
    in_val = np.isin(owners, [i for i, name in enumerate(names) if name in val_packages])  # (n,)
    order = shuffled_order(remaining, seed)
    return {"train": remaining.take(order[~in_val[order]]), "val": remaining.take(order[in_val[order]])}


def number_packages(records: Records) -> tuple[list[str], np.ndarray]:
    """Return the names of the packages, and the number of each record's there: (n,) int32."""
    numbers: dict[str, int] = {}
    owners = (numbers.setdefault(record.package, len(numbers)) for record in records)
    owners = np.fromiter(owners, np.int32, len(records))
    return list(numbers), owners


def choose_validation_packages(sizes: dict[str, int], shared: dict[str, float], share: float, seed: int) -> set[str]:
    """Choose whole packages whose bytes come close to ``share`` of all.

    Packages are tried in the order of a hash of (seed, name) and taken while they fit. One with
    more than MAX_PACKAGE_SHARE of the target or with more than MAX_SHARED_LINES of its lines in
    other packages is passed over; only when none is left does the smallest package serve.

    Args:
        sizes: Bytes of each package.
        shared: Share of each package's lines that other packages have.
        share: Target share of all bytes.
        seed: Seed of the order.

    Raises:
        InputError: There are fewer than two packages.
    """
    if len(sizes) < 2:
        raise InputError(f"packages: found source code in {len(sizes)}, but validation by package needs two or more")
    target = share * sum(sizes.values())
    chosen, total = set(), 0
    for name in sorted(sizes, key=lambda name: hashlib.sha256(f"{seed}/{name}".encode()).digest()):
        fits = sizes[name] <= MAX_PACKAGE_SHARE * target and total + sizes[name] <= target
        if fits and shared[name] <= MAX_SHARED_LINES:
            chosen.add(name)
            total += sizes[name]
    return chosen or {min(sizes, key=lambda name: (sizes[name], name))}


def shuffled_order(records: Iterable[Record], seed: int) -> np.ndarray:
    """Return the order of the records by a hash of (seed, package, path): (D,) int64. A prefix is a fair sample."""
    # 16 bytes of each hash as two numbers, 16 bytes of memory a record. np.lexsort sorts by its
    # last key first: big-endian halves in this order are the order of the hashes as bytes.
    keys = array("Q")
    for record in records:
        name = f"{seed}/{record.package}/{record.path}".encode()
        keys.extend(struct.unpack(">2Q", hashlib.sha256(name).digest()[:16]))
    first, second = np.array(keys, dtype=np.uint64).reshape(-1, 2).T  # (D,), (D,)
    return np.lexsort([second, first])
