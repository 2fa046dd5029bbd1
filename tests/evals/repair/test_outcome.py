"""Outcomes on visible tests, and functions that are given the name that is asked for."""

import pytest

from evals.benchmarks import apps, humaneval
from evals.repair.examples import docstring_examples
from evals.repair.outcome import VisibleJudge, renamed_program
from evals.repair.split import split
from evals.sandbox.types import Program
from evals.verdicts import Execution, ExecutionConfig
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def execution():
    with Execution(ExecutionConfig(workers=1)) as found:
        yield found


NAMES = [  # program, the function that should be called f ("" for none)
    ("def g(x): return x", "g"),
    ("def f(x): return x", ""),
    ("def helper(x): return x\ndef f(x): return helper(x)", ""),
    ("def helper(x): return x\ndef solve(x): return helper(x)", ""),
    ("def g(x):\n    def inner(y): return y\n    return inner(x)", "g"),
    ("class Solution:\n    def f(self, x): return x", ""),
    ("class Solution:\n    def g(self, x): return x", ""),
    ("class Other:\n    def g(self, x): return x\ndef g(x): return x", "g"),
    ("async def g(x): return x", ""),
    ("async def a(x): return x\ndef g(x): return x", ""),
    ("f = lambda x: x", ""),
    ("f = lambda x: x\ndef g(x): return x", ""),
    ("from math import floor as f\ndef g(x): return x", ""),
    ("import math as f\ndef g(x): return x", ""),
    ("def g(x): return x\nassert g(1) == 1\nprint(g(2))", "g"),
    ("def g(x): return x\ndef test_g(): assert g(1) == 1", ""),
    ("if True:\n    def g(x): return x", ""),
    ("def g(x: return", ""),
    ("", ""),
    ("@staticmethod\ndef g(x): return x", "g"),
    ("def g(x):\n    assert wrong == CONTRADICTED
    assert all(outcome.tests == len(part.shown.tests) for outcome, part in zip(outcomes, parts, strict=True))


def test_apps_shows_the_samples_of_the_question(execution):
    config = apps.AppsConfig(data=str(ROOT / "tests" / "fixtures" / "apps.jsonl"))
    suite = apps.read(config)
    parts = split(suite, 5, execution, 3.0)
    for part, task in zip(parts, suite.tasks, strict=True):
        assert len(part.shown.tests) <= len(task.problem.inputs)
        if task.reference and part.shown.tests:
            judge = VisibleJudge({part.shown.number: part.visible}, execution, 3.0)
            right, wrong = judge.judge([(part.shown.number, task.reference), (part.shown.number, "print('no')")])
            assert right.passed and right.held == right.tests == len(part.shown.tests)
            assert not wrong.passed and wrong.failures[0].got in ("no", "")
