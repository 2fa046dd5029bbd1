"""The other ways to read a study: power laws of one quantity, envelope and IsoFLOP parabolas.

Kaplan et al. 2020 (arXiv 2001.08361) fit loss as a power of size, data or compute alone. Hoffmann
et al. 2022 (arXiv 2203.15556) find the exponent of the compute-optimal size from the lower
envelope of all runs (approach 1) and from parabolas at equal compute (approach 2), beside the
surface (approach 3, fit.py). Where they disagree, the study does not yet know the exponent.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from llama_scale.bootstrap import resample_indices
from llama_scale.scaling.fitting.chinchilla import Numbers
from llama_scale.scaling.fitting.fitted_laws import Estimate, IsoflopParabola
from llama_scale.scaling.fitting.points import Points
from llama_scale.scaling.fitting.residuals import near_values

SAME_COMPUTE = 0.05
NEAR_MINIMUM = 4.0  # times the size of a budget's best run, up or down, that a parabola reaches
MIN_SIZES, MIN_POINTS = 4, 3
MOST_LOST = 0.05  # share of the resamples
RESAMPLES = 1_000


@dataclass(frozen=True)
class PowerFit:
    """y = exp(level) x^slope, with the resampled slopes (S,) and what it was fitted to (n,).

    ``lost`` is the share of resamples that had too few different x for a slope.
    """

    slope: float
    level: float
    sample: np.ndarray
    x: np.ndarray
    y: np.ndarray
    lost: float

    @property
    def settled(self) -> bool:
        """Whether so few resamples had no slope that those of the others show its interval."""
        return self.lost <= MOST_LOST

    @property
    def r2(self) -> float:
        """Share of the variance of ln y that the line explains."""
        rest = np.log(self.y) - self.level - self.slope * np.log(self.x)
        return float(1 - rest.var() / np.log(self.y).var())

    def estimate(self, change: Callable[[Numbers], Numbers] = np.asarray) -> Estimate:
        """Return the slope (or a falling or rising function of it) with its 95 % interval."""
        return Estimate.of(change(self.slope), change(self.sample))


def pareto_front(x: np.ndarray, loss: np.ndarray) -> np.ndarray:
    """Return the indices of the runs that no run of equal or smaller ``x`` beats, by x."""
    # By x, ties by loss. Of losses (5, 3, 4, 1) in that order the running least is (5, 3, 3, 1):
    # a run is on the front where it falls, here the first, second and fourth.
    order = np.lexsort((loss, x))
    best = np.minimum.accumulate(loss[order])
    first = np.append(True, best[1:] < best[:-1])
    return order[first]


def log_log_line(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Return slope and level of ln y against ln x by least squares; NaN with fewer than 3 x."""
    if len(np.unique(x)) < MIN_POINTS:
        return np.nan, np.nan
    slope, level = np.polyfit(np.log(x), np.log(y), 1)
    return float(slope), float(level)


def front_law(x: np.ndarray, loss: np.ndarray, y: np.ndarray, seed: int) -> PowerFit | None:
    """Return the power law of ``y`` along the front of ``loss`` over ``x``, runs resampled; None where under 3."""
    index = pareto_front(x, loss)
    slope, level = log_log_line(x[index], y[index])
    if not np.isfinite(slope):
        return None
    sample = []
    for drawn in resample_indices(len(x), RESAMPLES, seed):  # (n,)
        own = drawn[pareto_front(x[drawn], loss[drawn])]
        sample.append(log_log_line(x[own], y[own])[0])
    return _power_fit(slope, level, np.array(sample), x[index], y[index])


def envelope_law(points: Points, C: np.ndarray, seed: int) -> PowerFit | None:
    """Return N of the best runs as a power of their compute (approach 1); None where under 3."""
    level = C.copy()
    for index in group_by_compute(C):
        level[index] = np.exp(np.log(C[index]).mean())
    return front_law(level, points.loss, points.N, seed)


def group_by_compute(C: np.ndarray) -> list[np.ndarray]:
    """Return the indices of the runs by compute, those within 5 % of the least together."""
    return near_values(C, SAME_COMPUTE)


def isoflop_parabolas(points: Points, C: np.ndarray) -> list[IsoflopParabola]:
    """Return a parabola through the runs near the best of each group of four sizes or more at equal compute (5 %)."""
    groups = [g for g in group_by_compute(C) if len(np.unique(points.N[g])) >= MIN_SIZES]
    return [_parabola(points, C, index, points.loss[index]) for index in groups]


def near_minimum(N: np.ndarray, loss: np.ndarray) -> np.ndarray:
    """Return which runs (n,) of one budget a parabola is drawn through, at least those of the four nearest sizes.

    The loss along a budget, E + a N^-alpha + b N^beta, is a parabola in ln N near its minimum only: through runs far
    away, where the steeper side weighs most, its minimum moves with the range of sizes that were tried. Taken are the
    sizes within a factor of four of the vertex of the parabola through the best size and its neighbors.
    """
    x = np.log(N)
    sizes, which = np.unique(x, return_inverse=True)
    mean = np.bincount(which, loss) / np.bincount(which)
    i = int(np.clip(mean.argmin(), 1, len(sizes) - 2))
    three = slice(i - 1, i + 2)
    c2, c1, _ = np.polyfit(sizes[three] - sizes[i], mean[three], 2)
    vertex = (
        sizes[i] + float(np.clip(-c1 / (2 * c2), sizes[i - 1] - sizes[i], sizes[i + 1] - sizes[i]))
        if c2 > 0
        else (sizes[mean.argmin()])
    )
    far = np.sort(np.abs(sizes - vertex))[MIN_SIZES - 1]
    return np.abs(x - vertex) <= max(np.log(NEAR_MINIMUM), far) * (1 + 1e-9)


def _parabola(
    points: Points, C: np.ndarray, index: np.ndarray, loss: np.ndarray, near: np.ndarray | None = None
) -> IsoflopParabola:
    """Return the parabola of the runs at ``index`` (n,) with losses (n,); ``near`` (n,) are those to take of them."""
    near = near_minimum(points.N[index], loss) if near is None else near
    index, loss = index[near], loss[near]
    N, rows = points.N[index], points.row_numbers[index].tolist()
    budget, center = (float(np.exp(np.log(x).mean())) for x in (C[index], N))
    z = np.log(N / center)
    c2, c1, c0 = np.polyfit(z, loss, 2)
    best = -c1 / (2 * c2)
    inside = bool(c2 > 0 and z.min() <= best <= z.max())
    size = float(center * np.exp(best)) if inside else np.nan
    # Tokens on the line of equal compute at that size, from the runs beside it.
    order = np.argsort(N)
    data = np.exp(np.interp(np.log(size), np.log(N[order]), np.log(points.D[index][order])))
    least = c0 + c1 * best + c2 * best**2
    return IsoflopParabola(budget, rows, [c0, c1, c2], center, size, data, least, inside)


def isoflop_law(
    points: Points, C: np.ndarray, parabolas: list[IsoflopParabola], seed: int = 0, resamples: int = RESAMPLES
) -> PowerFit | None:
    """Return N of the parabolas' minima as a power of compute (approach 2); None where under 3."""
    # Intervals draw the residuals of all parabolas anew, enlarged for the three coefficients that each of them took.
    inside = [p for p in parabolas if p.inside]
    if len(inside) < MIN_POINTS:
        return None
    groups, pool, rng = [], [], np.random.default_rng(seed)
    for parabola in inside:
        index = np.searchsorted(points.row_numbers, parabola.rows)  # row numbers rise
        fitted = np.polyval(parabola.coefficients[::-1], np.log(points.N[index] / parabola.center))
        groups.append((index, fitted))
        # Relative residuals, n of a parabola with n - 3 degrees of freedom: enlarged as s^2 is.
        pool.extend((points.loss[index] / fitted - 1) * np.sqrt(len(index) / max(len(index) - 3, 1)))

    def minima(parabolas: list[IsoflopParabola]) -> tuple[np.ndarray, np.ndarray]:
        inside = [p for p in parabolas if p.inside]
        return np.array([p.C for p in inside]), np.array([p.N for p in inside])

    sample = []
    for _ in range(resamples):
        noisy = [
            _parabola(points, C, i, fitted * (1 + rng.choice(pool, len(i))), np.ones(len(i), dtype=bool))
            for i, fitted in groups
        ]
        sample.append(log_log_line(*minima(noisy))[0])
    x, y = minima(inside)
    return _power_fit(*log_log_line(x, y), np.array(sample), x, y)


def _power_fit(slope: float, level: float, sample: np.ndarray, x: np.ndarray, y: np.ndarray) -> PowerFit:
    """Return a ``PowerFit`` of resampled slopes (S,), of which those without one are NaN."""
    known = np.isfinite(sample)
    return PowerFit(slope, level, sample[known], x, y, float(1 - known.mean()) if len(known) else 1.0)
