"""Contenders in turn, clocks, quartiles."""

from itertools import count

from benchmarks.timing import least_seconds, rotated, slow_steps, spread, time_in_turn


def test_each_contender_begins_a_round():
    order = []
    contenders = {name: lambda number, name=name: order.append((number, name)) for name in "abc"}
    time_in_turn(contenders, rounds=4)
    assert [name for _, name in order] == list("abcbcacababc")
    assert [number for number, _ in order] == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert rotated([1, 2, 3], 4) == [2, 3, 1]


def test_values_and_seconds_stay_together():
    ticks = count(step=2.5)
    calls = time_in_turn({"a": lambda number: 10 * number}, 3, lambda: next(ticks))
    assert [(call.value, call.seconds) for call in calls["a"]] == [(0, 2.5), (10, 2.5), (20, 2.5)]
    squares = iter([0, 1, 4, 9, 16, 25])
    assert least_seconds(lambda: None, 3, lambda: next(squares)) == 1


def test_spread():
    assert spread([1.0, 2.0, 3.0]) == {"median": 2.0, "quartiles": [1.0, 3.0]}
    assert spread([5.0]) == {"median": 5.0, "quartiles": [5.0, 5.0]}


def test_steps_far_above_their_median_are_told_of():
    assert slow_steps("ours", [1.0, 1.1, 0.9, 1.9, 1.0]) is None
    told = slow_steps("ours", [1.0, 1.0, 4.0, 1.0, 2.5])
    assert told is not None and told.startswith("ours: 2 of 5 steps took over 2 times their median, up to 4.0 times")
