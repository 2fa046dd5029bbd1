"""The learning rate of a fine-tuning run: rates a constant factor apart, until the best of them is not at an end."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from llama_scale.config import FinetuneConfig
from llama_scale.errors import InputError, TrainingDiverged
from llama_scale.files import read_fields
from llama_scale.scaling.fitting.minimum import far_sides, find_minimum

ENDPOINT = "val_bits_per_byte"
NARROWEST = 0.25  # of a step: how near to the best rate the search comes to one that diverged
MOST_UNEVEN = 2.0  # times as far as the nearer neighbor of the best rate may the other one be


def search_rate(
    config: FinetuneConfig, start: float, factor: float, most: int, tune: Callable[[FinetuneConfig], Path]
) -> dict[str, Any]:
    """Return the best rate of runs at ``start`` times powers of ``factor``, and what each rate gave.

    Of the first three rates ``start`` is the middle one; while the best is the smallest or the largest, one more is
    tried there. Where a neighbor of the best is far worse (``far_sides``), which is to say that it diverged, rates
    halfway to it are tried, up to a quarter of a step from the best, and then one halfway to the other neighbor, for a
    parabola from far on one side to near on the other has its minimum far from what was tried. The result is the
    minimum of the parabola in ln rate through the best and its neighbors, without those that are far worse. A run that
    fails because its loss is not finite counts as the worst; its ``bits_per_byte`` are None. Runs that ``tune`` finds
    finished are not repeated.

    Raises:
        InputError: No held-out pairs decide, the best of ``most`` rates is still at an end, or all of them diverge.
    """
    if config.validation is None:
        raise InputError("validation: a search needs held-out pairs that decide; name a file")
    folder = Path(config.run or "runs/rates")
    losses: dict[float, float] = {}  # by the power of the factor

    def measure(power: float) -> None:
        lr = start * factor**power
        run = replace(config, optim=replace(config.optim, lr=lr), run=str(folder / f"lr-{lr:.3g}"), val_every=0)
        try:
            value = read_fields(tune(run) / "result.json", [ENDPOINT])[ENDPOINT]
        except TrainingDiverged as error:
            print(error, flush=True)
            value = None
        losses[power] = value if isinstance(value, float) and math.isfinite(value) else math.inf

    for power in (-1.0, 0.0, 1.0):
        measure(power)
    while (following := _next_power(losses)) is not None:
        if len(losses) >= most:
            _check_inside(losses, folder, start, factor)
            break
        measure(following)
    powers = sorted(losses)
    found = find_minimum(np.array(powers), np.array([losses[power] for power in powers]))
    tried = {start * factor**power: losses[power] for power in powers}
    return {
        "lr": start * factor**found.x,
        "endpoint": ENDPOINT,
        "tried": [{"lr": lr, "bits_per_byte": loss if loss < math.inf else None} for lr, loss in tried.items()],
    }


def _best(losses: dict[float, float]) -> float:
    """Return the power of the least loss; of equal ones, one that is not at an end, and then the smallest."""
    ends = min(losses), max(losses)
    return min(sorted(losses), key=lambda power: (losses[power], power in ends))


def _next_power(losses: dict[float, float]) -> float | None:
    """Return the power to try next, None where the best is between neighbors that it can be told from."""
    powers, best = sorted(losses), _best(losses)
    if losses[best] == math.inf or best == powers[0]:
        return powers[0] - 1
    if best == powers[-1]:
        return best + 1
    i = powers.index(best)
    gaps = {side: powers[i + side] - best for side in (-1, 1)}
    for side in far_sides(np.array(powers), np.array([losses[power] for power in powers]), i):
        if abs(gaps[side]) > NARROWEST:
            return best + gaps[side] / 2
    wide, narrow = sorted(gaps.values(), key=abs, reverse=True)
    return best + wide / 2 if abs(wide) > MOST_UNEVEN * abs(narrow) else None


def _check_inside(losses: dict[float, float], folder: Path, start: float, factor: float) -> None:
    """Raise InputError where so many rates have no best one between others."""
    best, tried = _best(losses), f"{len(losses)} rates"
    if losses[best] == math.inf:
        raise InputError(f"{folder}: none of {tried} ends with a finite loss; start at a far smaller one")
    if best in (min(losses), max(losses)):
        side = "smallest" if best == min(losses) else "largest"
        found = f"the best of {tried}, {start * factor**best:.3g}, is the {side}"
        raise InputError(f"{folder}: {found}, so the best may lie beyond; start nearer to it")


def read_rate(path: str | Path) -> float:
    """Return the rate that a search found; raise InputError where the file has none."""
    lr = read_fields(path, ["lr"])["lr"]
    if not isinstance(lr, float) or not 0 < lr < math.inf:
        raise InputError(f"{path}: lr is {lr!r:.40}, no rate; search again")
    return lr
