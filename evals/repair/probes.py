"""What programs are told apart by, beside their visible tests: outputs on probe inputs, generated tests.

Probes are the visible calls and small changes of their literals; generated tests are the model's own assertions. Both
run as the tests of any program do, and what is kept of a value are 200 characters.
"""

import ast
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from evals.repair.backends.protocol import Ask, Backend, Message
from evals.repair.prompts import FENCE, question
from evals.repair.split import Shown, Visible
from evals.sandbox.explain import MOST
from evals.sandbox.types import Program, Verdict
from evals.verdicts import Execution
from llama_scale.generation.config import SamplingConfig

PROBES = 8
GENERATED = 999_999  # the round that generated tests are asked in
TESTS_WANTED = "Write five assert statements that test it, one to a line, and nothing else."


def probe_calls(shown: Shown) -> list[str]:
    """Return calls of the entry: those of the visible tests, then with one literal changed, at most PROBES."""
    calls: dict[str, None] = {}
    found = [call for test in shown.tests for call in _calls(test, shown.entry)]
    for call in found:
        calls[ast.unparse(call)] = None
    for call in found:
        for place, argument in enumerate(call.args):
            try:
                value = ast.literal_eval(argument)
            except ValueError:
                continue
            for other in changed(value):
                arguments = [*call.args[:place], ast.parse(repr(other), mode="eval").body, *call.args[place + 1 :]]
                calls[ast.unparse(ast.Call(call.func, arguments, call.keywords))] = None
    return list(calls)[:PROBES]


def _calls(test: str, entry: str) -> list[ast.Call]:
    nodes = ast.walk(ast.parse(test)) if entry else ()
    return [node for node in nodes if isinstance(node, ast.Call) and getattr(node.func, "id", "") == entry]


def changed(value: Any) -> list[Any]:
    """Return a few values of the same type that are near a literal."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int | float):
        return [value + 1, -value]
    if isinstance(value, str | list | tuple):
        return [value[::-1], value[1:], value * 2]
    return []


def outputs(
    rows: Sequence[dict[str, Any]], shown: Mapping[int, Shown], visible: Mapping[int, Visible],
    execution: Execution, timeout: float,
) -> list[list[str]]:  # fmt: skip
    """Return what each row's program gives on the probes of its task; nothing where it has no function to call."""
    tests = {n: "".join(f"assert {call} == ...\n" for call in probe_calls(task)) for n, task in shown.items()}
    verdicts = _run(rows, tests, visible, execution, timeout)
    return [
        [] if verdict is None else [verdict.reason if not f.got else f.got for f in verdict.failures] + [str(late)]
        for verdict in verdicts
        for late in [verdict is not None and verdict.reason == "timeout"]
    ]


def agreements(
    rows: Sequence[dict[str, Any]], generated: Mapping[int, Sequence[str]], visible: Mapping[int, Visible],
    execution: Execution, timeout: float,
) -> list[list[bool]]:  # fmt: skip
    """Return which of the generated tests of its task each row's program holds."""
    tests = {number: "\n".join(found) for number, found in generated.items()}
    held = []
    for row, verdict in zip(rows, _run(rows, tests, visible, execution, timeout), strict=True):
        count = len(generated.get(row["number"], ()))
        failed = set(range(count)) if verdict is None or verdict.reason == "timeout" else set()
        for failure in verdict.failures if verdict else ():
            failed |= {failure.number} if failure.test else set(range(count))
        held.append([number not in failed for number in range(count)])
    return held


def _run(
    rows: Sequence[dict[str, Any]], tests: Mapping[int, str], visible: Mapping[int, Visible],
    execution: Execution, timeout: float,
) -> list[Verdict | None]:  # fmt: skip
    """Run each row's program with the tests of its task; None where there are none or it has no function."""
    programs = []
    for row in rows:
        templates, wanted = visible[row["number"]].templates, tests.get(row["number"], "")
        called = templates[0] if templates and isinstance(templates[0], Program) and wanted else None
        programs.append(replace(called, source=called.source + row["program"], tests=wanted) if called else None)
    verdicts = iter(execution.judge([program for program in programs if program], timeout, "selection"))
    return [next(verdicts) if program else None for program in programs]


def generated_tests(shown: Sequence[Shown], backend: Backend, sampling: SamplingConfig) -> dict[int, list[str]]:
    """Ask a model for tests of each task; return its assertions on calls of the entry that parse."""
    asks = []
    for task in shown:
        if backend.chat:
            sent = (Message("user", f"{question(task)}\n\n{TESTS_WANTED}"),)
        else:
            sent = (Message("user", f"{task.prompt}    pass\n\n# Tests:\nassert {task.entry}("),)
        asks.append(Ask(sent, (task.number, GENERATED, 0, 0)))
    found: dict[int, list[str]] = {}
    for place, replies in backend.ask(asks, sampling):
        task = shown[place]
        text = replies[0].text if backend.chat else f"assert {task.entry}({replies[0].text}"
        text = "\n".join([text, *(code for _, code in FENCE.findall(text))])
        lines = [line.strip() for line in text.splitlines() if line.strip().startswith("assert ")]
        found[task.number] = [line for line in dict.fromkeys(lines) if _is_test(line, task.entry)][:MOST]
    return found


def _is_test(line: str, entry: str) -> bool:
    """Whether a line is one assertion: a call of the entry with literals, equal to a literal. It is not run here."""
    if len(line) > 500:
        return False
    try:
        (node,) = ast.parse(line).body
        assert isinstance(node, ast.Assert) and isinstance(node.test, ast.Compare)
        call, value = node.test.left, node.test.comparators[0]
        assert isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == entry
        for literal in (value, *call.args, *(keyword.value for keyword in call.keywords)):
            ast.literal_eval(literal)
    except (SyntaxError, ValueError, AssertionError, RecursionError, MemoryError):
        return False
    return len(node.test.ops) == 1 and isinstance(node.test.ops[0], ast.Eq)
