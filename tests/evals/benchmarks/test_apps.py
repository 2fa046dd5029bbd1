import json
from dataclasses import replace

import pytest

from evals.benchmarks.apps import AppsConfig, Problem, combine_verdicts, problems, programs, prompt, read
from evals.sandbox.output import same_output
from evals.sandbox.pool import Sandbox
from llama_scale.errors import InputError
from tests.conftest import ROOT

DATA = ROOT.parent / "shared" / "data" / "eval"
SMALL = ROOT / "tests" / "fixtures" / "apps.jsonl"  # of the same schema, for these tests
LENIENT = {2398, 2400}  # their solutions print the right words in another order


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox(2) as box:
        yield box


def data(name):
    if not (DATA / name).exists():
        pytest.skip(f"{DATA / name} is not there")
    return str(DATA / name)


def judged(sandbox, problem, source, config):
    return combine_verdicts(problem, list(sandbox.run(programs(problem, source, config), 4.0)), config)


def small():
    return [json.loads(line) for line in SMALL.read_text().splitlines()]


@pytest.mark.parametrize("judge", ["strict", "legacy"])
def test_small_solutions_pass(sandbox, judge):
    """One prints the right words in another order; one problem has no solution and no tests."""
    config = AppsConfig(data=str(SMALL), judge=judge)
    known = problems(config)
    assert [p.number for p in known] == [4001, 4002, 4003, 4004]
    assert [p.function for p in known] == [None, None, "above", None]
    passed = {(p.number, i): judged(sandbox, p, s, config).passed for p in known for i, s in enumerate(p.solutions)}
    legacy = judge == "legacy"
    assert passed == {(4001, 0): True, (4002, 0): legacy, (4003, 0): True, (4003, 1): True}
    verdict = judged(sandbox, known[0], "print(int(input()) ** 2)", config)
    assert (verdict.passed, verdict.assertions_passed, verdict.assertions) == (False, 2, 3)
    fewer = AppsConfig(data=str(SMALL), judge=judge, max_tests=1)
    verdict = judged(sandbox, known[0], "print(int(input()) ** 2)", fewer)
    assert (verdict.passed, verdict.assertions_passed, verdict.assertions) == (True, 1, 1)


def test_a_file_and_the_published_layout_are_one(tmp_path):
    names = {"question": "question.txt", "solutions": "solutions.json",
             "input_output": "input_output.json", "starter_code": "starter_code.py"}  # fmt: skip
    for row in small():
        folder = tmp_path / "apps" / "train" / f"{row['problem_id']:04d}"
        folder.mkdir(parents=True)
        for field, name in names.items():
            if row[field]:
                (folder / name).write_text(row[field])
        about = {"difficulty": row["difficulty"], "url": row["url"]}
        (folder / "metadata.json").write_text(json.dumps(about))
    for difficulty, count in (("introductory", 4), ("interview", 1), ("all", 5)):
        chosen = {"difficulty": difficulty, "split": "train"}
        expected = problems(AppsConfig(data=str(SMALL), **chosen))
        assert len(expected) == count
        assert problems(AppsConfig(data=str(tmp_path / "apps"), **chosen)) == expected
    suite = read(AppsConfig(data=str(SMALL), split="train"))
    assert suite.about == {"profile": "hendrycks", "judge": "strict", "split": "train"}
    assert suite.tasks[2].prompt == (
        "\nQUESTION:\nWrite a function that returns the numbers of a list that are above a limit.\n"
        "def above(xs, limit):\n\nUse Call-Based format\nANSWER:\n"
    )


def test_line_separators_inside_a_text_end_no_row(tmp_path):
    row = small()[0] | {"question": "one\u2028two\x85three"}
    file = tmp_path / "apps.jsonl"
    file.write_text(json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8")
    (problem,) = problems(AppsConfig(data=str(file)))
    assert problem.question == "one\u2028two\x85three"


@pytest.mark.parametrize("judge", ["strict", "legacy"])
def test_published_solutions_pass(sandbox, judge):
    config = AppsConfig(data=data("apps_introductory_50.jsonl"), judge=judge)
    known = problems(config)
    assert len(known) == 50 and sum(p.function is not None for p in known) == 12
    failed = {p.number for p in known if not any(judged(sandbox, p, s, config).passed for s in p.solutions[:3])}
    assert failed == (LENIENT if judge == "strict" else set())


def test_the_published_layout_is_read(sandbox):
    config = AppsConfig(data=data("apps_layout"), split="train", difficulty="all")
    known = problems(config)
    assert [p.number for p in known] == [1, 111, 2287, 2404, 4184]
    verdict = judged(sandbox, known[2], known[2].solutions[0], config)
    assert (verdict.passed, verdict.assertions_passed, verdict.assertions) == (True, 3, 3)


def test_reversed_output_is_wrong():
    assert same_output("1 \n2\n\n", "1\n2", "strict")
    assert not same_output("2\n1\n", "1\n2\n", "strict")
    assert same_output("2\n1\n", "1\n2\n", "legacy")
    assert not same_output("1.0000000001", "1.0", "strict")
    assert same_output("1.0000000001", "1.0", "legacy")
    assert not same_output("3", "1.0", "legacy")
    assert same_output("1\n2", ["1", "2"], "strict")


def test_hostile_programs_fail(sandbox):
    config = AppsConfig()
    problem = Problem(1, "", "", [], None, ["1\n", "2\n"], ["1\n", "4\n"])
    right = judged(sandbox, problem, "print(int(input()) ** 2)", config)
    assert (right.passed, right.assertions_passed) == (True, 2)
    for source in (
        "import os; os._exit(0)",
        "while True: print('1')",
        "print(1)",
        "print(int(input()) ** 2); raise ValueError",
        "open('/dev/stdout', 'w').write('1')",
        "import os\nfor n in range(64):\n  try: print(os.pread(n, 99, 0))\n  except OSError: 0",
    ):
        assert not judged(sandbox, problem, source, config).passed
    problem = Problem(1, "", "", [], "f", [[1], [2]], [[1], [4]])
    assert judged(sandbox, problem, "def f(x): return x * x", config).passed
    solution = "class Solution:\n  def f(self, x: int) -> List[int]: return [x * x]"
    assert judged(sandbox, problem, solution, config).passed
    for source in (
        "class E:\n  def __eq__(s, o): return True\ndef f(x): return E()",
        "class E(int):\n  def __eq__(s, o): return True\ndef f(x): return E(9)",
        "def f(x): return x",
        "import sys; sys.exit(0)",
    ):
        assert not judged(sandbox, problem, source, config).passed


SLOW = "def f(x):\n  import time\n  t = time.process_time()\n  while time.process_time() - t < .4: pass\n  return x * x"


def test_each_case_has_its_own_time(sandbox):
    problem = Problem(1, "", "", [], "f", [[n] for n in range(6)], [[n * n] for n in range(6)])
    config = AppsConfig(timeout=1.0)
    verdict = combine_verdicts(problem, list(sandbox.run(programs(problem, SLOW, config), 1.0)), config)
    assert (verdict.passed, verdict.assertions_passed, verdict.assertions) == (True, 6, 6)
    late = SLOW.replace(".4", "4 * (x == 2)")
    verdict = combine_verdicts(problem, list(sandbox.run(programs(problem, late, config), 1.0)), config)
    assert (verdict.reason, verdict.assertions_passed, verdict.assertions) == ("timeout", 5, 6)


def test_what_must_stand_first_may(sandbox):
    config = AppsConfig()
    first = "from __future__ import division\n"
    problem = Problem(1, "", "", [], None, ["4\n"], ["2.0\n"])
    assert judged(sandbox, problem, first + "print(int(input()) / 2 + gcd(1, 0) - 1)", config).passed
    problem = Problem(1, "", "", [], "f", [[4]], [2.0])
    assert judged(sandbox, problem, first + "def f(x) -> List[int]: return x / 2", config).passed


def test_functions_are_not_main(sandbox):
    problem = Problem(1, "", "", [], "f", [[2]], [4])
    source = "def f(x): return x * x\nif __name__ == '__main__':\n  print(f(int(input())))"
    assert judged(sandbox, problem, source, AppsConfig()).passed


@pytest.mark.parametrize("judge", ["strict", "legacy"])
def test_integers_of_any_length(sandbox, tmp_path, judge):
    file = tmp_path / "apps.jsonl"
    long = "7" * 5000
    cases = [
        f'{{"inputs": ["{long}\\n", [{long}]], "outputs": ["{long}\\n", [{long}]]}}',
        f'{{"fn_name": "f", "inputs": [[{long}], [[{long}]]], "outputs": [{long}, [[{long}]]]}}',
    ]
    rows = [{"problem_id": n, "question": "Q", "input_output": case} for n, case in enumerate(cases)]
    file.write_text("\n".join([*map(json.dumps, rows), f'{{"problem_id": 2, "question": "Q", "x": {long}}}']))
    config = AppsConfig(data=str(file), judge=judge)
    script, call, _ = problems(config)
    assert judged(sandbox, script, "print(int(input()))", config).passed
    assert not judged(sandbox, script, "print(int(input()) * 2)", config).passed
    assert judged(sandbox, call, "def f(x): return x", config).passed
    assert not judged(sandbox, call, "def f(x): return 8", config).passed


def test_what_json_has_and_python_writes_otherwise(sandbox):
    config = AppsConfig()
    values = [float("inf"), [None, True, float("-inf")], {"a": ["\ud83d"], "1": 2.5}, "\ud83d\ude00"]
    problem = Problem(1, "", "", [], "f", [[n] for n in range(4)], values)
    assert judged(sandbox, problem, f"inf = float('inf')\ndef f(n): return {values!r}[n]", config).passed
    assert judged(sandbox, problem, "def f(n): return 0", config).assertions_passed == 0


def test_a_named_tuple_and_a_text_of_an_enumeration_are_results(sandbox):
    problem = Problem(1, "", "", [], "f", [[0], [1]], [[1, 2], "x"])
    source = (
        "import enum\nP = collections.namedtuple('P', 'a b')\nclass E(str, enum.Enum):\n  A = 'x'\n"
        "def f(n): return E.A if n else P(1, 2)"
    )
    assert judged(sandbox, problem, source, AppsConfig()).passed


def test_prompts_are_the_golden_ones():
    golden = ROOT / "tests" / "golden"
    problem = Problem(1, "Add.", "def f(x):\n", [], "f", [], [])
    assert prompt(problem) == (golden / "apps-hendrycks-call.txt").read_bytes().decode()
    problem = replace(problem, starter="", function=None)
    assert prompt(problem) == (golden / "apps-hendrycks-stdin.txt").read_bytes().decode()


def test_a_problem_without_tests_is_never_solved(tmp_path):
    file = tmp_path / "apps.jsonl"
    row = {"problem_id": 4000, "question": "Q", "input_output": "", "solutions": "",
           "difficulty": "introductory"}  # fmt: skip
    file.write_text(json.dumps(row) + "\n")
    (task,) = read(AppsConfig(data=str(file))).tasks
    assert task.programs("print(1)") == [] and task.reference is None
    with pytest.raises(InputError, match=r"apps\.jsonl has no interview problem"):
        problems(AppsConfig(data=str(file), difficulty="interview"))
    with pytest.raises(InputError, match="cannot be read"):
        problems(AppsConfig(data=str(tmp_path / "none")))
