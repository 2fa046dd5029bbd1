"""QuixBugs (Lin et al. 2017): small programs with one bug each, their fixed versions, and cases as JSON.

A case is the arguments of a call and its result, as JSON: tuples and what a generator yields count as lists. Three of
the 31 cannot be told from their bug in that way (``SPECIAL``).
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from evals.benchmarks.rows import read_rows, shown
from evals.benchmarks.suite import CodeConfig, Suite, Task
from evals.sandbox.types import Program
from llama_scale.errors import InputError

LONG_BITS = 14_000  # of an integer of fewer digits than the 4,300 that Python writes
REMEDY = "give lines with name, buggy, fixed and cases, a list of [arguments, result]"
# Run by the judge: the result of a call in JSON's terms.
PLAIN = """
def __plain(x):
    if isinstance(x, (list, tuple)) or hasattr(x, "__next__"):
        return [__plain(v) for v in x]
    return x
"""
SPECIAL = {
    "knapsack": "the fixed program needs more memory or time than a program may have",
    "levenshtein": "the fixed program needs more time than a program may have",
    "sqrt": "the published results are closer than the fixed program's, by another rounding",
}


@dataclass(frozen=True)
class QuixBugsConfig(CodeConfig):
    """QuixBugs' programs; what is not told here is as in CodeConfig.

    Args:
        data: A jsonl file with one program to a line: name, buggy, fixed, cases.
        timeout: CPU seconds of one program.
    """

    suite: ClassVar[str] = "quixbugs"

    data: str | None = None

    @property
    def local_data(self) -> Path | None:
        """The file, if one is given."""
        return None if self.data is None else Path(self.data)


@dataclass(frozen=True)
class Problem:
    """A program as published: each of ``cases`` is (arguments, result)."""

    name: str
    buggy: str
    fixed: str
    cases: tuple[tuple[tuple[Any, ...], Any], ...]


def problems(path: Path) -> list[Problem]:
    """Read the programs in their order; raise InputError naming a field of another form."""
    known = []
    for row in read_rows(path, "quixbugs.data", REMEDY):
        cases = row.take("cases", list)
        for case in cases:
            if type(case) is not list or len(case) != 2 or type(case[0]) is not list:
                raise row.error("cases", f"a list with {shown(case)}", "a list of [arguments, result]")
        if not cases:
            raise row.error("cases", "empty", "at least one case")
        texts = {name: row.take(name, str) for name in ("name", "buggy", "fixed")}
        known.append(Problem(**texts, cases=tuple((tuple(case[0]), case[1]) for case in cases)))
    return known


def assertion(problem: Problem, case: tuple[tuple[Any, ...], Any]) -> str:
    """Return a case as an assertion."""
    arguments, result = case
    return f"assert __plain({problem.name}({', '.join(map(literal, arguments))})) == {literal(result)}"


def literal(value: Any) -> str:
    """Return a JSON value as Python: integers too long for it in hexadecimal, NaN and infinity by name."""
    if isinstance(value, list):
        return f"[{', '.join(map(literal, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{name!r}: {literal(item)}' for name, item in value.items())}}}"
    if type(value) is int and value.bit_length() > LONG_BITS:
        return hex(value)
    return f"float('{value}')" if isinstance(value, float) and not math.isfinite(value) else repr(value)


def program(problem: Problem, source: str) -> Program:
    """Return a program with all cases."""
    tests = "".join(f"{assertion(problem, case)}\n" for case in problem.cases)
    return Program(source, tests, (problem.name,), PLAIN)


def read(config: QuixBugsConfig) -> Suite:
    """Read the programs as tasks; the fixed one is the reference, and a task's prompt is the buggy one."""
    if config.local_data is None:
        raise InputError(f"quixbugs.data: name the file; {REMEDY}")
    return Suite(config, [_task(problem) for problem in problems(config.local_data)], {"profile": "python"})


def _task(problem: Problem) -> Task:
    name, judged = f"QuixBugs/{problem.name}", SPECIAL.get(problem.name, "")
    return Task(name, problem.buggy, lambda source: [program(problem, source)], problem.fixed, judged, problem=problem)
