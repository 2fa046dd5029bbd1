"""BLEU-4 (Papineni et al. 2002) on tokens; how zero counts are smoothed decides the number, so it is named with it.

=========== ====================================================================================================
add_one     1 added to matches and totals of orders above 1 (Lin and Och 2004): sacrebleu's add-k
codexglue   1 added at every order, as CodeXGLUE's evaluator of text-to-code does
epsilon     a zero among the matches is .1, as NLTK's method 1 and the CodeBLEU package do
none        no smoothing: no match at an order is 0
=========== ====================================================================================================
"""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Literal

Smoothing = Literal["add_one", "codexglue", "epsilon", "none"]
Tokens = Sequence[str]
ORDER = 4
EPSILON = 0.1


def ngrams(tokens: Tokens, order: int) -> Counter:
    """Count the runs of ``order`` tokens."""
    return Counter(zip(*(tokens[i:] for i in range(order)), strict=False))


def brevity_penalty(length: int, reference_length: int) -> float:
    """Return 1 for a text longer than its reference, e^(1 - r / c) for a shorter one, 0 for an empty one."""
    if length >= reference_length:
        return 1.0
    return math.exp(1 - reference_length / length) if length else 0.0


def smoothed(matches: float, total: float, order: int, smoothing: Smoothing) -> float:
    """Return the share of ``matches`` in ``total`` at an order, 1-based."""
    if smoothing == "codexglue" or (smoothing == "add_one" and order > 1):
        matches, total = matches + 1, total + 1
    if smoothing == "epsilon":
        matches, total = matches or EPSILON, max(1, total)
    return matches / total if total else 0.0


def bleu(references: Sequence[Tokens], candidates: Sequence[Tokens], smoothing: Smoothing = "add_one") -> float:
    """Return BLEU of texts beside one reference each, from 0 to 1: of one pair, or of a corpus as a whole.

    Counts are summed over the pairs before they are divided. The highest order is 4, or what the longest reference
    has, so that a short text that equals its reference has 1; nothing, and what shares no token with it, has 0.
    """
    order = ORDER if smoothing in ("codexglue", "epsilon") else min(ORDER, max(map(len, references), default=0))
    matches, totals = [0] * order, [0] * order
    for reference, candidate in zip(references, candidates, strict=True):
        for n in range(1, order + 1):
            counts = ngrams(candidate, n)
            matches[n - 1] += (counts & ngrams(reference, n)).total()
            totals[n - 1] += counts.total()
    if not matches or (matches[0] == 0 and smoothing != "codexglue"):
        return 0.0
    shares = [smoothed(m, t, n, smoothing) for n, (m, t) in enumerate(zip(matches, totals, strict=True), 1)]
    if not all(shares):
        return 0.0
    penalty = brevity_penalty(sum(map(len, candidates)), sum(map(len, references)))
    return penalty * math.exp(sum(map(math.log, shares)) / order)
