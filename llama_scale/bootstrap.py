"""The bootstrap: resamples drawn from a seed, and the percentile interval of what they give.

Efron 1979: what is computed from n items is computed again from many samples of n of them drawn
with replacement; the spread of the results is that of a repeated experiment.
"""

from typing import Literal

import numpy as np

RESAMPLES = 2_000
LEVEL = 0.95
TAIL = 0.025


def resample_indices(n: int, resamples: int, seed: int) -> np.ndarray:
    """Return the items of each resample, (resamples, n), drawn from 0 to n - 1 with replacement."""
    # Of three items a row may be [2, 0, 2]: ``values[indices]`` (resamples, n) are then the values
    # of all resamples, the third twice and the second not at all.
    return np.random.default_rng(seed).integers(n, size=(resamples, n))


def resample_counts(n: int, resamples: int, seed: int) -> np.ndarray:
    """Return how often each resample holds each item, (resamples, n); every row sums to n."""
    # As ``resample_indices`` where only the multiplicity matters: the indices [2, 0, 2] are the counts [1, 0, 2].
    return np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples)


def percentile_interval(
    sample: float | np.ndarray, tail: float = TAIL, method: Literal["linear", "inverted_cdf"] = "linear"
) -> tuple[np.ndarray, np.ndarray]:
    """Return the ends of the 95 % interval over the first axis of a sample (resamples, ...).

    ``tail`` is the share beyond each end. ``method`` is that of ``numpy.quantile``:
    "inverted_cdf" returns values of the sample, so infinite ones may stand in it.
    """
    low, high = np.quantile(sample, [tail, 1 - tail], axis=0, method=method)
    return low, high
