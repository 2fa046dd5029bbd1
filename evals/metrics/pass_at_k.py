"""pass@k: the chance that at least one of k samples passes (Chen et al. 2021, 2107.03374)."""

from collections.abc import Sequence

import numpy as np

from llama_scale.bootstrap import LEVEL, RESAMPLES, percentile_interval, resample_indices
from llama_scale.errors import InputError

TAIL = (1 - LEVEL) / 2


def pass_at_k(n: int, c: int, k: int) -> float:
    """Unbiased estimate from ``c`` passes among ``n`` samples: 1 - C(n - c, k) / C(n, k).

    The fraction is the chance that k samples drawn without putting back are all among the n - c that failed. As a
    product over the passes, 1 - k / i for i from n - c + 1 to n, it needs no factorial: n = 4, c = 2, k = 2 is
    1 - (1 - 2/3)(1 - 2/4) = 5/6, as 1 of 6 pairs has no pass.
    """
    if not 1 <= k <= n or not 0 <= c <= n:
        raise InputError(f"pass@{k}: needs 1 <= k <= n and 0 <= c <= n, found n = {n}, c = {c}")
    return 1.0 if n - c < k else float(1.0 - np.prod(1.0 - k / np.arange(n - c + 1, n + 1)))


def interval(values: Sequence[float], weights: Sequence[float] | None = None, seed: int = 0) -> tuple[float, float]:
    """95 % percentile interval of the (weighted) mean of ``values``, one for each task.

    Bootstrapped over tasks, a sample of what could have been asked. Equal values give no width.
    """
    values = np.asarray(values, dtype=np.float64)
    weights = np.ones_like(values) if weights is None else np.asarray(weights, dtype=np.float64)
    draws = resample_indices(len(values), RESAMPLES, seed)  # (RESAMPLES, n)
    means = (values * weights)[draws].sum(1) / weights[draws].sum(1)  # (RESAMPLES,)
    low, high = percentile_interval(means, TAIL)
    return float(low), float(high)


def paired_difference(first: Sequence[float], second: Sequence[float]) -> tuple[float, tuple[float, float]]:
    """Mean of ``second`` - ``first`` over the same tasks, and its 95 % bootstrap interval."""
    if len(first) != len(second):
        raise InputError(f"compare: {len(first)} tasks beside {len(second)}; score the same tasks")
    gaps = np.subtract(second, first)
    return float(gaps.mean()), interval(gaps)
