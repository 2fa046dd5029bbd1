"""APPS (Hendrycks et al. 2021, arXiv 2105.09938), introductory problems.

A problem is a question with test cases: standard input and the expected output, or arguments and the expected result of
a function. The official judge also accepts the right lines or words in any order, and calls a problem without tests
solved; ``judge: legacy`` follows it in the first.
"""

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from evals.benchmarks.rows import Row, from_hub, read_rows, read_whole
from evals.benchmarks.suite import CodeConfig, Suite, Task
from evals.sandbox import wire
from evals.sandbox.output import as_text
from evals.sandbox.types import Program, Script, Verdict
from llama_scale.errors import InputError

REMEDY = "give the published folder, or a file with one of its problems to a line"
# What the official judge puts before a solution, without numpy, which the sandbox does not have.
PREAMBLE = """import sys, time, itertools, collections, math, fractions, random, heapq
from itertools import accumulate, product, permutations, combinations
from collections import Counter, OrderedDict, deque, defaultdict, ChainMap
from functools import lru_cache
from math import sqrt, sin, cos, tan, ceil, fabs, floor, gcd, exp, log, log2
from typing import List, Tuple
from heapq import *
"""
# Run by the judge for a problem with a function: the result must be the expected one, a list and a tuple being the
# same; outputs are published with and without a list around them. Values are written as on the wire (wire.py), as repr
# can write neither infinity nor a long integer.
SAME = """
import json
from evals.sandbox.wire import decode
def __value(text):
    return decode(json.loads(text))
def __plain(x):
    if isinstance(x, (list, tuple)):
        return [__plain(v) for v in x]
    if isinstance(x, dict):
        return {str(k): __plain(v) for k, v in x.items()}
    return str.__str__(x) if isinstance(x, str) else x
def __same(got, expected):
    got, expected = __plain(got), __plain(expected)
    wrapped = isinstance(expected, list) and len(expected) == 1
    return type(got) == type(expected) and got == expected or (
        isinstance(got, (int, float)) and got == expected) or (
        wrapped and (type(got) == type(expected[0]) or isinstance(got, (int, float)))
        and got == expected[0])
"""


@dataclass(frozen=True)
class AppsConfig(CodeConfig):
    """APPS completions and reference solutions; what is not told here is as in CodeConfig.

    Args:
        data: A jsonl file, or a folder with one folder for each problem as published; null fetches codeparrot/apps from
            the Hub.
        difficulty: Which problems are asked.
        split: Split of the data set, on the Hub or as a folder.
        judge: strict compares line by line; legacy also accepts lines or words in any order and nearly equal numbers.
        max_tests: Test cases run of each problem; null is all.
        sampling: How completions are drawn.
        timeout: CPU seconds of one test case.
    """

    suite: ClassVar[str] = "apps"

    data: str | None = None
    difficulty: Literal["introductory", "interview", "competition", "all"] = "introductory"
    split: Literal["test", "train"] = "test"
    judge: Literal["strict", "legacy"] = "strict"
    max_tests: int | None = None
    timeout: float = 4.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check("max_tests", self.max_tests is None or self.max_tests > 0)

    @property
    def local_data(self) -> Path | None:
        """The file, or the folder of the split's problems, if one is given."""
        path = None if self.data is None else Path(self.data)
        return path / self.split if path and (path / self.split).is_dir() else path


@dataclass(frozen=True)
class Problem:
    """A problem as published.

    ``inputs`` and ``outputs`` are standard input and output, or, of a problem with a ``function``, its arguments and
    what it returns. ``number`` is a folder's path where there are several splits.
    """

    number: int | str
    question: str
    starter: str
    solutions: list[str]
    function: str | None
    inputs: list[Any]
    outputs: list[Any]


def problems(config: AppsConfig) -> list[Problem]:
    """Read the problems of a difficulty, by number; raise InputError if there is none or the data cannot be read."""
    path = config.local_data
    if path is None:
        loaded = from_hub(
            "apps", "folder or a jsonl file", "codeparrot/apps", revision="refs/convert/parquet", split=config.split
        )
        rows = [Row(f"apps: the Hub's row {n}", REMEDY, row) for n, row in enumerate(loaded, 1)]
    elif path.is_dir():
        folders = sorted(folder for folder in path.iterdir() if folder.is_dir())
        rows = [read_folder(folder, folder.name) for folder in folders]
    else:
        rows = read_rows(path, "apps.data", REMEDY)
    if not rows:
        raise InputError(f"apps.data: {path} has no problem's folder; {REMEDY}")
    chosen = [row for row in rows if config.difficulty in ("all", _difficulty(row))]
    if not chosen:
        source = path or "the Hub's data"
        raise InputError(f"apps.difficulty: {source} has no {config.difficulty} problem; {REMEDY}")
    known = [parse_problem(row, row.number(number_field(row))) for row in chosen]
    return sorted(known, key=lambda problem: problem.number)


def read_folder(folder: Path, number: str, setting: str = "apps.data") -> Row:
    """Read a problem as published, a folder of its own; InputErrors name the ``setting``."""
    fields = {"problem_id": number}
    for name in ("question.txt", "starter_code.py", "solutions.json", "input_output.json", "metadata.json"):
        file = folder / name
        try:
            fields |= {file.stem: read_whole(file).decode()} if file.exists() else {}
        except (OSError, ValueError) as error:
            raise InputError(f"{setting}: {file} cannot be read ({error}); {REMEDY}") from None
    return Row(f"{setting}: {folder}", REMEDY, fields)


def number_field(row: Row) -> str:
    """Return the name of the field with the problem's number."""
    return row.either("problem_id", "id")


def parse_problem(row: Row, number: int | str) -> Problem:
    """Return the problem of a row; raise InputError naming a field of another form."""
    cases = Row(row.where, row.remedy, row.unpack("input_output", dict, {}))
    return Problem(
        number=number,
        question=row.take("question", str),
        starter=row.take("starter_code", str, ""),
        solutions=row.texts("solutions", []),
        function=cases.take("fn_name", str, "") or None,
        inputs=cases.take("inputs", list, []),
        outputs=cases.take("outputs", list, []),
    )


def _difficulty(row: Row) -> str:
    if "metadata" in row.fields:
        row = Row(row.where, row.remedy, row.unpack("metadata", dict, {}))
    return row.take("difficulty", str, "introductory")


def prompt(problem: Problem) -> str:
    """Return the prompt of Hendrycks et al."""
    starter = f"\n{problem.starter}" if problem.starter else ""
    kind = "Call-Based" if problem.function else "Standard Input"
    return f"\nQUESTION:\n{problem.question}{starter}\nUse {kind} format\nANSWER:\n"


def programs(problem: Problem, source: str, config: AppsConfig) -> list[Program | Script]:
    """Return a program for each test case, so that each has its own time."""
    inputs, name = problem.inputs[: config.max_tests], problem.function
    if not name:
        outputs = itertools.chain(map(as_text, problem.outputs), itertools.repeat(None))
        return [
            Script(source, as_text(case), expected=expected, judge=config.judge, preamble=PREAMBLE)
            for case, expected in zip(inputs, outputs, strict=False)
        ]
    cases = zip(inputs, problem.outputs, strict=False)
    tests = [f"assert __same({name}(*{_value(case)}), {_value(result)})\n" for case, result in cases]
    return [Program(source, test, (name,), SAME, preamble=PREAMBLE, methods=True) for test in tests]


def _value(value: Any) -> str:
    """Return an expression of the tests (SAME) for a JSON value."""
    return f"__value({json.dumps(wire.encode(value))!r})"


def combine_verdicts(problem: Problem, verdicts: Sequence[Verdict], config: AppsConfig) -> Verdict:
    """Return one verdict on all cases: passed if every one did, else with the first's reason."""
    right = [verdict.passed for verdict, _ in zip(verdicts, problem.outputs, strict=False)]
    reason = verdicts[right.index(False)].reason if False in right else "passed"
    passed = sum(right) == len(verdicts)
    counts = {"assertions_passed": sum(right), "assertions": len(verdicts)}
    return replace(verdicts[0], passed=passed, reason=reason, seconds=0.0, **counts)


def read(config: AppsConfig) -> Suite:
    """Read the problems as tasks. pass@1 is the strict accuracy, ``assertion_pass_rate`` the test-case average."""
    about = {"profile": "hendrycks", "judge": config.judge, "split": config.split}
    return Suite(config, [task(problem, config) for problem in problems(config)], about)


def task(problem: Problem, config: AppsConfig) -> Task:
    """Return a problem as a task that is judged on all of its cases."""
    return Task(
        f"APPS/{problem.number}",
        prompt(problem),
        lambda completion: programs(problem, completion, config),
        problem.solutions[0] if problem.solutions else None,
        combine=lambda verdicts: combine_verdicts(problem, verdicts, config),
        problem=problem,
    )
