"""How well a measure predicts passing: the area under the ROC curve, within tasks."""

from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from evals.metrics.pass_at_k import TAIL
from llama_scale.bootstrap import RESAMPLES, percentile_interval


@dataclass(frozen=True)
class Area:
    """The area, with its 95 % interval over tasks, and how many pairs of how many tasks it is of; None without any."""

    value: float | None
    low: float | None
    high: float | None
    pairs: int
    tasks: int


def pair_score(passed: Sequence[float], failed: Sequence[float]) -> float:
    """Return the sum over pairs of 1 where the passing one is higher, 1/2 where they are equal."""
    ranked = np.sort(np.asarray(failed, dtype=np.float64))
    below, up_to = (np.searchsorted(ranked, passed, side=side) for side in ("left", "right"))
    return float((below + up_to).sum() / 2)


def area_within_tasks(values: Sequence[float], passed: Sequence[bool], tasks: Sequence[Hashable],
                      seed: int = 0) -> Area:  # fmt: skip
    """Return the chance that of two samples of one task the passing one has the higher value.

    .5 is what a measure without information has. Samples of different tasks are not compared: a hard task lowers both
    similarity and passing, which says nothing about the measure. The interval resamples tasks.
    """
    groups: dict[Hashable, tuple[list[float], list[float]]] = defaultdict(lambda: ([], []))
    for value, right, task in zip(values, passed, tasks, strict=True):
        groups[task][0 if right else 1].append(value)
    both = [(good, bad) for good, bad in groups.values() if good and bad]
    if not both:
        return Area(None, None, None, 0, 0)
    scores = np.array([pair_score(good, bad) for good, bad in both])  # (tasks,)
    counts = np.array([len(good) * len(bad) for good, bad in both])  # (tasks,)
    draws = np.random.default_rng(seed).integers(len(both), size=(RESAMPLES, len(both)))  # (RESAMPLES, tasks)
    low, high = percentile_interval(scores[draws].sum(1) / counts[draws].sum(1), TAIL)
    return Area(float(scores.sum() / counts.sum()), float(low), float(high), int(counts.sum()), len(both))
