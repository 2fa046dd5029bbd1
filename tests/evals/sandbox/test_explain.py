"""What is noted of failing assertions: right, short, and without a say in the verdict."""

from dataclasses import fields, make_dataclass, replace

import pytest

from evals.sandbox.explain import claim_of, shown
from evals.sandbox.pool import Sandbox
from evals.sandbox.types import Failure, Program, Verdict
from evals.verdicts import digest
from tests.evals.sandbox.hostile_programs import cheats

TESTS = "assert f(2) == 4\nassert 9 == f(3)\nassert f(1)\nassert not f(0)\nassert f(5) > 24"


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox(2) as box:
        yield box


def failures(sandbox, source, tests=TESTS):
    return next(iter(sandbox.run([Program(source, tests, ("f",), explain=True)], 2.0))).failures


@pytest.mark.parametrize(
    ("source", "first"),
    [
        ("def f(x): return [x]", Failure("f(2) == 4", "wrong answer", "[2]", "4", number=0)),
        ("def f(x): return x * x or 7", Failure("not f(0)", "wrong answer", "7", "a false value", number=3)),
        ("def f(x): return x * x if x != 3 else {1: 'a'}",
         Failure("9 == f(3)", "wrong answer", "{1: 'a'}", "9", number=1)),
        ("def f(x): return x * x % 25", Failure("f(5) > 24", "wrong answer", "0", "> 24", number=4)),
        ("def f(x): return x * x if x != 1 else ''",
         Failure("f(1)", "wrong answer", "''", "a true value", number=2)),
        ("def f(x):\n    y = 1\n    return y / 0",
         Failure("f(2) == 4", "raised ZeroDivisionError", claimed="division by zero", line=3, number=0)),
        ("def f(x):\n    g()\ndef g():\n    raise KeyError('k')",
         Failure("f(2) == 4", "raised KeyError", claimed="'k'", line=4, number=0)),
        ("x = 1\nf = (x\n", Failure("", "syntax error", claimed="'(' was never closed", line=2, column=5)),
        ("import sys\nsys.exit(3)", Failure("", "exited", claimed="3", line=2)),
        ("import os\nos._exit(0)", Failure("", "ended early")),
        ("def g(x): pass", Failure("f(2) == 4", "raised NameError", claimed="name 'f' is not defined", number=0)),
        ("class A: pass\ndef f(x): return A()",
         Failure("f(2) == 4", "wrong answer", "an object that is not plain data", "4", number=0)),
    ],
)  # fmt: skip
def test_the_first_failure_says_what_happened(sandbox, source, first):
    assert failures(sandbox, source)[0] == first


def test_a_program_that_passes_has_none_and_one_that_does_not_load_has_one(sandbox):
    assert failures(sandbox, "def f(x): return x * x") == ()
    assert len(failures(sandbox, "1 / 0")) == 1
    assert len(failures(sandbox, "def f(x): return None", "assert f(1) == 2\n" * 40)) == 10


def test_what_is_shown_is_short(sandbox):
    long = "def f(x): return [['x' * 1000] * 1000, 10 ** 4000, {n: 'y' for n in range(1000)}]"
    for failure in failures(sandbox, long) + failures(sandbox, "def f(x): raise ValueError('z' * 100000)"):
        assert all(len(text) <= 200 for text in (failure.got, failure.expected, failure.claimed, failure.test))
    deep = "def f(x):\n    a = []\n    for _ in range(300): a = [a]\n    return a"
    assert all(len(failure.got) <= 200 for failure in failures(sandbox, deep))
    assert shown(10**5000) == "a value too long to show" and shown((1, {2})) == "(1, {2})"
    assert shown("x" * 500).startswith("'xxx") and len(shown("x" * 500)) <= 200


def test_explaining_changes_no_verdict(sandbox):
    """Every program that cheats, wrong and right ones: none passes for it; how one that races fails may differ."""
    wrong = ["def f(x): return x + x", "def f(:", "def f(x): raise KeyError", "x = '\\ud800'", "def f(x): return f(x)"]
    sources = [*cheats().values(), *wrong, "def f(x): return x * x"]
    plain = [Program(source, TESTS, ("f",)) for source in sources]
    verdicts = list(sandbox.run(plain, 1.0))
    explained = list(sandbox.run([replace(program, explain=True) for program in plain], 1.0))
    for source, verdict, other in zip(sources, verdicts, explained, strict=True):
        assert (verdict.passed, verdict.parses) == (other.passed, other.parses), source
        assert verdict.failures == ()
    assert verdicts[len(cheats()) :] == explained[len(cheats()) :]
    assert [verdict.passed for verdict in explained] == [False] * (len(sources) - 1) + [True]


def test_a_side_is_evaluated_once_and_in_order(sandbox):
    counting = "n = []\ndef f(x):\n    n.append(x)\n    return len(n)"
    tests = "assert f(0) == 1\nassert f(0) < f(0)\nassert 4 == f(0)\nassert f(0) == 9"
    assert failures(sandbox, counting, tests) == (Failure("f(0) == 9", "wrong answer", "5", "9", number=3),)


@pytest.mark.parametrize(
    "frame",
    [{}, {"raised": 3}, {"raised": []}, {"raised": [None]}, {"where": "x"}, {"where": [1]}, {"where": [-1, 0]},
     {"where": [1 << 40, 0]}, {"where": [True, 0]}, {"where": [1.0, 0]}],
)  # fmt: skip
def test_a_claim_of_another_form_is_none(frame):
    assert claim_of(frame) == {"claimed": ""}


def test_the_hash_of_a_program_is_that_of_before_unless_it_is_explained():
    program = Program("x = 1", "assert f(1)", ("f",))
    other = replace(program, explain=True)
    assert digest(program, [1]) != digest(other, [1])
    names = [field.name for field in fields(program) if field.name != "explain"]
    before = make_dataclass("Program", names)(*(getattr(program, name) for name in names))
    assert digest(program, [1]) == digest(before, [1])


def test_kept_verdicts_come_back_with_their_failures():
    failure = Failure("f(1)", "wrong answer", "0", "a true value", number=0)
    assert Verdict(**{"passed": False, "reason": "wrong answer", "failures": [vars(failure)]}).failures == (failure,)
