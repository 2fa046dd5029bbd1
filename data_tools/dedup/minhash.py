"""Word n-grams as 64-bit hashes, and signatures that agree as often as sets overlap.

Everything works on all the words of a batch at once. A word is a run of ``[A-Za-z_0-9]``.
"""

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise

import numpy as np

from llama_scale.splitmix import GOLDEN_GAMMA, mix

WEIGHTS = 1024  # bytes of a word that have weights of their own
IS_WORD = np.zeros(256, dtype=bool)
IS_WORD[np.frombuffer(b"0123456789_abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ", "u1")] = 1


def word_shingles(contents: Sequence[bytes], size: int) -> list[np.ndarray]:
    """Return the hash of every run of ``size`` words of each content, in order.

    Two hashes are equal when the words are, and otherwise with probability 2**-64 or so.

    Returns:
        For each content (n_words - size + 1,) uint64, or (0,) where it has fewer words.
    """
    data = np.frombuffer(b"\n".join(contents), dtype=np.uint8)  # (N,)
    hashes, starts = _word_hashes(data)  # (W,), (W,)
    ends = np.cumsum([len(content) + 1 for content in contents])
    bounds = [0, *np.searchsorted(starts, ends).tolist()]
    grams = np.zeros(max(0, len(hashes) - size + 1), dtype=np.uint64)
    for k, factor in enumerate(_constants(size, "gram")):
        grams += hashes[k : k + len(grams)] * factor
    grams = mix(grams)
    return [grams[begin : max(begin, end - size + 1)] for begin, end in pairwise(bounds)]


def _word_hashes(data: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a hash of each word of ``data`` (N,) uint8 and where it begins: (W,) and (W,)."""
    inside = IS_WORD[data]
    places = np.flatnonzero(inside)  # (n,)
    if not len(places):
        return np.empty(0, np.uint64), np.empty(0, np.int64)
    first = np.flatnonzero(np.diff(places, prepend=-2) != 1)  # (W,) into places
    starts = places[first]
    position = places - np.repeat(starts, np.diff(first, append=len(places)))
    terms = _constants(256, "byte")[data[places]]
    terms *= _constants(WEIGHTS, "place")[position & (WEIGHTS - 1)]
    return mix(np.add.reduceat(terms, first)), starts


@lru_cache(maxsize=8)
def _constants(count: int, name: str) -> np.ndarray:
    """Return (count,) odd uint64 that differ from name to name."""
    seed = np.frombuffer(name.ljust(8).encode(), dtype="<u8")  # (1,)
    steps = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(GOLDEN_GAMMA)
    return mix(steps + mix(seed)) | np.uint64(1)


def signature(shingles: np.ndarray, size: int) -> np.ndarray:
    """Return a MinHash signature: two sets agree in about their Jaccard's share of the places.

    One permutation, the hash itself, is cut into ``size`` ranges, of which each gives its least
    member; a range without members takes that of another, chosen by a fixed random order
    (optimal densification, Shrivastava 2017). So it costs one sort instead of ``size`` hashes.

    Args:
        shingles: (n,) uint64, sorted and distinct, n >= 1.
        size: P.

    Returns:
        (P,) uint64.
    """
    edges, donors = _ranges(size)
    first = np.searchsorted(shingles, edges)  # (P + 1,)
    filled = first[:-1] < first[1:]  # (P,)
    source = np.arange(size)
    empty = np.flatnonzero(~filled)
    if len(empty):
        choice = donors[empty]  # (E, P)
        source[empty] = choice[np.arange(len(empty)), np.argmax(filled[choice], axis=1)]
    return shingles[first[source]]


@lru_cache(maxsize=2)
def _ranges(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the ends of equal ranges (P + 1,) uint64, and each range's order of donors (P, P)."""
    edges = np.array([(i << 64) // size for i in range(size)] + [2**64 - 1], dtype=np.uint64)
    keys = mix(np.arange(size * size, dtype=np.uint64) * np.uint64(GOLDEN_GAMMA))
    return edges, np.argsort(keys.reshape(size, size), axis=1)


def band_keys(signature: np.ndarray, rows: int) -> np.ndarray:
    """Return one key for each band of ``rows`` places of a signature (P,): (P / rows,) uint64."""
    factors = _constants(len(signature), "band").reshape(-1, rows)
    return mix((signature.reshape(-1, rows) * factors).sum(axis=1, dtype=np.uint64))


def jaccard(a: np.ndarray, b: np.ndarray) -> float:
    """Return |a & b| / |a | b| of two sorted arrays of distinct values; 0 when both are empty."""
    if len(a) > len(b):
        a, b = b, a
    if not len(a):
        return 0.0
    found = b[np.minimum(np.searchsorted(b, a), len(b) - 1)] == a
    shared = int(np.count_nonzero(found))
    return shared / (len(a) + len(b) - shared)
