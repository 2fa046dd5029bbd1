"""A suite's tasks in two halves: what may be shown, and the tests that stay hidden until the last draw."""

import ast
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from evals.benchmarks import apps, humaneval, mbpp, quixbugs
from evals.benchmarks.docstring_examples import docstring_examples
from evals.benchmarks.suite import Suite, Task
from evals.sandbox.types import Program, Script, Verdict
from evals.verdicts import Execution
from llama_scale.errors import InputError

Programs = Sequence[Program | Script]


@dataclass(frozen=True)
class Shown:
    """All of a task that a generator, a critic, a harmonizer or a stopping rule can reach; texts alone.

    ``number`` is the task's place in its suite; ``entry`` the function that is asked for, "" for a program that reads
    standard input. ``tests`` are the visible ones as a person reads them, ``setup`` is what stands before a program.
    ``prompt`` is the form that a base model continues; ``starter`` is what of it belongs to the program. ``start`` is a
    program to be repaired, where the task is one.
    """

    task_id: str
    number: int
    text: str
    entry: str
    tests: tuple[str, ...]
    setup: str = ""
    prompt: str = ""
    starter: str = ""
    stops: tuple[str, ...] = ()
    start: str = ""


@dataclass(frozen=True)
class Visible:
    """The visible tests of a task: templates of what is run, and how their verdicts become one.

    ``after`` are tests that run behind a program, in its own process (published.py).
    """

    templates: tuple[Program | Script, ...]
    combine: Callable[[Sequence[Verdict]], Verdict]
    after: str = ""

    def programs(self, source: str) -> Programs:
        """Return what is run of a program."""
        return [replace(template, source=template.source + source + self.after) for template in self.templates]


@dataclass(frozen=True)
class Split:
    """A task in its two halves. ``hidden`` gives a program with all tests; it is called after the last draw alone."""

    shown: Shown
    visible: Visible
    hidden: Callable[[str], Programs]
    combine: Callable[[Sequence[Verdict]], Verdict]


def split(suite: Suite, visible: int, execution: Execution, timeout: float) -> list[Split]:
    """Return every task of a suite with its first ``visible`` tests shown, where tests are told apart.

    On MBPP these are assertions, on APPS the samples of the question, on HumanEval the examples of the docstring (all,
    whatever ``visible`` is). Of a program with a bug they are the first cases that it fails, which ``execution`` finds.
    Raises InputError on a suite, a profile or a number of ``visible`` tests that leaves none hidden.
    """
    if suite.name == "mbpp" and suite.about.get("profile") == "google":
        raise InputError("mbpp.profile: google shows all tests in its prompt; set it to incoder")
    if suite.name not in SPLITTERS:
        raise InputError(f"suite: {suite.name} cannot be split; give one of {', '.join(SPLITTERS)}")
    failing = failing_cases(suite, visible, execution, timeout) if suite.name == "quixbugs" else {}
    known = []
    for number, task in enumerate(suite.tasks):
        chosen = failing.get(task.task_id, range(visible))[:visible]
        known.append(SPLITTERS[suite.name](suite, task, number, chosen))
    return known


def check_hidden(task: Task, visible: int, tests: int) -> None:
    """Raise InputError where so many visible tests of a task would be all of them."""
    if visible >= tests:
        raise InputError(f"visible: {visible} would show every test of {task.task_id}, which has {tests}; set it lower")


def _first(verdicts: Sequence[Verdict]) -> Verdict:
    return verdicts[0]


def _compiles(verdicts: Sequence[Verdict]) -> Verdict:
    """Return the verdict of a task without visible tests whose program may want to read what it is not given."""
    verdict = verdicts[0]
    return replace(verdict, passed=verdict.parses, reason="passed" if verdict.parses else verdict.reason)


def _mbpp(suite: Suite, task: Task, number: int, chosen: Sequence[int]) -> Split:
    problem: mbpp.Problem = task.problem
    check_hidden(task, len(chosen), len(problem.tests))
    return mbpp_split(task, number, [problem.tests[i] for i in chosen])


def mbpp_split(task: Task, number: int, tests: list[str]) -> Split:
    """Return a task of MBPP with ``tests`` of its own shown."""
    problem: mbpp.Problem = task.problem
    template = mbpp.program(replace(problem, tests=tests, challenge_tests=[]), "")
    docstring = "\n".join([problem.text.replace('"""', "'''"), *tests])
    shown = Shown(
        task_id=task.task_id,
        number=number,
        text=problem.text.strip(),
        entry=entry_of(tests, template.names),
        tests=tuple(tests),
        setup=problem.setup,
        prompt=f'"""\n{docstring}\n"""\n',
        stops=mbpp.STOPS["incoder"],
    )
    return Split(shown, Visible((replace(template, explain=True),), _first), task.programs, task.combine)


def _humaneval(suite: Suite, task: Task, number: int, chosen: Sequence[int]) -> Split:
    problem: dict[str, str] = task.problem
    prompt, entry = problem["prompt"], problem["entry_point"]
    setup = humaneval.helpers(prompt, entry)
    tree = ast.parse(f"{prompt}    pass\n")
    function = next(n for n in reversed(tree.body) if isinstance(n, ast.FunctionDef) and n.name == entry)
    tests = tuple(docstring_examples(ast.get_docstring(function) or "", entry))
    template = Program("", "\n".join(tests), (entry,), setup, explain=True)
    shown = Shown(
        task_id=task.task_id,
        number=number,
        text=prompt.strip(),
        entry=entry,
        tests=tests,
        setup=setup,
        prompt=prompt,
        starter=prompt,
        stops=suite.config.sampling.stop,
    )
    whole = humaneval.program(problem, "", prompt="")

    def hidden(source: str) -> Programs:
        return [replace(whole, source=f"{source}\n")]

    return Split(shown, Visible((template,), _first), hidden, task.combine)


def _apps(suite: Suite, task: Task, number: int, chosen: Sequence[int]) -> Split:
    """Show the cases that are samples of the question."""
    problem: apps.Problem = task.problem
    cases = [(i, o) for i, o in zip(problem.inputs, problem.outputs, strict=False) if in_question(problem, i, o)]
    cases = cases[: len(chosen)]
    inputs, outputs = [case[0] for case in cases], [case[1] for case in cases]
    cut = apps.task(replace(problem, solutions=[], inputs=inputs, outputs=outputs), suite.config)
    programs = cut.programs("") or [Program("", "", ())]
    templates = tuple(replace(program, explain=True) for program in programs)
    if problem.function:
        arrow = [f"{problem.function}({', '.join(map(repr, i))}) == {o!r}" for i, o in cases]
    else:
        arrow = [f"for the input\n{apps.as_text(i)}\nthe output is\n{apps.as_text(o)}" for i, o in cases]
    shown = Shown(
        task_id=task.task_id,
        number=number,
        text=problem.question.strip(),
        entry=problem.function or "",
        tests=tuple(arrow),
        setup=problem.starter,
        prompt=task.prompt,
    )
    return Split(shown, Visible(templates, cut.combine if cases else _compiles), task.programs, task.combine)


def in_question(problem: apps.Problem, given: Any, expected: Any) -> bool:
    """Whether a case is one of the samples in the text of its problem.

    Those of standard input stand after the words Input and Output; of a function the call and its result are there.
    """
    if not problem.function:
        text = " ".join(re.sub(r"-{3,}|:|\b[Ss]ample\b", " ", problem.question).split()) + " "
        sample = ["Input", *apps.as_text(given).split(), "Output", *apps.as_text(expected).split()]
        return f"{' '.join(sample)} " in text
    text = re.sub(r"\s", "", problem.question).replace('"', "'")
    call = f"{problem.function}({','.join(map(repr, given))})"
    return all(re.sub(r"\s", "", part).replace('"', "'") in text for part in (call, repr(expected)))


def failing_cases(suite: Suite, visible: int, execution: Execution, timeout: float) -> dict[str, list[int]]:
    """Return the first ``visible`` cases that each program with a bug fails, run alone; the first if it fails none."""
    failing: dict[str, list[int]] = {task.task_id: [] for task in suite.tasks}
    number, active = 0, list(suite.tasks)
    while active:
        programs = []
        for task in active:
            problem: quixbugs.Problem = task.problem
            case = problem.cases[number : number + 1]
            programs.append(quixbugs.program(replace(problem, cases=case), problem.buggy))
        for task, verdict in zip(active, execution.judge(programs, timeout, suite.name, silent=True), strict=True):
            failing[task.task_id] += [] if verdict.passed else [number]
        number += 1
        active = [t for t in active if len(t.problem.cases) > number and len(failing[t.task_id]) < visible]
    return {name: cases or [0] for name, cases in failing.items()}


def _quixbugs(suite: Suite, task: Task, number: int, chosen: Sequence[int]) -> Split:
    problem: quixbugs.Problem = task.problem
    check_hidden(task, len(chosen), len(problem.cases))
    cases = tuple(problem.cases[i] for i in chosen)
    template = quixbugs.program(replace(problem, cases=cases), "")
    calls = [(", ".join(map(repr, arguments)), result) for arguments, result in cases]
    shown = Shown(
        task_id=task.task_id,
        number=number,
        text=f"The function {problem.name} has one bug on one line. Find and fix it.",
        entry=problem.name,
        tests=tuple(f"assert {problem.name}({arguments}) == {result!r}" for arguments, result in calls),
        prompt=f"# {problem.name} without its bug\n",
        stops=("\nassert", "\nprint", "\n#", "\n```"),
        start=problem.buggy.strip() + "\n",
    )
    return Split(shown, Visible((replace(template, explain=True),), _first), task.programs, task.combine)


SPLITTERS = {"mbpp": _mbpp, "humaneval": _humaneval, "apps": _apps, "quixbugs": _quixbugs}


def entry_of(tests: Sequence[str], names: Sequence[str]) -> str:
    """Return the program's function that tests call: the first that is one of ``names``, "" if there is none."""
    for test in tests:
        calls = [node for node in ast.walk(mbpp.parsed(test)) if isinstance(node, ast.Call)]
        calls.sort(key=lambda node: (node.lineno, node.col_offset))
        for call in calls:
            if (name := getattr(call.func, "id", "")) in names:
                return name
    return ""
