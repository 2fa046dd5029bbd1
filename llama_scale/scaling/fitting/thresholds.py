"""The smallest model, and the least compute, at which a score passes a level."""

from typing import Any

import numpy as np

from llama_scale.scaling.fitting.chinchilla import Flops
from llama_scale.scaling.fitting.downstream import Link, falls, fit_links, scores
from llama_scale.scaling.fitting.fit import Fit

FURTHEST = 100.0
RATES = {"parse_rate": (0.5, 0.9), "pass_at": (0.01, 0.1, 0.5)}
STEPS = 121
NOT_REACHED, AT_OR_BELOW = "not reached", "at or below"


def thresholds(fit: Fit, flops: Flops) -> tuple[list[dict[str, Any]], dict[str, list[Link]]]:
    """Return the table of thresholds, and the links of every column of scores.

    Each level has the smallest run that reached it and, where a link is known, the compute at
    which the compute-optimal model is expected to, with a 95 % interval from resampled laws and
    links. Beyond a hundred times the largest run an end of the interval is None: not reached. At a
    hundredth of the least compute it is a bound, at or below which the level is passed; ``at_most``
    names those of ``value``, ``low`` and ``high``.
    """
    rows, links = [], {}
    for column in dict.fromkeys([fit.points.columns["loss"], *scores(fit.points)]):
        found, reason = fit_links(fit.points, column, fit.seed)
        links[column] = found
        for level in levels(fit, column):
            row = {"score": column, "level": level, "measured": _measured(fit, column, level)}
            best = _expected(fit, flops, found[0], level) if found else {"reason": reason}
            rows.append(row | best)
    return rows, links


def levels(fit: Fit, column: str) -> list[float]:
    """Return the levels of a column: set ones for rates, round ones near the best for bits."""
    for kind, values in RATES.items():
        if kind in column:
            return list(values)
    best = float(np.nanmin(fit.points.numeric(column)))
    return [float(f"{share * best:.2g}") for share in (1.2, 1.0, 0.8)]


def _measured(fit: Fit, column: str, level: float) -> dict[str, Any] | None:
    points, score = fit.points, fit.points.numeric(column)
    passed = score <= level if falls(points, column) else score >= level
    reached = np.flatnonzero(passed)
    if not len(reached):
        return None
    i = reached[np.lexsort((points.compute[reached], points.N[reached]))[0]]
    cheapest = reached[points.compute[reached].argmin()]
    return {
        "run": points.label(i),
        "N": points.N[i],
        "D": points.D[i],
        "C": points.compute[i],
        "least_compute": points.compute[cheapest],
    }


def _expected(fit: Fit, flops: Flops, link: Link, level: float) -> dict[str, Any]:
    """Return the compute and the size where the frontier's loss is the level's, with intervals."""
    points = fit.points
    compute = 6 * points.N * points.D if flops.name == "6ND" else points.compute
    C = np.geomspace(compute.min() / FURTHEST, compute.max() * FURTHEST, STEPS)
    wanted, several = link.loss(level), link.loss(level, sample=True)
    N, D = fit.law.optimum(C, flops)
    value = _cross(C, fit.law.loss(N, D)[None], np.atleast_1d(wanted))[0]
    sample_N, sample_D = fit.resampled.optimum(C, flops)  # (S, n)
    sample_loss = fit.resampled.loss(sample_N, sample_D)
    paired = np.resize(several, len(sample_loss))
    budget = _cross(C, sample_loss, paired)  # (S,)
    sizes = np.array([_size(c, C, n) for c, n in zip(budget, sample_N, strict=True)])
    reducible = wanted - fit.law.E
    floor = (fit.law.A / reducible) ** (1 / fit.law.alpha) if reducible > 0 else np.inf
    return {
        "link": link.name,
        "loss": wanted,
        "C": _ends(value, budget, C[0]),
        "N": _ends(_size(value, C, N), sizes, N[0]),
        "least_N": floor,
        "beyond": max(value, C[0]) / compute.max(),
        "status": {0: AT_OR_BELOW, np.inf: NOT_REACHED}.get(value, ""),
    }


def _cross(C: np.ndarray, loss: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return where each falling curve of ``loss`` (S, n) over C (n,) meets ``wanted`` (S,).

    0 stands for a curve that lies below from the first C on, infinity for one that does not meet.
    """
    found = np.full(len(loss), np.inf)
    for i, (curve, level) in enumerate(zip(loss, wanted, strict=True)):
        if np.isfinite(level) and curve[0] <= level:
            found[i] = 0
        elif np.isfinite(level) and curve[-1] <= level:
            found[i] = np.exp(np.interp(-level, -curve, np.log(C)))
    return found


def _size(budget: float, C: np.ndarray, N: np.ndarray) -> float:
    """Return the size (of N (n,) at C (n,)) at a budget; 0 and infinity stay what they are."""
    if budget in (0, np.inf):
        return budget
    return float(np.exp(np.interp(np.log(budget), np.log(C), np.log(N))))


def _ends(value: float, sample: np.ndarray, least: float) -> dict[str, Any]:
    """Return an estimate with its interval, ``least`` in place of 0 as a bound."""
    low, high = np.quantile(sample, [0.025, 0.975], method="inverted_cdf")
    ends = {"value": value, "low": low, "high": high}
    bounds = [name for name, end in ends.items() if end == 0]
    return ends | dict.fromkeys(bounds, least) | {"at_most": bounds}
