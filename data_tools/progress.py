"""The progress line of a step: how far it is, how fast, and how long it will still take."""

from collections.abc import Iterable, Iterator
from itertools import repeat
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")


def with_progress(
    items: Iterable[T], step: str, total: int | None = None, unit: str = "MB", amounts: Iterable[int] | None = None
) -> Iterator[T]:
    """Yield ``items`` with a progress line for ``step`` on a terminal; elsewhere nothing is printed.

    Args:
        items: What the step goes through.
        step: Its name.
        total: Units of all items; None leaves out the time left.
        unit: What is counted; "B" is shown as kB, MB and so on.
        amounts: Units of each item; None is one of each.
    """
    with_amounts = zip(items, repeat(1) if amounts is None else amounts, strict=amounts is not None)
    with tqdm(total=total, desc=step, unit=unit, unit_scale=unit == "B", leave=False, disable=None) as bar:
        for item, amount in with_amounts:
            yield item
            bar.update(int(amount))
