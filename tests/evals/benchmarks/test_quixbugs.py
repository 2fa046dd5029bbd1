"""QuixBugs: fixed programs pass, those with a bug do not, and what cannot be told apart has a reason."""

import json

import pytest

from evals.benchmarks import quixbugs
from evals.sandbox.pool import Sandbox
from llama_scale.errors import InputError
from tests.conftest import ROOT

SHARED = ROOT.parent / "shared" / "data" / "repair" / "quixbugs.jsonl"


def test_results_are_compared_in_the_terms_of_json(tmp_path):
    row = {"name": "pairs", "buggy": "def pairs(n): return n", "fixed": "", "cases": [[[2], [[0, 1], [1, 2]]]]}
    (tmp_path / "q.jsonl").write_text(json.dumps(row))
    (problem,) = quixbugs.problems(tmp_path / "q.jsonl")
    sources = [
        "def pairs(n): return [(i, i + 1) for i in range(n)]",
        "def pairs(n):\n    for i in range(n): yield [i, i + 1]",
        "def pairs(n): return [[0, 1]]",
        row["buggy"],
    ]
    with Sandbox(1) as box:
        verdicts = list(box.run([quixbugs.program(problem, source) for source in sources], 2.0))
    assert [verdict.passed for verdict in verdicts] == [True, True, False, False]


def test_numbers_that_python_writes_otherwise(tmp_path):
    """Integers of over 4,300 digits, which it does not write at all, infinity and NaN."""
    long = "7" * 5_000
    cases = f'[[[{long}, {{"a": [-{long}]}}], [{long}]], [[Infinity, {{"a": [1]}}], [-Infinity]]]'
    text = f'{{"name": "f", "buggy": "", "fixed": "", "cases": {cases}}}'
    (tmp_path / "q.jsonl").write_text(text)
    (problem,) = quixbugs.problems(tmp_path / "q.jsonl")
    right = "def f(x, y): return [x if x < 9e999 else -x]\n"
    with Sandbox(1) as box:
        verdicts = list(box.run([quixbugs.program(problem, s) for s in (right, right.replace("-x", "x"))], 2.0))
    assert [verdict.passed for verdict in verdicts] == [True, False]
    (tmp_path / "q.jsonl").write_text(text.replace(cases, f"[[[{long}], 1, 2]]"))
    with pytest.raises(InputError, match=r"field 'cases' is a list with .*; give lines"):
        quixbugs.problems(tmp_path / "q.jsonl")


@pytest.mark.parametrize("cases", [[], [[1]], [[1, 2]], "x", [[[1], 2, 3]]])
def test_cases_of_another_form_are_refused(tmp_path, cases):
    (tmp_path / "q.jsonl").write_text(json.dumps({"name": "n", "buggy": "", "fixed": "", "cases": cases}))
    with pytest.raises(InputError, match=r"field 'cases' is .*; give lines with name, buggy, fixed and cases"):
        quixbugs.problems(tmp_path / "q.jsonl")


def test_a_missing_file_is_named():
    with pytest.raises(InputError, match=r"quixbugs\.data: name the file"):
        quixbugs.read(quixbugs.QuixBugsConfig())


@pytest.mark.slow
def test_fixed_programs_pass_and_those_with_a_bug_fail():
    if not SHARED.exists():
        pytest.skip(f"{SHARED} is not here")
    known = quixbugs.problems(SHARED)
    with Sandbox(2) as box:
        fixed = list(box.run([quixbugs.program(problem, problem.fixed) for problem in known], 3.0))
        buggy = list(box.run([quixbugs.program(problem, problem.buggy) for problem in known], 3.0))
    apart = {p.name for p, good, bad in zip(known, fixed, buggy, strict=True) if good.passed and not bad.passed}
    assert len(apart) == 28 and {p.name for p in known} - apart == set(quixbugs.SPECIAL)
    assert not any(verdict.passed for verdict in buggy)
