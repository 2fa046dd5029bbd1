"""What residuals and repeated runs say: trends that the law has not, and the noise of a run."""

from dataclasses import dataclass

import numpy as np
from scipy.stats import chi2, f

from llama_scale.bootstrap import TAIL

LEAST_P = 1e-3  # of a trend that is said
SAME_COUNT = 0.01  # relative difference below which two sizes, or two numbers of tokens or FLOPs, are one
CUT = 4.0  # standard deviations (by the median) at which an outlier's residual is cut
MEDIAN_TO_DEVIATION = 1.4826  # of a normal distribution
SPARE = 3  # degrees of freedom that a test must keep


@dataclass(frozen=True)
class Trend:
    """A trend of the residuals along x^2, x y and y^2 together, or along x y alone; x, y are ln N, ln D.

    ``p`` is the chance of one as large without any (F test), ``reach`` the largest share of a run's loss that it
    explains, in percent, and ``slope`` the coefficient of its first term.
    """

    p: float
    reach: float
    slope: float


@dataclass(frozen=True)
class Noise:
    """The scatter of runs of equal N, D and settings, in percent of the loss, with a 95 % interval."""

    percent: float
    low: float
    high: float
    groups: int  # of equal runs
    runs: int


def trends(residual: np.ndarray, gradient: np.ndarray, x: np.ndarray, y: np.ndarray) -> dict[str, Trend]:
    """Return the trends of residuals (n,) beyond what the law's own parameters can take up, of gradient (k, n).

    ``curvature`` is of the three second-order terms, ``interaction`` of x y alone; absent with too few runs. An outlier
    is cut first: the law was fitted so as not to follow it.
    """
    spread = MEDIAN_TO_DEVIATION * np.median(np.abs(residual - np.median(residual)))
    if not spread > 1e-9:
        return {}
    residual = np.clip(residual, -CUT * spread, CUT * spread)
    norms = np.linalg.norm(gradient, axis=1)
    own = (gradient[norms > 0] / norms[norms > 0, None]).T  # (n, k)
    # What the law's parameters do not take up of the second-order terms: the rest of their regression on ``own``.
    terms = np.stack([x * x, x * y, y * y], 1)  # (n, 3)
    beyond, rest = (z - own @ np.linalg.lstsq(own, z, rcond=1e-10)[0] for z in (terms / terms.std(0), residual))
    taken = np.linalg.matrix_rank(own, tol=1e-8)

    def trend(columns: np.ndarray) -> Trend | None:
        n, extra = columns.shape
        free = n - taken - extra
        # A design with as few sizes as the law has parameters for leaves nothing of a term.
        if free < SPARE or np.linalg.svd(columns, compute_uv=False)[-1] < 1e-3 * np.sqrt(n):
            return None
        slopes = np.linalg.lstsq(columns, rest, rcond=None)[0]
        explained = columns @ slopes
        variance = ((rest - explained) ** 2).sum() / free
        p = f.sf((explained**2).sum() / extra / variance, extra, free)
        return Trend(float(p), float(100 * np.abs(explained).max()), float(slopes[0]))

    found = {"curvature": trend(beyond), "interaction": trend(beyond[:, 1:2])}
    return {name: value for name, value in found.items() if value}


def near_values(values: np.ndarray, tolerance: float) -> list[np.ndarray]:
    """Return the indices of positive values (n,), ascending: those within a share of the least of them together."""
    groups, rest = [], np.argsort(values, kind="stable")
    while len(rest):
        near = values[rest] <= values[rest[0]] * (1 + tolerance)
        groups.append(rest[near])
        rest = rest[~near]
    return groups


def merged(values: np.ndarray, tolerance: float) -> np.ndarray:
    """Return positive values (n,) of which those that are near (``near_values``) are one, their median."""
    one = values.copy()
    for group in near_values(values, tolerance):
        one[group] = np.median(values[group])
    return one


def equal_runs(*columns: np.ndarray) -> list[np.ndarray]:
    """Return the indices of the runs that are equal in all columns (n,), for each such group of two or more."""
    _, which = np.unique(np.stack(columns, 1), axis=0, return_inverse=True)
    groups = [np.flatnonzero(which == i) for i in range(which.max() + 1)]
    return [group for group in groups if len(group) > 1]


def seed_noise(
    N: np.ndarray, D: np.ndarray, loss: np.ndarray, trunks: np.ndarray | None = None, settings: np.ndarray | None = None
) -> Noise | None:
    """Return the pooled scatter of log loss (n,) over runs of equal N, D and settings (n,); None where there are none.

    Of groups of 2 and 3 runs the squared deviations from their means are summed and divided by 1 + 2; the interval is
    that of a variance with as many degrees of freedom. Branches of a trunk (n,) err together: their degrees of freedom
    count as the trunks do, of 8 runs that are branches of 2 trunks a quarter.
    """
    groups = equal_runs(N, D) if settings is None else equal_runs(N, D, settings)
    free = sum(len(group) - 1 for group in groups)
    if not free:
        return None
    total = sum(((np.log(loss[g]) - np.log(loss[g]).mean()) ** 2).sum() for g in groups)
    members = np.concatenate(groups)
    runs, apart = len(members), len(members) if trunks is None else len(np.unique(trunks[members]))
    if not total:  # losses that were rounded until they are equal
        return None
    known = max(1.0, free * apart / runs)
    low, high = (100 * np.sqrt(total / free * known / chi2.ppf(tail, known)) for tail in (1 - TAIL, TAIL))
    return Noise(float(100 * np.sqrt(total / free)), float(low), float(high), len(groups), runs)
