"""Texts aligned token by token: ROUGE-L by the longest common subsequence, and edit distance."""

from collections.abc import Sequence

Tokens = Sequence[str]


def common_length(first: Tokens, second: Tokens) -> int:
    """Return the length of the longest common subsequence, in |first| x |second| steps and |second| memory."""
    row = [0] * (len(second) + 1)
    for a in first:
        diagonal = 0
        for j, b in enumerate(second, start=1):
            diagonal, row[j] = row[j], diagonal + 1 if a == b else max(row[j], row[j - 1])
    return row[-1]


def rouge_l(reference: Tokens, candidate: Tokens) -> float:
    """Return the F1 of ROUGE-L (Lin 2004): the common subsequence as a share of both texts; 0 where one is empty."""
    common = common_length(reference, candidate)
    return 2 * common / (len(reference) + len(candidate)) if common else 0.0


def edit_distance(first: Tokens, second: Tokens) -> int:
    """Return the least number of tokens put in, taken out or replaced (Levenshtein 1966)."""
    row = list(range(len(second) + 1))
    for i, a in enumerate(first, start=1):
        diagonal, row[0] = row[0], i
        for j, b in enumerate(second, start=1):
            diagonal, row[j] = row[j], min(diagonal + (a != b), row[j] + 1, row[j - 1] + 1)
    return row[-1]


def edit_similarity(reference: Tokens, candidate: Tokens) -> float:
    """Return 1 - distance / length of the longer text; 0 for an empty candidate."""
    return 1 - edit_distance(reference, candidate) / max(len(reference), len(candidate)) if candidate else 0.0
