"""Clocks, contenders timed in turn, and the spread of their ratios."""

import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

from tqdm import tqdm

T = TypeVar("T")
Clock = Callable[[], float]


@dataclass(frozen=True)
class Timed(Generic[T]):
    """What a call returned and the seconds that it took."""

    value: T
    seconds: float


def device_clock(device: str) -> Clock:
    """Return a clock, in seconds, that lets the device finish its queue before it reads."""
    from llama_scale.device import synchronize

    def read() -> float:
        synchronize(device)
        return time.perf_counter()

    return read


def time_call(work: Callable[[], T], clock: Clock = time.perf_counter) -> Timed[T]:
    """Call ``work`` once."""
    start = clock()
    value = work()
    return Timed(value, clock() - start)


def least_seconds(work: Callable[[], Any], repeats: int, clock: Clock = time.perf_counter) -> float:
    """Return the seconds of the fastest of ``repeats`` calls."""
    return min(time_call(work, clock).seconds for _ in range(repeats))


def rotated(items: Sequence[T], turn: int) -> list[T]:
    """Return the items, begun with another one each turn: of a, b, c in turn 1, b, c, a."""
    first = turn % len(items)
    return [*items[first:], *items[:first]]


def time_in_turn(
    contenders: Mapping[str, Callable[[int], T]], rounds: int, clock: Clock = time.perf_counter
) -> dict[str, list[Timed[T]]]:
    """Call each contender once a round, the order turning, so that load falls on all alike.

    Args:
        contenders: By name, what to call with the number of the round, from 0 on.
        rounds: Calls of each.
        clock: Returns seconds.

    Returns:
        By name, the calls of that contender in the order of the rounds.
    """
    calls: dict[str, list[Timed[T]]] = {name: [] for name in contenders}
    with tqdm(total=rounds * len(contenders), unit="turn", disable=None) as progress:
        for number in range(rounds):
            for name in rotated(list(contenders), number):
                progress.set_description(name)
                calls[name].append(time_call(partial(contenders[name], number), clock))
                progress.update()
    return calls


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Return ``median`` and ``quartiles`` (the lower and the upper; of one value, that value)."""
    quartiles = statistics.quantiles(values, n=4)[::2] if len(values) > 1 else [*values] * 2
    return {"median": statistics.median(values), "quartiles": quartiles}


def slow_steps(name: str, seconds: Sequence[float], far: float = 2.0) -> str | None:
    """Return a line where steps took over ``far`` times their median, as beside other work on the same cores."""
    median = statistics.median(seconds)
    slow = [second / median for second in seconds if second > far * median]
    if not slow:
        return None
    load, cpus = os.getloadavg()[0], os.cpu_count()
    return (
        f"{name}: {len(slow)} of {len(seconds)} steps took over {far:g} times their median, up to {max(slow):.1f} "
        f"times: is other work running here (load {load:.1f} on {cpus} CPUs)? Ratios compare steps taken side by side; "
        "rates are too low"
    )
