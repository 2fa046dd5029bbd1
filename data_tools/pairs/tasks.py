"""Tasks of MBPP and MBXP with published solutions as pairs: the training split to tune on, the test split held out.

In format ``task`` the prompt is the one that the evaluation gives (MBPP's of its profile incoder). A task of MBXP has
one id in all languages, so a random subset of the pairs of one language is the same tasks in another.
"""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from data_tools.pairs.docstrings import DocumentedFunction
from evals.benchmarks import mbpp, mbxp
from llama_scale.errors import InputError

LICENSE = "CC-BY-4.0"
DOCUMENTATION = {
    "python": re.compile(r'[ \t]*("""|\'\'\').*?\1[ \t]*\n', re.S),
    "java": re.compile(r"[ \t]*/\*\*.*?\*/[ \t]*\n", re.S),
    "javascript": re.compile(r"[ \t]*/\*\*.*?\*/[ \t]*\n", re.S),
}


@dataclass(frozen=True)
class SolvedTask:
    """A task as a documented function, and as the prompt that its evaluation gives, which the solution continues."""

    id: str
    function: DocumentedFunction
    prompt: str
    solution: str


def mbpp_tasks(path: str | None, split: str, whole: bool, dropped: Counter[str]) -> Iterator[SolvedTask]:
    """Yield the tasks of a split of mbpp.jsonl; None fetches them from the Hub.

    Programs of several functions have no signature of their own: they are left out, unless ``whole`` programs are
    asked for. Raises InputError as the reader does.
    """
    first, last = mbpp.SPLITS[split]
    for problem in mbpp.problems(path):
        if not first <= problem.number <= last:
            continue
        function = one_function(problem.code, problem.text, problem.number)
        if whole:
            code = problem.code.strip() + "\n"
            function = DocumentedFunction("", problem.number, " ".join(problem.text.split()), code, "")
        if function is None:
            dropped["several functions"] += 1
            continue
        yield SolvedTask(f"MBPP/{problem.number}", function, mbpp.prompt(problem, "incoder", ()), function.code)


def one_function(code: str, doc: str, line: int) -> DocumentedFunction | None:
    """Return a program as imports and one function; None if it is something else."""
    code = code.replace("\t", "    ").strip() + "\n"
    try:
        tree = mbpp.parsed(code)
    except SyntaxError:  # tabs and spaces, mixed
        return None
    *before, node = tree.body
    if not isinstance(node, ast.FunctionDef) or not all(isinstance(n, ast.Import | ast.ImportFrom) for n in before):
        return None
    begin = node.body[0].lineno - 1
    lines = code.split("\n")
    if begin < node.lineno or lines[begin - 1].strip().startswith("#"):
        return None
    signature, body = "\n".join(lines[:begin]) + "\n", "\n".join(lines[begin:])
    return DocumentedFunction(node.name, line, " ".join(doc.split()), signature, body)


def mbxp_tasks(path: str | None, language: str, split: str) -> Iterator[SolvedTask]:
    """Yield the tasks of a split that have a usable solution in all three languages, in one of them."""
    if path is None:
        raise InputError(f"path: no folder is set; {mbxp.REMEDY}")
    numbers = set(mbxp.split_numbers(mbxp.paired_numbers(path), split))
    for problem in mbxp.problems(path, language):
        if problem.number in numbers and problem.solution is not None:
            solution = problem.solution.rstrip() + "\n"
            signature = DOCUMENTATION[language].sub("", problem.prompt, count=1).lstrip("\n")
            function = DocumentedFunction(problem.entry_point, problem.number, problem.description, signature, solution)
            yield SolvedTask(f"MBXP/{problem.number}", function, problem.prompt, solution)
