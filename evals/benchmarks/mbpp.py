"""MBPP (Austin et al. 2021, arXiv 2108.07732): 974 short functions, each with three assertions.

The tests run after the task's set-up code, which runs after the solution. Tasks 1-10 are for prompts, 11-510 are the
test split, 511-600 validation, 601-974 training.
"""

import ast
import builtins
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, Literal

from evals.benchmarks.rows import Row, from_hub, read_rows
from evals.benchmarks.suite import CodeConfig, Suite, Task
from evals.sandbox.types import Program
from llama_scale.errors import InputError

HUB_NAME = "google-research-datasets/mbpp"
SPLITS = {"prompt": (1, 10), "test": (11, 510), "validation": (511, 600), "train": (601, 974), "all": (1, 974)}
SHOTS = (2, 3, 4)
STOPS = {"google": ("[DONE]",), "incoder": ("\nclass", "\nassert", '\n"""', "\nprint", "\nif", "\n<|/", "\n```")}
REMEDY = "give mbpp.jsonl or sanitized-mbpp.json as published"
BY_REFERENCE = "tests hold the program's objects by reference"


@dataclass(frozen=True)
class MbppConfig(CodeConfig):
    """MBPP completions and reference solutions; what is not told here is as in CodeConfig.

    Args:
        data: mbpp.jsonl or sanitized-mbpp.json as published; null fetches it from the Hub.
        sanitized: The 427 tasks checked by hand, of those in the split.
        split: Which tasks are asked: test is 11 to 510.
        profile: google (three solved tasks, then the question) or incoder (a docstring with one assertion). Their
            scores must not be mixed.
        timeout: CPU seconds of one program; the reference of task 123 needs 2.4.
    """

    suite: ClassVar[str] = "mbpp"

    data: str | None = None
    sanitized: bool = False
    split: Literal["prompt", "test", "validation", "train", "all"] = "test"
    profile: Literal["google", "incoder"] = "google"
    timeout: float = 8.0

    @property
    def local_data(self) -> Path | None:
        """The file, if one is given."""
        return None if self.data is None else Path(self.data)


@dataclass(frozen=True)
class Problem:
    """A task as published.

    ``setup`` runs after a solution and before the ``tests``; ``challenge_tests`` are published beside these, never run.
    """

    number: int
    text: str
    code: str
    tests: list[str]
    imports: list[str] = field(default_factory=list)
    setup_code: str = ""
    challenge_tests: list[str] = field(default_factory=list)

    @property
    def setup(self) -> str:
        """The imports, then the set-up code."""
        return "\n".join(filter(None, ("\n".join(self.imports), self.setup_code)))


def read_file(path: Path, setting: str = "mbpp.data") -> Iterator[Problem]:
    """Yield the tasks of mbpp.jsonl or sanitized-mbpp.json as they are; InputErrors name the ``setting``."""
    return map(_problem, read_rows(path, setting, REMEDY))


def problems(data: str | None = None, sanitized: bool = False) -> list[Problem]:
    """Read and check the tasks, by number, with line ends of one kind; without ``data`` they come from the Hub."""
    if data is None:
        version, file = ("sanitized", "sanitized-mbpp.json") if sanitized else ("full", "mbpp.jsonl")
        splits = from_hub("mbpp", file, HUB_NAME, version)
        numbered = [(name, n, row) for name, split in splits.items() for n, row in enumerate(split, 1)]
        rows = [Row(f"mbpp: the Hub's {name} split, row {n}", REMEDY, row) for name, n, row in numbered]
    else:
        rows = read_rows(Path(data), "mbpp.data", REMEDY)
    return sorted(map(_checked, rows), key=lambda problem: problem.number)


def _problem(row: Row) -> Problem:
    return Problem(
        number=row.number("task_id"),
        text=row.take(row.either("text", "prompt"), str),
        code=row.take("code", str),
        tests=row.texts("test_list"),
        imports=row.texts("test_imports", []),
        setup_code=row.take("test_setup_code", str, ""),
        challenge_tests=row.texts("challenge_test_list", []),
    )


def _checked(row: Row) -> Problem:
    """Return the task of a row if it can be run, with line ends of one kind."""
    problem = _problem(row)
    problem = replace(
        problem,
        code=problem.code.replace("\r\n", "\n"),
        tests=[test.replace("\r\n", "\n") for test in problem.tests],
        setup_code=problem.setup_code.replace("\r", ""),
    )
    if not problem.tests:
        raise row.error("test_list", "empty", "at least one test")
    for name, source in (("code", problem.code), ("test_list", "\n".join([problem.setup, *problem.tests]))):
        try:
            parsed(source)
        except (SyntaxError, ValueError, RecursionError) as error:
            raise row.error(name, f"not Python ({getattr(error, 'msg', error)})", "what Python parses") from None
    return problem


def parsed(code: str) -> ast.Module:
    """Return the tree of published code, some of which has escapes that are warned of."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ast.parse(code)


def free_names(code: str) -> set[str]:
    """Return the names that code reads and does not bind."""
    loaded, bound = set(), set()
    for node in ast.walk(parsed(code)):
        if isinstance(node, ast.Name):
            (loaded if isinstance(node.ctx, ast.Load) else bound).add(node.id)
        elif isinstance(node, ast.alias):
            bound.add((node.asname or node.name).split(".")[0])
        elif isinstance(node, ast.arg):
            bound.add(node.arg)
    return loaded - bound


def program(problem: Problem, source: str) -> Program:
    """Return a program with its tests.

    A name in the tests is the program's, unless it is a module, or a builtin that the reference does not define anew.
    Where tests build the reference's classes, they hold them by reference.
    """
    tests = "\n".join([problem.setup, *problem.tests])
    reference = parsed(problem.code)
    defined = {n.name for n in reference.body if isinstance(n, ast.FunctionDef | ast.ClassDef)}
    classes = {node.name for node in reference.body if isinstance(node, ast.ClassDef)}
    free = free_names(tests)
    modules = {n for n in free - defined if n in sys.stdlib_module_names}
    names = {n for n in free if n in defined or not hasattr(builtins, n)} - modules
    setup = "\n".join(f"import {name}" for name in sorted(modules))
    return Program(source, tests, tuple(sorted(names)), setup, bool(classes & free))


def prompt(problem: Problem, profile: str, shots: Sequence[Problem]) -> str:
    """Return the prompt of a task. google: after Austin et al. with the tasks ``shots`` solved."""
    if profile == "incoder":
        return f'"""\n{problem.text}\n{problem.tests[0]}\n"""\n'
    solved = [f"{_question(shot)}{shot.code}\n[DONE]\n\n" for shot in shots]
    return "".join(solved) + _question(problem)


def _question(problem: Problem) -> str:
    tests = "\n".join(problem.tests)
    return (
        f"You are an expert Python programmer, and here is your task: {problem.text} "
        f"Your code should pass these tests:\n\n{tests}\n[BEGIN]\n"
    )


def read(config: MbppConfig) -> Suite:
    """Read the tasks of the split, with the prompts of the profile; raise InputError if any of these is missing."""
    known = problems(config.data, config.sanitized)
    source = config.data or "the Hub's data"
    first, last = SPLITS[config.split]
    by_number = {problem.number: problem for problem in known}
    shots = [by_number[n] for n in SHOTS if n in by_number]
    if config.profile == "google" and len(shots) < (2 if config.sanitized else len(SHOTS)):
        raise InputError(
            f"mbpp.data: {source} lacks tasks 2, 3 and 4, which the google prompt shows; {REMEDY}, "
            "or set mbpp.profile to incoder"
        )
    chosen = [_task(p, config.profile, shots) for p in known if first <= p.number <= last]
    if not chosen:
        raise InputError(f"mbpp.split: {source} has no task of {config.split}; {REMEDY}")
    about = {name: getattr(config, name) for name in ("profile", "split", "sanitized")}
    return Suite(config.with_stops(STOPS[config.profile]), chosen, about)


def _task(problem: Problem, profile: str, shots: Sequence[Problem]) -> Task:
    label = BY_REFERENCE if program(problem, "").objects else ""
    text = prompt(problem, profile, shots)
    return Task(
        f"MBPP/{problem.number}", text, lambda source: [program(problem, source)], problem.code, label, problem=problem
    )
