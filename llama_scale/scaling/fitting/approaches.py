"""The other ways to read a study: power laws of one quantity, envelope and IsoFLOP parabolas.

Kaplan et al. 2020 (arXiv 2001.08361) fit loss as a power of size, data or compute alone. Hoffmann
et al. 2022 (arXiv 2203.15556) find the exponent of the compute-optimal size from the lower
envelope of all runs (approach 1) and from parabolas at equal compute (approach 2), beside the
surface (approach 3, fit.py). Where they disagree, the study does not yet know the exponent.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from llama_scale.scaling.fitting.fit import estimate
from llama_scale.scaling.fitting.points import Points

SAME_COMPUTE = 0.05
LEAST_SIZES = 4
LEAST = 3
RESAMPLES = 1_000


@dataclass(frozen=True)
class Power:
    """y = exp(level) x^slope, with the resampled slopes (S,) and what it was fitted to (n,)."""

    slope: float
    level: float
    sample: np.ndarray
    x: np.ndarray
    y: np.ndarray

    @property
    def r2(self) -> float:
        """Share of the variance of ln y that the line explains."""
        rest = np.log(self.y) - self.level - self.slope * np.log(self.x)
        return float(1 - rest.var() / np.log(self.y).var())

    def estimate(self, change: Callable[[np.ndarray], np.ndarray] = np.asarray) -> dict[str, float]:
        """Return the slope (or a falling or rising function of it) with its 95 % interval."""
        return estimate(float(change(self.slope)), change(self.sample))


@dataclass(frozen=True)
class Parabola:
    """Runs of equal compute C and the parabola loss = c0 + c1 z + c2 z^2 in z = ln N - ln centre.

    ``index`` are the runs, ``N``, ``D`` and ``loss`` the minimum; ``inside`` says whether it is one
    and lies within the sizes tried.
    """

    C: float
    index: np.ndarray
    coefficients: np.ndarray
    centre: float
    N: float
    D: float
    loss: float
    inside: bool


def front(x: np.ndarray, loss: np.ndarray) -> np.ndarray:
    """Return the indices of the runs that no run of equal or smaller ``x`` beats, by x."""
    order = np.lexsort((loss, x))
    best = np.minimum.accumulate(loss[order])
    first = np.append(True, best[1:] < best[:-1])
    return order[first]


def line(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Return slope and level of ln y against ln x by least squares; NaN with fewer than 3 x."""
    if len(np.unique(x)) < LEAST:
        return np.nan, np.nan
    slope, level = np.polyfit(np.log(x), np.log(y), 1)
    return float(slope), float(level)


def _power(
    x: np.ndarray, loss: np.ndarray, y: np.ndarray, seed: int, resamples: int
) -> Power | None:
    """Return the power law of ``y`` along the front of ``loss`` over ``x``, runs resampled."""
    index = front(x, loss)
    slope, level = line(x[index], y[index])
    if not np.isfinite(slope):
        return None
    rng, sample = np.random.default_rng(seed), []
    for _ in range(resamples):
        drawn = rng.integers(len(x), size=len(x))
        own = drawn[front(x[drawn], loss[drawn])]
        sample.append(line(x[own], y[own])[0])
    sample = np.array(sample)
    return Power(slope, level, sample[np.isfinite(sample)], x[index], y[index])


def single(points: Points, seed: int = 0, resamples: int = RESAMPLES) -> dict[str, Power]:
    """Return loss as a power of N, of D and of compute, each along the best runs."""
    columns = {"N": points.N, "D": points.D, "C": points.compute}  # (n,)
    found = {
        name: _power(x, points.loss, points.loss, seed, resamples) for name, x in columns.items()
    }
    return {name: law for name, law in found.items() if law}


def envelope(
    points: Points, C: np.ndarray, seed: int = 0, resamples: int = RESAMPLES
) -> Power | None:
    """Return N of the best runs as a power of their compute (approach 1); None where under 3."""
    level = C.copy()
    for index in budgets(C):
        level[index] = np.exp(np.log(C[index]).mean())
    return _power(level, points.loss, points.N, seed, resamples)


def budgets(C: np.ndarray) -> list[np.ndarray]:
    """Return the indices of the runs by compute, those within 5 % of the least together."""
    groups: list[list[int]] = []
    for i in np.argsort(C, kind="stable"):
        if groups and C[i] <= C[groups[-1][0]] * (1 + SAME_COMPUTE):
            groups[-1].append(i)
        else:
            groups.append([i])
    return [np.array(group) for group in groups]


def isoflops(points: Points, C: np.ndarray) -> list[Parabola]:
    """Return a parabola for each group of at least four sizes within 5 % of equal compute."""
    found = [g for g in budgets(C) if len(np.unique(points.N[g])) >= LEAST_SIZES]
    return [_parabola(points, C, index, points.loss[index]) for index in found]


def _parabola(points: Points, C: np.ndarray, index: np.ndarray, loss: np.ndarray) -> Parabola:
    N, budget = points.N[index], float(np.exp(np.log(C[index]).mean()))
    centre = float(np.exp(np.log(N).mean()))
    z = np.log(N / centre)
    c2, c1, c0 = np.polyfit(z, loss, 2)
    best = -c1 / (2 * c2)
    inside = bool(c2 > 0 and z.min() <= best <= z.max())
    size = float(centre * np.exp(best)) if inside else np.nan
    # Tokens on the line of equal compute at that size, from the runs beside it.
    order = np.argsort(N)
    data = np.exp(np.interp(np.log(size), np.log(N[order]), np.log(points.D[index][order])))
    least = c0 + c1 * best + c2 * best**2
    return Parabola(budget, index, np.array([c0, c1, c2]), centre, size, data, least, inside)


def isoflop(
    points: Points,
    C: np.ndarray,
    parabolas: list[Parabola],
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Power | None:
    """Return N of the parabolas' minima as a power of compute (approach 2); None where under 3.

    Intervals draw the residuals of all parabolas anew, enlarged for the three coefficients that
    each of them took.
    """
    inside = [p for p in parabolas if p.inside]
    if len(inside) < LEAST:
        return None
    fitted = [
        np.polyval(p.coefficients[::-1], np.log(points.N[p.index] / p.centre)) for p in inside
    ]
    spare = [
        (points.loss[p.index] / f - 1) * np.sqrt(len(f) / max(len(f) - 3, 1))
        for p, f in zip(inside, fitted, strict=True)
    ]
    pool, rng = np.concatenate(spare), np.random.default_rng(seed)

    def slope() -> float:
        again = [
            _parabola(points, C, p.index, f * (1 + rng.choice(pool, len(f))))
            for p, f in zip(inside, fitted, strict=True)
        ]
        kept = [p for p in again if p.inside]
        return line(np.array([p.C for p in kept]), np.array([p.N for p in kept]))[0]

    x, y = np.array([p.C for p in inside]), np.array([p.N for p in inside])
    sample = np.array([slope() for _ in range(resamples)])
    return Power(*line(x, y), sample[np.isfinite(sample)], x, y)
