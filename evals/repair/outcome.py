"""Programs run on their visible tests, and made to bear the name that is asked for. No hidden test is within reach."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from evals.repair.split import Visible
from evals.sandbox.types import SANDBOX_LOST, Failure, Program, Script, Verdict
from llama_scale.errors import InputError

# Run in the sandbox with a program as its input, which it reads and does not run; hostile text is parsed there alone.
NAMES = """
import ast, json, sys
try:
    body = ast.parse(sys.stdin.read()).body
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    found = [[type(n).__name__, n.name] for n in body if isinstance(n, kinds)]
    imports = [n for n in body if isinstance(n, (ast.Import, ast.ImportFrom))]
    found += [["Import", a.asname or a.name] for n in imports for a in n.names]
    found += [["Name", t.id] for n in body if isinstance(n, ast.Assign) for t in n.targets if isinstance(t, ast.Name)]
    solution = [n for n in body if isinstance(n, ast.ClassDef) and n.name == "Solution"]
    kinds = kinds[:2]
    found += [["Method", n.name] for c in solution for n in c.body if isinstance(n, kinds)]
except Exception:
    found = []
print(json.dumps(found[:40]))
"""


@dataclass(frozen=True)
class Outcome:
    """What became of a program on its visible tests: ``held`` of ``tests``; with none it passes if it loads.

    ``failures`` are as in a verdict: what they say of the program's error is its own claim.
    """

    parses: bool
    passed: bool
    held: int
    tests: int
    reason: str
    failures: tuple[Failure, ...] = ()

    @property
    def stage(self) -> Literal["syntax", "tests"]:
        """How far the program came."""
        return "tests" if self.parses else "syntax"


def breaks(after: Outcome, before: Outcome) -> bool:
    """Whether a program fails a visible test that held in the one before it.

    Of more failures than are told which they were is not known: then it does if it holds fewer tests.
    """
    failed = [{failure.number for failure in outcome.failures if failure.number >= 0} for outcome in (after, before)]
    known = [len(found) == o.tests - o.held for found, o in zip(failed, (after, before), strict=True)]
    if all(known) and after.tests == before.tests:
        return not failed[0] <= failed[1]
    return after.held < before.held


class Runs(Protocol):
    """Whatever runs programs: an Execution, or a server's sandbox."""

    def judge(self, programs: Sequence[Program | Script], timeout: float, title: str) -> list[Verdict]:
        """Return the verdict of each program."""
        ...


class VisibleJudge:
    """Runs programs on the visible tests of their tasks; ``timeout`` is CPU seconds of one program."""

    def __init__(self, visible: Mapping[int, Visible], execution: Runs, timeout: float) -> None:
        self.visible, self.execution, self.timeout = visible, execution, timeout
        self.seconds: dict[tuple[int, str], float] = {}  # CPU time of each program on its visible tests

    def judge(self, programs: Sequence[tuple[int, str]]) -> list[Outcome]:
        """Return the outcome of each program, given with the number of its task."""
        groups = [self.visible[number].programs(source) for number, source in programs]
        flat = [program for group in groups for program in group]
        verdicts = iter(self.execution.judge(flat, self.timeout, "visible tests"))
        outcomes = []
        for (number, source), group in zip(programs, groups, strict=True):
            found = [next(verdicts) for _ in group]
            self.seconds[number, source] = sum(verdict.seconds for verdict in found)
            if any(verdict.reason == SANDBOX_LOST for verdict in found):
                raise InputError("sandbox: a program was lost with its sandbox; the same command goes on from here")
            outcomes.append(outcome(self.visible[number], group, found))
        return outcomes

    def rename(self, programs: Sequence[tuple[str, str]]) -> list[str]:
        """Return for each (program, entry) the name of the function that should bear the entry's, or "".

        That is the only function at the top level, where nothing there bears the name and there is no second one: no
        helper and no test of the model's own is taken for it. Nothing of the program is run.
        """
        scripts = [Script(NAMES, source) for source, _ in programs]
        verdicts = self.execution.judge(scripts, 5.0, "names")
        return [lone_function(v.output, entry) for v, (_, entry) in zip(verdicts, programs, strict=True)]


def outcome(visible: Visible, programs: Sequence[Program | Script], verdicts: Sequence[Verdict]) -> Outcome:
    """Return what the verdicts of a program's visible tests, ``programs``, say together."""
    verdict = visible.combine(verdicts)
    failures: list[Failure] = []
    for number, (program, found) in enumerate(zip(programs, verdicts, strict=True)):
        if isinstance(program, Script):
            known = next(iter(found.failures), Failure("", found.reason))
            known = replace(known, got=found.output.strip()[:200], number=number)
            known = _at_test(known, program, visible) if visible.after else known
            failures += [] if found.passed else [known]
        elif len(verdicts) > 1:  # a program for each test
            failures += [replace(failure, number=number) for failure in found.failures]
        else:
            failures += found.failures
    parses, reason = all(v.parses for v in verdicts), verdict.reason
    if reason == "raised":  # a script's verdict says no more
        reason = next((failure.reason for failure in failures if failure.reason.startswith("raised ")), reason)
    return Outcome(parses, verdict.passed, verdict.assertions_passed, verdict.assertions, reason, tuple(failures))


def _at_test(failure: Failure, program: Script, visible: Visible) -> Failure:
    """Return a failure of a program with tests behind it: with the text of the test, or the program's own line."""
    lines, before = program.source.rstrip("\n").split("\n"), visible.templates[0].source.count("\n")
    if len(lines) - visible.after.strip().count("\n") <= failure.line <= len(lines):
        test = lines[failure.line - 1].strip().removeprefix("assert ")[:200]
        return replace(failure, test=test, line=0, number=-1)
    return replace(failure, line=max(0, failure.line - before), number=-1)


def lone_function(found: str, entry: str) -> str:
    """Return the only function among the names of a program, as NAMES prints them, if none of them is ``entry``."""
    try:
        names = json.loads(found)
    except ValueError:
        return ""
    if not entry or any(name == entry for _, name in names):
        return ""
    functions = [(kind, name) for kind, name in names if kind in ("FunctionDef", "AsyncFunctionDef")]
    return functions[0][1] if len(functions) == 1 and functions[0][0] == "FunctionDef" else ""


def renamed_program(program: str, old: str, entry: str) -> str:
    """Return a program whose function ``old`` bears the name ``entry`` too."""
    return f"{program.rstrip()}\n\n\n{entry} = {old}\n"
