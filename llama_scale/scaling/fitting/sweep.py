"""The learning-rate and batch laws of a sweep: lr* = c N^a D^b, B* = c N^a D^b."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import t

from llama_scale.bootstrap import LEVEL
from llama_scale.errors import InputError, nearest
from llama_scale.scaling.fitting.checks import unit_warnings
from llama_scale.scaling.fitting.minimum import Minimum, find_minimum
from llama_scale.scaling.fitting.points import Points
from llama_scale.scaling.fitting.residuals import merged
from llama_scale.training.recipe import step_law_batch, step_law_lr

MIN_VALUES = 3
# Relative differences below which two values are one: tokens are a whole number of batches, rates pass through float32.
SAME_TOKENS, SAME_VALUE = 0.02, 1e-3
BATCH = "batch_tokens"  # the column of batches where none is named


@dataclass(frozen=True)
class BestValue:
    """The best value of a setting at one N and D, and its parabola of loss in the logarithm."""

    N: float
    D: float
    value: float
    minimum: Minimum

    @property
    def loss(self) -> float:
        """The loss of the best value."""
        return self.minimum.loss

    def excess(self, value: float) -> float:
        """Return by how much another value raises the loss, relative."""
        return self.minimum.loss_at(float(np.log(value))) / self.loss - 1


def fit_sweep(points: Points, lr: str = "lr", batch: str | None = None) -> dict[str, Any]:
    """Fit the laws of a sweep's best rates and, where it has several, best batches.

    The best rate of a group of runs of equal N, D and batch is the minimum of a parabola through the best and its
    neighbors on ln lr, each rate with the mean loss of its seeds; the best batch the same, each batch at its best rate.
    A neighbor that diverged, whose loss may be infinite, bends no parabola (``find_minimum``).
    ``batch`` None is the column batch_tokens where the file has one. A group whose best value is the smallest or the
    largest tried, so that the best may lie beyond, or with fewer than three values is left out; ``left_out`` says which
    and why. Raises InputError where a column that was named is missing, or no group is left.
    """
    rates, left_out = merged(_column(points, lr), SAME_VALUE), []
    name = batch or BATCH
    swept = batch or points.has(BATCH)
    batches = merged(_column(points, name), SAME_VALUE) if swept else np.zeros(len(points))
    sizes, tokens = merged(points.N, SAME_VALUE), merged(points.D, SAME_TOKENS)

    def best(*group: Any) -> BestValue | None:
        try:
            return best_value(points.file, *group)
        except InputError as error:
            left_out.append(str(error).removeprefix(f"{points.file}: "))
            return None

    groups: dict[tuple[float, float], dict[float, BestValue]] = {}
    # Each distinct (N, D, batch) once: of rows (1, 9, 4), (1, 9, 8), (1, 9, 4) the first two.
    for N, D, B in np.unique(np.stack([sizes, tokens, batches], 1), axis=0):
        index = (sizes == N) & (tokens == D) & (batches == B)
        if found := best(lr, N, D, rates[index], points.loss[index]):
            groups.setdefault((N, D), {})[B] = found
    if not groups:
        more = f" (and {len(left_out) - 1} more groups)" if len(left_out) > 1 else ""
        raise InputError(f"{points.file}: {left_out[0]}{more}")
    top = [min(by_batch.values(), key=lambda b: b.loss) for by_batch in groups.values()]
    result: dict[str, Any] = {"lr": _power_law(top, lambda b: step_law_lr(b.N, b.D))}
    result["by_batch"] = [
        {"model_size": b.N, "tokens": b.D, "batch_tokens": float(B), "lr": b.value, "loss": b.loss}
        for by_batch in groups.values()
        for B, b in by_batch.items()
        if len(by_batch) > 1
    ]
    best_batches = [
        best(name, N, D, np.array(list(bests)), np.array([b.loss for b in bests.values()]))
        for (N, D), bests in groups.items()
        if len(bests) >= MIN_VALUES
    ]
    if best_batches := [found for found in best_batches if found]:
        result["batch_tokens"] = _power_law(best_batches, lambda b: step_law_batch(b.D))
    return result | {"left_out": left_out, "warnings": unit_warnings(points)}


def best_value(file: str, name: str, N: float, D: float, value: np.ndarray, loss: np.ndarray) -> BestValue:
    """Return the best of the values (n,) tried at N and D, seeds averaged; InputError at the edge of the sweep."""
    place = f"{file}: N = {N:g}, D = {D:g}"
    # Of values (1, 2, 1) tried is (0, 1, 0): the place of each run among the distinct values, by
    # which bincount sums the losses and counts the runs.
    value, tried = np.unique(value, return_inverse=True)
    loss = np.bincount(tried, loss) / np.bincount(tried)
    if len(value) < MIN_VALUES:
        raise InputError(f"{place}: {len(value)} values of {name}; a best one needs at least {MIN_VALUES}")
    if not np.isfinite(loss).any():
        raise InputError(f"{place}: every run diverged; add smaller values of {name}")
    if np.ptp(loss) == 0:
        raise InputError(f"{place}: all values of {name} have the same loss, so none is the best")
    i = int(loss.argmin())
    if i in (0, len(value) - 1):
        side, way = ("smallest", "smaller") if i == 0 else ("largest", "larger")
        raise InputError(
            f"{place}: the best {name}, {value[i]:g}, is the {side} of the sweep, so the best may "
            f"lie beyond; add {way} values"
        )
    found = find_minimum(np.log(value), loss)
    return BestValue(N, D, float(np.exp(found.x)), found)


def _column(points: Points, name: str) -> np.ndarray:
    if not points.has(name):
        hint = nearest(name, points.rows[0])
        raise InputError(f"{points.file}: no column {name!r}{hint}; a sweep needs N, D, {name} and loss")
    values = points.numeric(name)
    if not (values > 0).all():
        raise InputError(f"{points.file}: column {name!r}: expected positive numbers")
    return values


def _power_law(bests: list[BestValue], recipe: Callable[[BestValue], float]) -> dict[str, Any]:
    """Return ln value = c + a ln N + b ln D by least squares, with 95 % intervals; None what the runs do not tell."""
    N, D, value = (np.array([getattr(b, k) for b in bests]) for k in ("N", "D", "value"))
    # ln value = design @ (c, a, b): a column of ones, one of ln N and one of ln D where they vary.
    columns = {"c": np.ones(len(N))} | {n: np.log(x) for n, x in (("N", N), ("D", D)) if len(np.unique(x)) > 1}
    design = np.stack(list(columns.values()), 1)
    law: dict[str, Any] = {"c": None, "N": None, "D": None, "identified": False}
    degrees_of_freedom = len(bests) - len(columns)
    if np.linalg.matrix_rank(design) == len(columns) and degrees_of_freedom > 0:
        theta, *_ = np.linalg.lstsq(design, np.log(value), rcond=None)
        rest = np.log(value) - design @ theta
        error = np.sqrt(np.diag(np.linalg.inv(design.T @ design)) * (rest @ rest) / degrees_of_freedom)
        reach = t.ppf(0.5 + LEVEL / 2, degrees_of_freedom) * error
        for name, x, r in zip(columns, theta, reach, strict=True):
            ends = {"value": x, "low": x - r, "high": x + r}
            law[name] = {k: float(np.exp(v) if name == "c" else v) for k, v in ends.items()}
        law["identified"] = True
    law["best"] = [
        {
            "model_size": b.N,
            "tokens": b.D,
            "value": b.value,
            "loss": b.loss,
            "recipe": recipe(b),
            "recipe_excess_percent": 100 * b.excess(recipe(b)),
        }
        for b in bests
    ]
    return law
