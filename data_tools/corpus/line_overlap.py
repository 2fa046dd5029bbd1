"""How many lines each package shares with others: forks and copies under another name.

None of their files need be an exact duplicate. Lines are compared by a hash of 32 bits, which the
filter step leaves in lines.bin, one after another, with the number of each document's in lines.npy.
"""

import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data_tools.corpus.records import read_array
from llama_scale.files import open_file

LINES = "lines.bin"  # uint32
LENGTHS = "lines.npy"  # lines of each kept document
MIN_LINE_BYTES = 30  # a shorter line is shared by chance
RANGE_LINES = 1 << 18  # compared at a time
BLOCK_DOCUMENTS = 4096  # read at a time


def line_hashes(content: bytes) -> np.ndarray:
    """Return the CRC-32 of each line of MIN_LINE_BYTES or more, indentation aside: (n,) uint32."""
    lines = [line.strip() for line in content.split(b"\n") if len(line) >= MIN_LINE_BYTES]
    hashes = [zlib.crc32(line) for line in lines if len(line) >= MIN_LINE_BYTES]
    return np.array(hashes, dtype=np.uint32)


def shared_line_share(folder: Path, owners: np.ndarray, positions: np.ndarray, n_packages: int) -> np.ndarray:
    """Return the share of each package's distinct lines that another one has as well: (P,) float64.

    Args:
        folder: Where lines.bin and lines.npy are.
        owners: (n,) package number of each document.
        positions: (n,) their positions among the K documents that the filters kept.
        n_packages: P.
    """
    lengths = read_array(folder / LENGTHS)  # (K,)
    package = np.full(len(lengths), -1, dtype=np.int32)  # (K,) -1: dropped since
    package[positions] = owners
    # Equal lines have equal hashes, so they fall into the same range of hashes, and the counts of
    # the ranges add up. With 2 ranges: all hashes below 2**31 first, the others in a second pass.
    # Memory is that of one range; the file is read once for each.
    n_ranges = -(-int(lengths.sum()) // RANGE_LINES)
    counts = np.zeros((2, n_packages))  # shared lines, distinct lines
    for number in range(n_ranges):
        owners_here, hashes_here = [np.empty(0, np.int32)], [np.empty(0, np.uint32)]
        for owner, hashes in _blocks(folder / LINES, package, lengths):
            # hash * n_ranges / 2**32, rounded down, is the number of its range.
            inside = hashes.astype(np.uint64) * np.uint64(n_ranges) >> np.uint64(32) == number
            inside &= owner >= 0
            owners_here.append(owner[inside])
            hashes_here.append(hashes[inside])
        counts += count_shared_lines(np.concatenate(owners_here), np.concatenate(hashes_here), n_packages)
    return counts[0] / np.maximum(counts[1], 1)


def count_shared_lines(owners: np.ndarray, hashes: np.ndarray, n_packages: int) -> np.ndarray:
    """Return how many distinct lines of each package another one has as well, and how many it has: (2, P) float64.

    Args:
        owners: (n,) package of each line, from 0 to n_packages - 1.
        hashes: (n,) uint32 hash of each line.
        n_packages: P.
    """
    # (hash, package) as one number, hash in the upper half: np.unique then leaves each line once
    # for each package, and a hash that is still there twice belongs to two packages.
    # Lines (7, A) (7, A) (7, B) (9, B) -> (7, A) (7, B) (9, B): 7 is shared, so A 1 of 1, B 1 of 2.
    pairs = np.unique(hashes.astype(np.uint64) << np.uint64(32) | owners.astype(np.uint64))
    lines, packages = pairs >> np.uint64(32), (pairs & np.uint64(0xFFFFFFFF)).astype(np.int64)
    _, line, packages_of_line = np.unique(lines, return_inverse=True, return_counts=True)
    shared = np.bincount(packages, weights=packages_of_line[line] > 1, minlength=n_packages)
    return np.stack([shared, np.bincount(packages, minlength=n_packages)])


def _blocks(path: Path, package: np.ndarray, lengths: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the package of each line, -1 for none, and its hash, some documents at a time."""
    with open_file(path) as file:
        for start in range(0, len(lengths), BLOCK_DOCUMENTS):
            counts = lengths[start : start + BLOCK_DOCUMENTS]
            hashes = np.frombuffer(file.read(4 * int(counts.sum())), dtype=np.uint32)
            yield np.repeat(package[start : start + BLOCK_DOCUMENTS], counts), hashes
