"""Train and validation by package, so that no file of a validation package is trained on."""

import hashlib
import zlib
from collections.abc import Iterable

import numpy as np

from llama_scale.errors import InputError

MIN_LINE = 30  # bytes: a shorter line is shared by chance
MAX_SHARED = 0.1
MAX_PART = 0.25


def line_hashes(content: bytes) -> np.ndarray:
    """Return the CRC-32 of each line of at least MIN_LINE bytes, indentation aside: (n,) uint32."""
    lines = [line.strip() for line in content.split(b"\n") if len(line) >= MIN_LINE]
    return np.array([zlib.crc32(line) for line in lines if len(line) >= MIN_LINE], dtype=np.uint32)


def shared_lines(owners: np.ndarray, hashes: np.ndarray, n_packages: int) -> np.ndarray:
    """Return how many distinct lines of each package another one has as well, and how many it has.

    Forks and renamed copies (a package under two names, a compatibility shim) score high though
    none of their files is an exact duplicate.

    Args:
        owners: (n,) package of each line, from 0 to n_packages - 1.
        hashes: (n,) uint32 hash of each line.
        n_packages: P.

    Returns:
        (2, P) float64.
    """
    pairs = np.unique(hashes.astype(np.uint64) << np.uint64(32) | owners.astype(np.uint64))
    lines, packages = pairs >> np.uint64(32), (pairs & np.uint64(0xFFFFFFFF)).astype(np.int64)
    _, line, packages_of_line = np.unique(lines, return_inverse=True, return_counts=True)
    shared = np.bincount(packages, weights=packages_of_line[line] > 1, minlength=n_packages)
    return np.stack([shared, np.bincount(packages, minlength=n_packages)])


def choose_validation(
    sizes: dict[str, int], shared: dict[str, float], share: float, seed: int
) -> set[str]:
    """Choose whole packages whose bytes come close to ``share`` of all.

    Packages are tried in the order of a hash of (seed, name) and taken while they fit. One with
    more than MAX_PART of the target (its style would rule the loss) or with more than MAX_SHARED
    of its lines in other packages is passed over; only when none is left does the smallest
    package serve.

    Args:
        sizes: Bytes of each package.
        shared: Share of each package's lines that other packages have.
        share: Target share of all bytes.
        seed: Seed of the order.

    Raises:
        InputError: There are fewer than two packages.
    """
    if len(sizes) < 2:
        raise InputError(
            f"packages: found source code in {len(sizes)}, but validation by package needs two or "
            "more"
        )
    target = share * sum(sizes.values())
    chosen, total = set(), 0
    for name in hash_order(sizes, seed):
        fits = sizes[name] <= MAX_PART * target and total + sizes[name] <= target
        if fits and shared[name] <= MAX_SHARED:
            chosen.add(name)
            total += sizes[name]
    return chosen or {min(sizes, key=lambda name: (sizes[name], name))}


def hash_order(names: Iterable[str], seed: int) -> list[str]:
    """Return the names in a shuffled order that depends on the seed and the names alone."""
    return sorted(names, key=lambda name: hashlib.sha256(f"{seed}/{name}".encode()).digest())
