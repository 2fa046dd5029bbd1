"""Best-fit-decreasing packing: sequences of one length that cut no document that fits."""

from array import array
from collections.abc import Iterator

import numpy as np

from llama_scale.splitmix import GOLDEN_GAMMA, mix

Piece = tuple[int, int, int]  # document, its first token, tokens


def best_fit(lengths: np.ndarray, size: int, seed: int) -> tuple[int, Iterator[list[Piece]]]:
    """Pack documents into sequences of at most ``size`` tokens (arXiv 2404.10830).

    A document longer than ``size`` is cut into full sequences and a rest. Then the pieces, the longest first, go each
    where the least room is left that holds it. Memory: about 60 bytes a piece.

    Example with size 10: documents of 13, 6, 4 and 3 tokens are pieces 10 and 3, 6, 4 and 3. The 10 fills sequence 0; 6
    begins sequence 1, where 4 fits exactly; 3 begins sequence 2, and the other 3 joins it.

    Args:
        lengths: (D,) tokens of each document, at least 1.
        size: Tokens of a sequence.
        seed: Seed of the order of the sequences.

    Returns:
        The number of sequences, and the pieces of each.
    """
    lengths = np.asarray(lengths, dtype=np.int64)
    # The pieces of all documents, in order: lengths 13 and 6 at size 10 are documents 0 0 1, starts
    # 0 10 0 and tokens 10 3 6. A start is size times the piece's number in its document.
    counts = -(-lengths // size)  # (D,) pieces of each document
    document = np.repeat(np.arange(len(lengths), dtype=np.int32), counts)  # (P,)
    start = np.arange(len(document)) - np.repeat(np.cumsum(counts) - counts, counts)  # (P,)
    start *= size
    tokens = np.minimum(size, lengths[document] - start).astype(np.int32)  # (P,)
    order = np.argsort(-tokens, kind="stable")
    owner = np.empty(len(order), dtype=np.int32)  # (P,) sequence of each piece, in that order
    # Bit r of the integer rooms says that some sequence has room for exactly r tokens, and
    # with_room[r] lists those. Shifted right by what a piece needs, the lowest bit is the tightest
    # fit: rooms 0b101000 (3 and 5) and need 2 give 0b1010, lowest bit 1, so room 2 + 1 = 3.
    with_room = [array("i") for _ in range(size + 1)]
    rooms = n_sequences = 0
    for i, piece in enumerate(order):
        need = int(tokens[piece])
        fitting = rooms >> need
        if fitting:
            room = need + (fitting & -fitting).bit_length() - 1
            sequence = with_room[room].pop()
            if not with_room[room]:
                rooms &= ~(1 << room)
        else:
            room, sequence = size, n_sequences
            n_sequences += 1
        owner[i] = sequence
        if remaining := room - need:
            with_room[remaining].append(sequence)
            rooms |= 1 << remaining
    # Full sequences of long documents would come first: the order is shuffled by a hash of (seed, number).
    steps = np.arange(n_sequences, dtype=np.uint64) * np.uint64(GOLDEN_GAMMA)
    shuffled = np.argsort(mix(steps + mix(np.array([seed], dtype=np.int64).view(np.uint64))))
    members = order[np.argsort(owner, kind="stable")]  # (P,) by sequence
    ends = np.cumsum(np.bincount(owner, minlength=n_sequences))  # (n_sequences,)
    return n_sequences, _sequences(shuffled, members, ends, np.stack([document, start, tokens]))


def _sequences(order: np.ndarray, members: np.ndarray, ends: np.ndarray, pieces: np.ndarray) -> Iterator[list[Piece]]:
    """Yield the pieces of each sequence in ``order``: members[ends[s - 1] : ends[s]], from 0 for the first."""
    for number in order.tolist():
        begin = int(ends[number - 1]) if number else 0
        yield [tuple(pieces[:, i].tolist()) for i in members[begin : ends[number]]]
