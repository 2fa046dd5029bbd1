"""The progress line of a step: how far it is, how fast, and how long it will still take."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")


def with_progress(
    items: Iterable[T], step: str, total: int | None = None, unit: str = "MB", amounts: Iterable[int] | None = None
) -> Iterator[T]:
    """Yield ``items`` with a progress line on a terminal; elsewhere nothing is printed.

    Args:
        items: What the step goes through.
        step: Its name on the line.
        total: Units of all items; None leaves out the time left.
        unit: What is counted; "B" is shown as kB, MB and so on.
        amounts: Units of each item; None is one of each.
    """
    bar = tqdm(total=total, desc=step, unit=unit, unit_scale=unit == "B", leave=False, disable=None)
    with bar:
        if amounts is None:
            for item in items:
                yield item
                bar.update()
        else:
            for item, amount in zip(items, amounts, strict=True):
                yield item
                bar.update(int(amount))
