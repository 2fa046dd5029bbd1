"""Best-fit-decreasing packing: sequences of one length that cut no document that fits."""

from array import array
from collections.abc import Iterator

import numpy as np

from llama_scale.splitmix import GOLDEN_GAMMA, mix

Piece = tuple[int, int, int]  # document, its first token, tokens


def best_fit(lengths: np.ndarray, size: int, seed: int) -> tuple[int, Iterator[list[Piece]]]:
    """Pack documents into sequences of at most ``size`` tokens (arXiv 2404.10830).

    A document longer than ``size`` is cut into full sequences and a rest. Then the pieces, the
    longest first, go each where the least room is left that holds it. Which sequences have how
    much room is one big integer of bits, so the best one is found by a shift. Memory: about 60
    bytes a piece.

    Args:
        lengths: (D,) tokens of each document, at least 1.
        size: Tokens of a sequence.
        seed: Seed of the order of the sequences.

    Returns:
        The number of sequences, and the pieces of each.
    """
    lengths = np.asarray(lengths, dtype=np.int64)
    counts = -(-lengths // size)  # (D,) pieces of each document
    document = np.repeat(np.arange(len(lengths), dtype=np.int32), counts)  # (P,)
    start = np.arange(len(document)) - np.repeat(np.cumsum(counts) - counts, counts)
    start *= size
    tokens = np.minimum(size, lengths[document] - start).astype(np.int32)
    order = np.argsort(-tokens, kind="stable")
    owner = np.empty(len(order), dtype=np.int32)  # sequence of each piece, in that order
    with_room = [array("i") for _ in range(size + 1)]
    rooms = n_sequences = 0  # bit r of rooms: some sequence has room for exactly r tokens
    for place, piece in enumerate(order):
        need = int(tokens[piece])
        fitting = rooms >> need
        if fitting:
            room = need + (fitting & -fitting).bit_length() - 1
            number = with_room[room].pop()
            if not with_room[room]:
                rooms &= ~(1 << room)
        else:
            room, number = size, n_sequences
            n_sequences += 1
        owner[place] = number
        if left := room - need:
            with_room[left].append(number)
            rooms |= 1 << left
    steps = np.arange(n_sequences, dtype=np.uint64) * np.uint64(GOLDEN_GAMMA)
    turn = np.argsort(mix(steps + mix(np.array([seed], dtype=np.int64).view(np.uint64))))
    members = order[np.argsort(owner, kind="stable")]  # (P,) by sequence
    ends = np.cumsum(np.bincount(owner, minlength=n_sequences))
    return n_sequences, _sequences(turn, members, ends, np.stack([document, start, tokens]))


def _sequences(
    turn: np.ndarray, members: np.ndarray, ends: np.ndarray, pieces: np.ndarray
) -> Iterator[list[Piece]]:
    for number in turn.tolist():
        begin = int(ends[number - 1]) if number else 0
        yield [tuple(pieces[:, i].tolist()) for i in members[begin : ends[number]]]
