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


@pytest.mark.parametrize(
    "tests",
    [
        "for n in range(3):\n    assert f(n) == n * n\ntry:\n    assert f(1) == 2\nexcept AssertionError: pass",
        "assert [*{f(2), 'b', 'a'}].index('a') >= 0\nassert f(3) in {9, 'c'}",  # the order of a set
        f"assert f(10 ** 2500) == 1{'0' * 5000}",  # more digits than other interpreters read
        "assert f(2) is 4",  # a warning
        "assert f(2) == 5\nassert f(2) == 4",
        "assert f(2) ==",
    ],
)
def test_tests_that_come_again_are_judged_as_before(box, tests):
    programs = [Program(F, tests, ("f",)), Program("def f(x): return 0", tests, ("f",))]
    first, *others = [list(box.run(programs, 2.0)) for _ in range(4)]
    assert others == [first] * 3


def test_code_that_depends_on_the_process_is_not_kept():
    assert judge.packed_code(RIGHT)
    for tests in ("assert f(1) in {1, 2}", "assert f(2) ==", f"assert f(1) == {'1' * 5000}"):
        assert judge.packed_code(tests) == ""
