"""MBXP (Athiwaratkun et al. 2022, arXiv 2210.14868): MBPP's tasks in Python, Java and JavaScript, judged by tests.

The same numbers are the same tasks, so languages can be compared task by task; splits are MBPP's. Java and JavaScript
programs print the values that their tests ask for, and these are compared outside (mbxp_values.py): a program has no
expected value in its process, and one that ends early or prints what it likes passes nothing.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal

from evals.benchmarks.mbpp import SPLITS, STOPS
from evals.benchmarks.mbxp_values import CALLED, GIVEN, LOADED, driver, expected_lines, java_imports, reason_of
from evals.benchmarks.rows import Row, read_rows
from evals.benchmarks.suite import CodeConfig, Suite, Task
from evals.sandbox.types import Program, Script, Verdict
from llama_scale.errors import InputError

FILES = {"python": "mbpp_release_v1.jsonl", "java": "mbjp_release_v1.2.jsonl", "javascript": "mbjsp_release_v1.2.jsonl"}
REMEDY = f"give the folder of MBXP's {', '.join(FILES.values())}"
# Solutions that fail their own tests, found by running every one; a slow test runs the others.
FAILING = {
    "python": {56, 64, 160, 349, 367, 596, 601, 607, 631, 642, 899, 927, 966, 967},
    "java": {106, 180, 198, 300, 325, 397, 432, 535, 553, 579, 622, 738, 835, 904},
    "javascript": {174, 230, 237, 243, 363, 473, 490, 546, 585, 653, 668, 679, 795, 844, 921, 939},
}
LITERAL = 6  # characters from which a text or list of the tests is no accident in a solution
LANGUAGE_STOPS = {"python": (*STOPS["incoder"], "\ndef"), "java": ("\n}",), "javascript": ("\n}",)}


@dataclass(frozen=True)
class MbxpConfig(CodeConfig):
    """MBXP completions and reference solutions; what is not told here is as in CodeConfig.

    Args:
        data: The folder with the published files.
        language: The language of prompts, programs and tests.
        split: Which tasks are asked, by MBPP's numbers: test is 11 to 510.
        paired: Only tasks that have a usable solution in all three languages.
        timeout: CPU seconds of one program, the start of Java or node aside.
    """

    suite: ClassVar[str] = "mbxp"

    data: str | None = None
    language: Literal["python", "java", "javascript"] = "python"
    split: Literal["prompt", "test", "validation", "train", "all"] = "test"
    paired: bool = True
    timeout: float = 8.0

    @property
    def local_data(self) -> Path | None:
        """The folder, if one is given."""
        return None if self.data is None else Path(self.data)

    @property
    def file_name(self) -> str:
        """The stem of result files: one for each language."""
        return f"{self.suite}-{self.language}"


@dataclass(frozen=True)
class Problem:
    """A task in one language; ``solution`` continues ``prompt``, with the parameters' names as they stand there.

    ``description`` is what the prompt asks for, without its examples.
    """

    number: int
    language: str
    prompt: str
    entry_point: str
    test: str
    solution: str | None
    description: str = ""


def problems(data: str | None, language: str) -> list[Problem]:
    """Read a language's tasks, by number; solutions that cannot serve as references are left out.

    Raises InputError if the file cannot be read or a row has another form.
    """
    if data is None:
        raise InputError(f"mbxp.data: no folder is set; {REMEDY}")
    rows = read_rows(Path(data) / FILES[language], "mbxp.data", REMEDY)
    return sorted((_problem(row, language) for row in rows), key=lambda problem: problem.number)


def _problem(row: Row, language: str) -> Problem:
    name = row.take("task_id", str)
    number = name.partition("/")[2]
    if not number.isdecimal():
        raise row.error("task_id", repr(name), "a name, a stroke and a number")
    problem = Problem(
        number=int(number),
        language=language,
        prompt=row.take("prompt", str),
        entry_point=row.take("entry_point", str),
        test=row.take("test", str),
        solution=row.take("canonical_solution", str, "") or None,
        description=row.take("description", str, ""),
    )
    if language != "python":
        try:
            expected_lines(problem.test, language)
        except ValueError as error:
            raise row.error("test", str(error), "tests as published") from None
    if problem.solution is None:
        return problem
    solution = with_parameters(problem.solution, problem)
    usable = problem.number not in FAILING[language] and not lists_tests(solution, problem)
    return replace(problem, solution=solution if usable else None)


def with_parameters(solution: str, problem: Problem) -> str:
    """Return a solution with the prompt's parameter names: published ones may differ in capital letters.

    A first letter is as it is: ``String`` is no other form of a parameter ``string``.
    """
    signature = problem.prompt[problem.prompt.rfind(f"{problem.entry_point}(") :]
    for name in re.findall(r"(\w+)\s*[,)=]", signature.partition("(")[2]):
        form = rf"(?<![\w.]){name[0]}(?i:{name[1:]})\b"
        solution = re.sub(form, name, solution)
    return solution


def lists_tests(solution: str, problem: Problem) -> bool:
    """Whether a solution holds what its tests call it with: texts, lists or all of the numbers."""
    tight = re.sub(r"\s", "", solution)
    if problem.language == "python":
        arguments = [call[1:-1] for call in re.findall(CALLED["python"], problem.test, re.M)]
    else:
        arguments = re.findall(GIVEN, problem.test, re.M)
    arguments = [re.sub(r"\s", "", argument) for argument in arguments]
    whole = [argument for argument in arguments if len(argument) >= LITERAL]
    numbers = {argument for argument in arguments if re.fullmatch(r"-?\d{2,}(\.\d+)?", argument)}
    known = set(re.findall(r"-?\b\d+(?:\.\d+)?\b", solution))
    return any(argument in tight for argument in whole) or (len(numbers) > 1 and numbers <= known)


def paired_numbers(data: str | None) -> set[int]:
    """Return the numbers of the tasks that have a usable solution in all three languages."""
    each = [{p.number for p in problems(data, language) if p.solution is not None} for language in FILES]
    return set.intersection(*each)


def split_numbers(numbers: set[int], split: str) -> list[int]:
    """Return those of a split of MBPP's, in order."""
    first, last = SPLITS[split]
    return sorted(number for number in numbers if first <= number <= last)


def whole_source(problem: Problem, completion: str) -> str:
    """Return prompt and completion: in Java and JavaScript what follows the class or function is cut off.

    A last brace that a stop string took away is put back.
    """
    text = problem.prompt + completion
    if problem.language == "python":
        return text
    end, depth = end_of_braces(text, len(problem.prompt))
    return text[:end] if end else text + "\n}" * (depth == 1)


SKIPPED = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'|`(?:\\.|[^`\\])*`|[{}]', re.S)


def end_of_braces(text: str, start: int) -> tuple[int, int]:
    """Return where, from ``start`` on, the last open brace is closed, 0 if nowhere, and how many are open at the end.

    Braces in comments and in texts are not counted.
    """
    depth = 0
    for match in SKIPPED.finditer(text):
        depth += {"{": 1, "}": -1}.get(match[0], 0)
        if match[0] == "}" and depth == 0 and match.end() > start:
            return match.end(), 0
    return 0, depth


def program(problem: Problem, completion: str) -> Program | Script:
    """Return a program with its tests: called by the judge in Python, else printing what they ask for."""
    source = whole_source(problem, completion)
    if problem.language == "python":
        return Program(source, f"{problem.test}\ncheck({problem.entry_point})\n", (problem.entry_point,))
    if problem.language == "java":
        imports, rest = java_imports(source)
        source = f"{imports}\n{driver(problem.test, 'java')}\n{rest}\n"
    else:
        source = driver(problem.test, "javascript").replace("//SOLUTION\n", source + "\n", 1)
    lines = [LOADED, *expected_lines(problem.test, problem.language)]
    return Script(source, language=problem.language, expected="\n".join(lines))


def with_counts(problem: Problem, verdict: Verdict) -> Verdict:
    """Return a verdict with the tests that held, whether the program was loaded, and why one failed."""
    if problem.language == "python":
        return verdict
    expected, found = expected_lines(problem.test, problem.language), verdict.output.split("\n")
    held = [wanted == line for wanted, line in zip(expected, found[1:], strict=False)]
    loads, reason = found[0] == LOADED, verdict.reason
    if reason in ("wrong answer", "raised"):
        reason = reason_of(expected, found[1:]) if loads else "not loaded"
    return replace(verdict, reason=reason, loads=loads, assertions_passed=sum(held), assertions=len(expected))


def read(config: MbxpConfig) -> Suite:
    """Read the tasks of the split in the language; raise InputError if there is none."""
    known = problems(config.data, config.language)
    numbers = paired_numbers(config.data) if config.paired else {problem.number for problem in known}
    chosen = set(split_numbers(numbers, config.split))
    tasks = [_task(problem) for problem in known if problem.number in chosen]
    if not tasks:
        raise InputError(f"mbxp.split: {config.data} has no task of {config.split}; {REMEDY}")
    about = {name: getattr(config, name) for name in ("language", "split", "paired")}
    return Suite(config.with_stops(LANGUAGE_STOPS[config.language]), tasks, about)


def _task(problem: Problem) -> Task:
    def programs(completion: str) -> Sequence[Program | Script]:
        return [program(problem, completion)]

    return Task(
        f"MBXP/{problem.number}",
        problem.prompt,
        programs,
        problem.solution,
        combine=lambda verdicts: with_counts(problem, verdicts[0]),
        language=problem.language,
        source=lambda completion: whole_source(problem, completion),
    )
