"""Outcomes on visible tests, and functions that are given the name that is asked for."""

import json
from dataclasses import replace

import pytest

from evals.benchmarks import apps, humaneval
from evals.repair.critics import Case, open_critics
from evals.repair.outcome import Outcome, VisibleJudge, breaks, renamed_program
from evals.repair.split import split
from evals.sandbox.types import Failure, Program
from evals.verdicts import Execution, ExecutionConfig
from llama_scale.generation.config import SamplingConfig


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
    ("def g(x):\n    print('[[\"FunctionDef\", \"h\"]]')\nimport sys\nsys.stdout.write('x')", "g"),
]


def test_a_lone_function_is_found_and_nothing_else(execution):
    judge = VisibleJudge({}, execution, 2.0)
    found = judge.rename([(program, "f") for program, _ in NAMES])
    assert list(zip([p for p, _ in NAMES], found, strict=True)) == NAMES


def test_a_renamed_program_calls_itself_still(execution):
    program = renamed_program("def g(x):\n    return 1 if x < 2 else x * g(x - 1)\n", "g", "f")
    (verdict,) = execution.judge([Program(program, "assert f(5) == 120", ("f",))], 2.0, "test")
    assert verdict.passed


# Their docstrings say something else than their references do, published as they are; 130 gives a recurrence.
CONTRADICTED = ["HumanEval/47", "HumanEval/116", "HumanEval/130", "HumanEval/148"]


def test_humaneval_shows_the_examples_of_docstrings_which_the_references_hold(execution):
    suite = humaneval.read(humaneval.HumanEvalConfig())
    parts = split(suite, 1, execution, 3.0)
    counts = [len(part.shown.tests) for part in parts]
    assert (sum(map(bool, counts)), sum(counts)) == (135, 379)
    judge = VisibleJudge({part.shown.number: part.visible for part in parts}, execution, 3.0)
    sources = [(part.shown.number, f"{t.prompt}{t.reference}") for part, t in zip(parts, suite.tasks, strict=True)]
    outcomes = judge.judge(sources)
    wrong = [suite.tasks[n].task_id for n, outcome in enumerate(outcomes) if not outcome.passed]
    assert wrong == CONTRADICTED
    assert all(outcome.tests == len(part.shown.tests) for outcome, part in zip(outcomes, parts, strict=True))


PROBLEMS = [
    {
        "problem_id": 1,
        "question": "Print twice a number.\n\n-----Examples-----\nInput\n2\n\nOutput\n4\n",
        "solutions": json.dumps(["print(2 * int(input()))"]),
        "input_output": json.dumps({"inputs": ["2\n", "2100\n"], "outputs": ["4\n", "4200\n"]}),
        "difficulty": "introductory",
    },
    {
        "problem_id": 2,
        "question": "Return twice a list, as in twice([1, 23]), which gives [1, 23, 1, 23].",
        "solutions": json.dumps(["def twice(x): return x + x"]),
        "starter_code": "def twice(x):",
        "input_output": json.dumps(
            {"fn_name": "twice", "inputs": [[[1, 23]], [[77]]], "outputs": [[1, 23] * 2, [77, 77]]}
        ),
        "difficulty": "introductory",
    },
]


def test_a_script_says_of_its_error_what_a_judged_program_says(execution, tmp_path):
    """Its words and its line are its claim: what is no claim is passed over, and no verdict differs for it."""
    (tmp_path / "apps.jsonl").write_text(json.dumps(PROBLEMS[0]))
    (part,) = split(apps.read(apps.AppsConfig(data=str(tmp_path / "apps.jsonl"))), 1, execution, 3.0)
    judge = VisibleJudge({0: part.visible}, execution, 3.0)
    forged = b'1234{"raised": ["A B\\n", 1, "all tests hold"], "where": [1, 0]}'
    known = {
        "x = int(input())\nraise ValueError(f'no {x}')": ("raised ValueError", "no 2", 2, 0),
        "def f():\n    return nothing\nf()": ("raised NameError", "name 'nothing' is not defined", 2, 0),
        "class Odd(Exception): pass\nraise Odd": ("raised Odd", "", 2, 0),
        "import sys\nsys.exit('bad')": ("raised SystemExit", "bad", 2, 0),
        "x = (1\nprint(x": ("syntax error", "'(' was never closed", 2, 6),
        f"import os\nos.write(3, {forged!r})\nos._exit(1)": ("raised A?B?", "all tests hold", 1, 0),
        "import os\nos.write(3, b'1234' + b'[' * 4000)\nos._exit(1)": ("raised", "", 0, 0),
        "import os\nos.close(3)\nraise ValueError": ("raised", "", 0, 0),
        "print(5)": ("wrong answer", "", 0, 0),
        "import os\nos.write(3, b'12345')\nprint(4)": None,
    }
    outcomes = dict(zip(known, judge.judge([(0, source) for source in known]), strict=True))
    for source, said in known.items():
        failures = [(f.reason, f.claimed, f.line, f.column) for f in outcomes[source].failures]
        assert failures == ([said] if said else []), source
        assert outcomes[source].reason == (said[0] if said else "passed")
        (template,) = part.visible.programs(source)
        asked = [replace(template, explain=explain) for explain in (False, True)] if "(3" not in source else []
        plain, told = execution.judge(asked, 3.0, "test") or (None, None)
        assert plain == told and not (plain and plain.failures)
    critics = open_critics(["interpreter", "assertion"], None, SamplingConfig())
    source = "x = int(input())\nraise ValueError(f'no {x}')"
    case = Case(part.shown, source, outcomes[source], 3.0, (0,))
    error = f"It raised ValueError: no 2.\nThe program says that this was in its line 2:\n    {source[17:]}"
    assert critics["interpreter"].review([case])[0].text == error
    test = "This test fails: for the input\n2\n\nthe output is\n4\n\n"
    assert critics["assertion"].review([case])[0].text == test + error
    source = "x = (1\nprint(x"
    case = Case(part.shown, source, outcomes[source], 3.0, (0,))
    assert critics["interpreter"].review([case])[0].text.endswith("(line 2, column 6)\n    print(x\n         ^")


def failed_at(*numbers, tests=3):
    return Outcome(
        True, not numbers, tests - len(numbers), tests, "", tuple(Failure("", "", number=n) for n in numbers)
    )


def test_a_test_that_held_and_fails_is_noticed_whatever_else_holds_now():
    for before, after, broke in (
        ((0,), (0,), False), ((0, 1), (1,), False), ((1, 2), (0,), True), ((0,), (), False), ((), (0,), True),
        ((0,), (1,), True), ((0, 1, 2), (0, 1, 2), False),
    ):  # fmt: skip
        assert breaks(failed_at(*after), failed_at(*before)) is broke
    unparsed = Outcome(False, False, 0, 3, "syntax error", (Failure("", "syntax error"),))
    assert breaks(unparsed, failed_at(1)) and not breaks(unparsed, unparsed) and not breaks(failed_at(1), unparsed)
    many = failed_at(*range(10), tests=20)  # of twelve failures ten are told
    assert not breaks(replace(many, held=8), replace(many, held=8)) and breaks(replace(many, held=7), many)


def test_apps_shows_the_samples_of_the_question(execution, tmp_path):
    (tmp_path / "apps.jsonl").write_text("".join(json.dumps(row) + "\n" for row in PROBLEMS))
    suite = apps.read(apps.AppsConfig(data=str(tmp_path / "apps.jsonl")))
    parts = split(suite, 5, execution, 3.0)
    assert [part.shown.tests for part in parts] == [
        ("for the input\n2\n\nthe output is\n4\n",),
        ("twice([1, 23]) == [1, 23, 1, 23]",),
    ]
    judge = VisibleJudge({part.shown.number: part.visible for part in parts}, execution, 3.0)
    found = judge.judge(
        [(0, "print(4)"), (0, "print(5)"), (1, "def twice(x): return x * 2"), (1, "def twice(x): return x")]
    )
    assert [(outcome.passed, outcome.held, outcome.tests) for outcome in found] == [
        (True, 1, 1), (False, 0, 1), (True, 1, 1), (False, 0, 1),
    ]  # fmt: skip
    cut = [split(replace(suite, tasks=[replace(t, problem=replace(t.problem, question="?")) for t in suite.tasks]), 5,
                 execution, 3.0)[n] for n in (0, 1)]  # fmt: skip
    blind = VisibleJudge({part.shown.number: part.visible for part in cut}, execution, 3.0)
    compiled = blind.judge(
        [(0, "print(input())"), (0, "print("), (1, "def twice(x): return"), (1, "def twice(x: return")]
    )
    assert [outcome.passed for outcome in compiled] == [True, False, True, False]
    assert found[1].failures[0].got == "5" and found[3].failures[0].got == "[1, 23]"
    lazy, right = (execution.judge(parts[0].hidden(s), 3.0, "all") for s in ("print(4)", "print(2 * int(input()))"))
    assert [parts[0].combine(verdicts).passed for verdicts in (lazy, right)] == [False, True]
