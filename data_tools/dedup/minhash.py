"""Word n-grams as 64-bit hashes, and signatures that agree as often as sets overlap.

Everything works on all the words of a batch at once. A word is a run of ``[A-Za-z_0-9]``.
"""

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise

import numpy as np

from llama_scale.splitmix import GOLDEN_GAMMA, mix

PLACE_WEIGHTS = 1024  # bytes of a word that have weights of their own
IS_WORD = np.zeros(256, dtype=bool)
IS_WORD[np.frombuffer(b"0123456789_abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ", "u1")] = 1


def word_shingles(contents: Sequence[bytes], size: int) -> list[np.ndarray]:
    """Return the hash of every run of ``size`` words of each content, in order.

    Two hashes are equal when the words are, and otherwise with probability 2**-64 or so.

    Returns:
        For each content (n_words - size + 1,) uint64, or (0,) where it has fewer words.
    """
    # The contents are joined, hashed as one text and cut again: bounds are the numbers of their
    # first words. A run of ``size`` words from one of the last size - 1 words of a content goes on
    # into the next content, so those are left out. With size 2, contents "a b c" and "d e":
    # words a b c d e, bounds 0 3 5, runs ab bc cd de; the first has ab and bc, the second de.
    data = np.frombuffer(b"\n".join(contents), dtype=np.uint8)  # (N,)
    hashes, starts = _word_hashes(data)  # (W,), (W,)
    ends = np.cumsum([len(content) + 1 for content in contents])
    bounds = [0, *np.searchsorted(starts, ends).tolist()]
    # A run's hash is a sum of its words' hashes, each times a constant of its place in the run, so
    # that order counts: size additions of whole arrays and no loop over words.
    grams = np.zeros(max(0, len(hashes) - size + 1), dtype=np.uint64)  # (W - size + 1,)
    for k, factor in enumerate(_constants(size, "gram")):
        grams += hashes[k : k + len(grams)] * factor
    grams = mix(grams)
    return [grams[begin : max(begin, end - size + 1)] for begin, end in pairwise(bounds)]


def _word_hashes(data: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a hash of each word of ``data`` (N,) uint8 and where it begins: (W,) and (W,)."""
    # A word begins where a word byte does not follow another one.
    #     data        i f   ( a b )
    #     word_bytes  0 1   4 5         their positions in data
    #     first       0     2           of which these begin words, as indices into word_bytes
    #     place       0 1   0 1         of each byte in its word
    # The hash is a sum over the word of (constant of the byte) * (constant of its place), mixed.
    word_bytes = np.flatnonzero(IS_WORD[data])  # (n,)
    if not len(word_bytes):
        return np.empty(0, np.uint64), np.empty(0, np.int64)
    first = np.flatnonzero(np.diff(word_bytes, prepend=-2) != 1)  # (W,)
    starts = word_bytes[first]
    place = word_bytes - np.repeat(starts, np.diff(first, append=len(word_bytes)))  # (n,)
    terms = _constants(256, "byte")[data[word_bytes]]
    terms *= _constants(PLACE_WEIGHTS, "place")[place & (PLACE_WEIGHTS - 1)]
    return mix(np.add.reduceat(terms, first)), starts


@lru_cache(maxsize=8)
def _constants(count: int, name: str) -> np.ndarray:
    """Return (count,) odd uint64 that differ from name to name."""
    seed = np.frombuffer(name.ljust(8).encode(), dtype="<u8")  # (1,)
    steps = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(GOLDEN_GAMMA)
    return mix(steps + mix(seed)) | np.uint64(1)


def minhash_signature(shingles: np.ndarray, size: int) -> np.ndarray:
    """Return a MinHash signature: two sets agree in about their Jaccard's share of the places.

    Why: the least hash of a set is the least of its union with another, too, as often as it lies in their intersection,
    which is their Jaccard index. ``size`` such trials estimate it. Plain MinHash takes ``size`` hash functions; here
    one hash, cut into ``size`` ranges, gives the least member of each range (one permutation hashing), so a sort does
    for all. A range without members takes that of another range, in a random order of its own that is the same for
    every set (optimal densification, Shrivastava 2017), so equal sets still agree everywhere.

    Example: 4 ranges of hashes 0 to 15, the set {1, 2, 9, 14}. Range 0 (0 to 3) gives 1, range 2
    gives 9, range 3 gives 14; range 1 is empty and its order says 3, 0, 2: it takes 14.

    Args:
        shingles: (n,) uint64, sorted and distinct, n >= 1.
        size: P.

    Returns:
        (P,) uint64.
    """
    edges, donor_orders = _ranges(size)
    first = np.searchsorted(shingles, edges)  # (P + 1,) index of the least member of each range
    filled = first[:-1] < first[1:]  # (P,)
    source = np.arange(size)  # (P,) the range whose member each place takes
    empty = np.flatnonzero(~filled)  # (E,)
    if len(empty):
        donors = donor_orders[empty]  # (E, P)
        first_filled = np.argmax(filled[donors], axis=1)  # (E,) the first True of each row
        source[empty] = donors[np.arange(len(empty)), first_filled]
    return shingles[first[source]]


@lru_cache(maxsize=2)
def _ranges(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the ends of equal ranges (P + 1,) uint64, and each range's order of donors (P, P)."""
    edges = np.array([(i << 64) // size for i in range(size)] + [2**64 - 1], dtype=np.uint64)
    keys = mix(np.arange(size * size, dtype=np.uint64) * np.uint64(GOLDEN_GAMMA))
    return edges, np.argsort(keys.reshape(size, size), axis=1)


def band_keys(signature: np.ndarray, rows: int) -> np.ndarray:
    """Return one key for each band of ``rows`` places of a signature (P,): (P / rows,) uint64.

    Two sets share a key where a whole band agrees. With Jaccard index J that is J^rows for one
    band, and 1 - (1 - J^rows)^bands for at least one: a step from rarely to nearly always.
    """
    factors = _constants(len(signature), "band").reshape(-1, rows)
    return mix((signature.reshape(-1, rows) * factors).sum(axis=1, dtype=np.uint64))


def jaccard(a: np.ndarray, b: np.ndarray) -> float:
    """Return |a & b| / |a | b| of two sorted arrays of distinct values; 0 when both are empty."""
    if len(a) > len(b):
        a, b = b, a
    if not len(a):
        return 0.0
    # Where each member of the smaller set would stand in the larger one; it is in both if it
    # stands there already. The end of b is no place, so it is cut down to the last.
    at = np.minimum(np.searchsorted(b, a), len(b) - 1)
    shared = int(np.count_nonzero(b[at] == a))
    return shared / (len(a) + len(b) - shared)
