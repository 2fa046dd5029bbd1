import random

import pytest

from evals.metrics.agreement import area_within_tasks


def test_area_equals_counting_pairs():
    random.seed(3)
    rows = [(random.randint(0, 5), random.random() < 0.4, random.randint(0, 6)) for _ in range(80)]
    pairs = [
        (good, bad) for good, right, task in rows for bad, wrong, other in rows if right and not wrong and task == other
    ]
    found = area_within_tasks(*zip(*rows, strict=True))
    assert found.pairs == len(pairs)
    assert found.value == pytest.approx(sum((g > b) + (g == b) / 2 for g, b in pairs) / len(pairs))
    assert found.low <= found.value <= found.high


def test_a_hard_task_tells_nothing():
    """Of two tasks the easy one has higher values and passes; within each the value says nothing."""
    values, passed, tasks = [9, 9, 9, 1, 1, 1], [True, True, False, True, False, False], [0, 0, 0, 1, 1, 1]
    assert area_within_tasks(values, passed, tasks).value == 0.5
    assert area_within_tasks([1, 2], [True, True], [0, 0]).value is None
