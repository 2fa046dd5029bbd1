"""What more pairs buy: the loss of arms that differ by their number alone as a power law, and where syntax recovers.

The published claims are that scaling laws do not apply to code, and that syntax gets worse with more samples until
there are enough of them to escape the trap. Both are read off the arms of one budget here.
"""

import numpy as np

from llama_scale.bootstrap import percentile_interval
from llama_scale.comparison import bootstrap_means
from llama_scale.scaling.study.finetune.comparison import Family, SizeCurve

MOST_BETA, STEP = 3.0, 0.01
MIN_SIZES = 4  # any curve through three is a power law


def size_curve(
    family: Family, sizes: dict[str, int], rows: dict[str, np.ndarray], paired: bool, seed: int
) -> SizeCurve:
    """Return what the arms of a ``family`` say of the number of pairs.

    Args:
        family: Each arm but the smallest compared with it.
        sizes: Pairs of each arm, ascending.
        rows: Bits per byte of each arm (runs, tasks).
        paired: Whether row i of each is of the same draw.
        seed: Of the resamples.
    """
    n = np.array(list(sizes.values()), dtype=float)
    loss = [float(rows[name].mean()) for name in sizes]
    floor = scale = beta = low = high = None
    if len(n) >= MIN_SIZES:
        floor, scale, beta = power_laws(n, np.array([loss]))[0].tolist()
        drawn = power_laws(n, bootstrap_means([rows[name] for name in sizes], paired, seed))[:, 2]  # (RESAMPLES,)
        ends = [float(end) for end in percentile_interval(drawn, method="inverted_cdf")]
        low, high = (end if 1.5 * STEP < end < MOST_BETA - STEP else None for end in ends)
    parses = sorted(family.of("parses"), key=lambda one: sizes[one.arm])
    above = [sizes[one.arm] for i, one in enumerate(parses) if all(later.low > 0 for later in parses[i:])]
    worse = [sizes[one.arm] for one in parses if one.down] if parses else None
    return SizeCurve(
        key=family.key,
        arms=list(sizes),
        sizes=list(sizes.values()),
        loss=loss,
        floor=floor,
        scale=scale,
        beta=beta,
        beta_low=low,
        beta_high=high,
        worse=worse,
        above=above[0] if above else None,
    )


def power_laws(n: np.ndarray, loss: np.ndarray) -> np.ndarray:
    """Return (floor, scale, beta) of loss = floor + scale n^-beta by least squares, (S, 3), for losses (S, sizes).

    For a given beta this is a line in n^-beta, so beta alone is searched, from 0 to ``MOST_BETA``. A scale below 0,
    where more pairs are worse, is a beta of 0: no gain.
    """
    betas = np.arange(STEP, MOST_BETA + STEP / 2, STEP)  # (B,)
    x = n[None, :] ** -betas[:, None]  # (B, sizes)
    x -= x.mean(1, keepdims=True)
    y = loss - loss.mean(1, keepdims=True)  # (S, sizes)
    # Slope of each loss on each x: sum over sizes of x y over sum of x^2, (S, B).
    slope = np.maximum(y @ x.T / (x**2).sum(1), 0.0)
    # What is left: sum y^2 - slope^2 sum x^2, as the slope is that of least squares or 0.
    rest = (y**2).sum(1, keepdims=True) - slope**2 * (x**2).sum(1)
    best = rest.argmin(1)  # (S,)
    scale = slope[np.arange(len(y)), best]
    beta = np.where(scale > 0, betas[best], 0.0)
    floor = loss.mean(1) - scale * (n[None, :] ** -betas[best][:, None]).mean(1)
    return np.stack([floor, scale, beta], axis=1)
