"""What one judge keeps from a program to the next: nothing."""

import pytest

from evals.sandbox import judge
from evals.sandbox.pool import Sandbox
from evals.sandbox.types import Program

F = "def f(x): return x * x"
RIGHT = "assert f(2) == 4"
GONE = "assert 'left' not in globals() and f(2) == 4"


@pytest.fixture(scope="module")
def box():
    with Sandbox(1) as box:
        yield box


def test_names_of_tests_do_not_reach_the_next(box):
    programs = [Program(F, f"left = 1\n{RIGHT}", ("f",), "left = 2"), Program(F, GONE, ("f",))]
    assert [v.passed for v in box.run(programs * 3, 2.0)] == [True] * 6


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import os\nos._exit(0)", "ended early"),
        ("def f(x): raise SystemExit", "exited"),
        ("def f(x):\n    import os\n    os.write(3, b'\\x05\\0\\0\\0nulls')", "answer not plain data"),
        ("def f(x): return 'x' * (70 << 20)", "answer not plain data"),
        ("def f(x): return x", "wrong answer"),
        ("def f(x):\n    while True: pass", "timeout"),
        ("x = (", "syntax error"),
    ],
)
def test_after_any_program_an_honest_one_passes(box, source, reason):
    wrong, right = box.run([Program(source, RIGHT, ("f",)), Program(F, RIGHT, ("f",))], 1.0)
    assert (wrong.passed, wrong.reason, right.passed) == (False, reason, True)


def test_tests_that_do_not_end_are_ended(box):
    endless = Program(F, "while True: pass", ("f",))
    assert [v.passed for v in box.run([endless, Program(F, RIGHT, ("f",))], 0.2)] == [False, True]


def test_large_answers_leave_nothing(box):
    large = Program("def f(n): return list(range(n))", "x = f(10 ** 6)\nassert len(x) == 10 ** 6", ("f",))
    assert all(v.passed for v in box.run([large, Program(F, RIGHT, ("f",))] * 3, 8.0))


def test_more_programs_than_one_judge_has(box):
    count = 2 * judge.USES + 1
    assert [v.passed for v in box.run([Program(F, RIGHT, ("f",))] * count, 2.0)] == [True] * count
