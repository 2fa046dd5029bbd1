"""The learning rate of a fine-tuning run: rates a constant factor apart, until the best of them is not at an end."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from llama_scale.config import FinetuneConfig
from llama_scale.errors import InputError
from llama_scale.files import read_fields

ENDPOINT = "val_bits_per_byte"


def search_rate(
    config: FinetuneConfig, start: float, factor: float, most: int, tune: Callable[[FinetuneConfig], Path]
) -> dict[str, Any]:
    """Return the best rate of runs at ``start`` times powers of ``factor``, and what each rate gave.

    Of the first three rates ``start`` is the middle one; while the best is the smallest or the largest, one more is
    tried there. The result is the minimum of the parabola in ln rate through the best and its neighbors. Runs that
    ``tune`` finds finished are not repeated.

    Raises:
        InputError: There are no held-out pairs to decide, or the best of ``most`` rates is still at an end.
    """
    if config.validation is None:
        raise InputError("validation: a search needs held-out pairs that decide; name a file")
    folder = Path(config.run or "runs/rates")
    losses: dict[int, float] = {}

    def measure(power: int) -> None:
        lr = start * factor**power
        run = replace(config, optim=replace(config.optim, lr=lr), run=str(folder / f"lr-{lr:.3g}"), val_every=0)
        value = read_fields(tune(run) / "result.json", [ENDPOINT])[ENDPOINT]
        losses[power] = value if isinstance(value, float) and math.isfinite(value) else math.inf

    for power in (-1, 0, 1):
        measure(power)
    while (best := min(losses, key=losses.__getitem__)) in (min(losses), max(losses)):
        if len(losses) >= most:
            side = "smallest" if best == min(losses) else "largest"
            raise InputError(f"{folder}: the best rate, {start * factor**best:.3g}, is the {side} of {most} tried, so "
                             "the best may lie beyond; start nearer to it")  # fmt: skip
        measure(best - 1 if best == min(losses) else best + 1)
    return {
        "lr": start * factor ** (best + vertex(*(losses[best + step] for step in (-1, 0, 1)))),
        "endpoint": ENDPOINT,
        "tried": [{"lr": start * factor**power, "bits_per_byte": losses[power]} for power in sorted(losses)],
    }


def vertex(before: float, middle: float, after: float) -> float:
    """Return where a parabola through values at -1, 0 and 1, the middle one lowest, has its minimum: in [-1/2, 1/2]."""
    bend = before - 2 * middle + after
    return 0.5 * (before - after) / bend if 0 < bend < math.inf else 0.0


def read_rate(path: str | Path) -> float:
    """Return the rate that a search found; raise InputError where the file has none."""
    lr = read_fields(path, ["lr"])["lr"]
    if not isinstance(lr, float) or not 0 < lr < math.inf:
        raise InputError(f"{path}: lr is {lr!r:.40}, no rate; search again")
    return lr
