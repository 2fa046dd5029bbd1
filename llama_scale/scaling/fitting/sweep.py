"""The learning-rate and batch laws of a sweep: lr* = c N^a D^b, B* = c N^a D^b."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import t

from llama_scale.errors import InputError
from llama_scale.scaling.fitting.fit import LEVEL
from llama_scale.scaling.fitting.points import Points
from llama_scale.training.recipe import step_law_batch, step_law_lr

LEAST = 3


@dataclass(frozen=True)
class Best:
    """The best value of a setting at one N and D, and its parabola of loss in the logarithm."""

    N: float
    D: float
    value: float
    loss: float
    coefficients: np.ndarray

    def excess(self, value: float) -> float:
        """Return by how much another value raises the loss, relative."""
        return float(np.polyval(self.coefficients, np.log(value)) / self.loss - 1)


def fit_sweep(points: Points, lr: str = "lr", batch: str = "batch_tokens") -> dict[str, Any]:
    """Fit the laws of a sweep's best rates and, where it has several, best batches.

    The best rate of a group of runs of equal N, D and batch is the minimum of a parabola through
    the best and its neighbours on ln lr, each rate with the mean loss of its seeds; the best batch
    the same, each batch at its best rate.

    Raises:
        InputError: A column is missing, a group has fewer than three values, or its best value is
            the smallest or the largest tried, so that the best may lie beyond.
    """
    rates = _column(points, lr)
    batches = _column(points, batch) if points.has(batch) else np.zeros(len(points))
    groups: dict[tuple[float, float], dict[float, Best]] = {}
    for N, D, B in np.unique(np.stack([points.N, points.D, batches], 1), axis=0):
        index = (points.N == N) & (points.D == D) & (batches == B)
        groups.setdefault((N, D), {})[B] = best(
            points.file, lr, N, D, rates[index], points.loss[index]
        )
    top = [min(found.values(), key=lambda b: b.loss) for found in groups.values()]
    result = {"lr": _law(top, lambda b: step_law_lr(int(b.N), b.D))}
    result["by_batch"] = [
        {"N": b.N, "D": b.D, "batch": float(B), "lr": b.value, "loss": b.loss}
        for found in groups.values()
        for B, b in found.items()
        if len(found) > 1
    ]
    several = {key: found for key, found in groups.items() if len(found) >= LEAST}
    if several:
        sizes = []
        for (N, D), found in several.items():
            loss = np.array([b.loss for b in found.values()])
            sizes.append(best(points.file, batch, N, D, np.array(list(found)), loss))
        result["batch_tokens"] = _law(sizes, lambda b: step_law_batch(b.D))
    return result


def best(file: str, name: str, N: float, D: float, value: np.ndarray, loss: np.ndarray) -> Best:
    """Return the best of the values (n,) tried at N and D; InputError at the edge of the sweep.

    Runs of one value, as those of several seeds, take their mean loss.
    """
    where = f"{file}: N = {N:g}, D = {D:g}"
    value, tried = np.unique(value, return_inverse=True)
    loss = np.bincount(tried, loss) / np.bincount(tried)
    if len(value) < LEAST:
        raise InputError(
            f"{where}: {len(value)} values of {name}; a best one needs at least {LEAST}"
        )
    i = int(loss.argmin())
    if i in (0, len(value) - 1):
        side, way = ("smallest", "smaller") if i == 0 else ("largest", "larger")
        raise InputError(
            f"{where}: the best {name}, {value[i]:g}, is the {side} of the sweep, so the best may "
            f"lie beyond; add {way} values"
        )
    near = slice(i - 1, i + 2)
    c2, c1, c0 = np.polyfit(np.log(value[near]), loss[near], 2)
    x = -c1 / (2 * c2)
    return Best(N, D, float(np.exp(x)), float(c0 + c1 * x + c2 * x * x), np.array([c2, c1, c0]))


def _column(points: Points, name: str) -> np.ndarray:
    if not points.has(name):
        raise InputError(f"{points.file}: no column {name!r}; a sweep needs N, D, {name} and loss")
    values = points.numeric(name)
    if not (values > 0).all():
        raise InputError(f"{points.file}: column {name!r}: expected positive numbers")
    return values


def _law(found: list[Best], usual: Callable[[Best], float]) -> dict[str, Any]:
    """Return ln value = c + a ln N + b ln D by least squares, with 95 % intervals.

    An exponent whose quantity does not vary, or that leaves no runs to judge it by, is None.
    """
    N, D, value = (np.array([getattr(b, k) for b in found]) for k in ("N", "D", "value"))
    names = ["c", *(n for n, x in (("N", N), ("D", D)) if len(np.unique(x)) > 1)]
    design = np.stack(
        [np.ones(len(N)), *({"N": np.log(N), "D": np.log(D)}[n] for n in names[1:])], 1
    )
    law: dict[str, Any] = {"c": None, "N": None, "D": None, "identified": False}
    spare = len(found) - len(names)
    if np.linalg.matrix_rank(design) == len(names) and spare > 0:
        theta, *_ = np.linalg.lstsq(design, np.log(value), rcond=None)
        rest = np.log(value) - design @ theta
        error = np.sqrt(np.diag(np.linalg.inv(design.T @ design)) * (rest @ rest) / spare)
        reach = t.ppf(0.5 + LEVEL / 200, spare) * error
        for name, x, r in zip(names, theta, reach, strict=True):
            ends = {"value": x, "low": x - r, "high": x + r}
            law[name] = {k: float(np.exp(v) if name == "c" else v) for k, v in ends.items()}
        law["identified"] = True
    law["best"] = [
        {
            "N": b.N,
            "D": b.D,
            "value": b.value,
            "loss": b.loss,
            "recipe": usual(b),
            "recipe_excess_percent": 100 * b.excess(usual(b)),
        }
        for b in found
    ]
    return law
