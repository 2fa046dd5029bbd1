"""chrF (Popovic 2015): F2 of runs of 1 to 6 characters, white space kept, so that indentation counts."""

from collections.abc import Sequence

from evals.metrics.bleu import ngrams

ORDER = 6
BETA_SQUARED = 4  # of F2: recall weighs four times as much as precision


def chrf(references: Sequence[str], candidates: Sequence[str]) -> float:
    """Return chrF6 of texts beside one reference each, from 0 to 1: of one pair, or of a corpus as a whole.

    Precision and recall are averaged over the orders that both sides have. Equals sacrebleu's with ``whitespace=True``.
    """
    matches, found, wanted = [0] * ORDER, [0] * ORDER, [0] * ORDER
    for reference, candidate in zip(references, candidates, strict=True):
        for n in range(1, ORDER + 1):
            runs, expected = ngrams(candidate, n), ngrams(reference, n)
            matches[n - 1] += (runs & expected).total()
            found[n - 1] += runs.total() if expected else 0
            wanted[n - 1] += expected.total()
    orders = [(m, f, w) for m, f, w in zip(matches, found, wanted, strict=True) if f and w]
    if not orders:
        return 0.0
    precision = sum(m / f for m, f, _ in orders) / len(orders)
    recall = sum(m / w for m, _, w in orders) / len(orders)
    if not precision and not recall:
        return 0.0
    return (1 + BETA_SQUARED) * precision * recall / (BETA_SQUARED * precision + recall)
