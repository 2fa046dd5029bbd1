"""What passing programs cost beside the reference on the same tests: instructions and peak memory, not time.

Python's instructions are counted one by one, so a machine under load gives the same numbers. What a call of a built-in
does is one instruction. Memory is the most that Python had allotted at once. Both are counted in the program's own
process in the sandbox; a program that hides from its trace counts low, which is why only those that passed are counted.
Java and JavaScript are not measured.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from evals.benchmarks.suite import Suite, Task
from evals.metrics.pass_at_k import interval
from evals.sandbox.types import Program, Script, Verdict
from evals.verdicts import Execution

Row = dict[str, Any]
SLOWER = 10  # times the suite's limit that a counted program may take: each instruction costs a call
ASK = "__cost__"
MARK = "\x01cost "
# Runs before the program in its name space; only the name ASK is left there. Frames are counted that are the program's
# or were called from one that is. The cost is written over the beginning of the output, which nobody reads.
PREAMBLE = """
def __cost__():
    import os, sys, tracemalloc
    counts, file = [0], "/tmp/program.py"
    def step(frame, event, argument):
        if event == "opcode":
            counts[0] += 1
        return step
    def enter(frame, event, argument):
        back = frame.f_back
        if frame.f_code.co_filename == file or (back is not None and back.f_trace is step):
            frame.f_trace_opcodes, frame.f_trace_lines = True, False
            return step
        return None
    def tell():
        sys.settrace(None)
        peak = tracemalloc.get_traced_memory()[1]
        try:
            sys.stdout.flush()
        except BaseException:
            pass
        os.pwrite(1, ("\\x01cost %d %d\\n" % (counts[0], peak - before)).encode(), 0)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    sys.settrace(enter)
    return tell
__cost__ = __cost__()
"""
AT_EXIT = "import atexit\natexit.register(__cost__)\n"


@dataclass(frozen=True)
class Cost:
    """Instructions and peak bytes of a program over its tests."""

    instructions: int
    peak_memory: int


def counted(program: Program | Script) -> Program | Script | None:
    """Return a program that tells its cost; None if its language is not measured."""
    if isinstance(program, Program):
        tests = f"{program.tests}\n{ASK}()\n"
        names = (*program.names, ASK)
        return replace(program, preamble=PREAMBLE + program.preamble, tests=tests, names=names, explain=False)
    if program.language != "python":
        return None
    return replace(program, preamble=PREAMBLE + AT_EXIT + program.preamble, expected=None)


def cost_of(verdicts: Sequence[Verdict]) -> Cost | None:
    """Return the cost of a program's runs together: all instructions, the highest peak; None if one did not tell."""
    told = []
    for verdict in verdicts:
        words = verdict.output.partition("\n")[0].removeprefix(MARK).split()
        if not verdict.passed or not verdict.output.startswith(MARK) or len(words) != 2:
            return None
        if not all(word.isdecimal() for word in words):
            return None
        told.append(Cost(*map(int, words)))
    if not told:
        return None
    return Cost(sum(cost.instructions for cost in told), max(cost.peak_memory for cost in told))


def costs(pairs: Sequence[tuple[Task, str]], execution: Execution, timeout: float) -> list[Cost | None]:
    """Return the cost of each (task, completion), None where it is not measured: too slow when counted, say."""
    groups = []
    for task, completion in pairs:
        programs = [counted(program) for program in task.programs(completion)]
        groups.append([] if None in programs else [program for program in programs if program is not None])
    verdicts = iter(execution.judge([p for group in groups for p in group], timeout * SLOWER, "counted"))
    return [cost_of([next(verdicts) for _ in group]) for group in groups]


def describe(samples: Sequence[Row], suite: Suite, execution: Execution) -> tuple[Row, list[Row]]:
    """Return the efficiency of the samples that passed, and the samples with ``cost`` and ``cost_of_reference``.

    ``efficiency`` has, for instructions and peak memory, the geometric mean over tasks of the ratio to the reference
    (below 1 is cheaper) with its 95 % interval over tasks, and how many samples were not measured.
    """
    tasks = {task.task_id: task for task in suite.tasks}
    passed = [i for i, row in enumerate(samples) if row["passed"]]
    known = [i for i in passed if tasks[samples[i]["task_id"]].reference is not None]
    used = sorted({samples[i]["task_id"] for i in known})
    references = [(tasks[name], tasks[name].reference or "") for name in used]
    own = [(tasks[samples[i]["task_id"]], samples[i]["completion"]) for i in known]
    found = costs([*references, *own], execution, suite.config.timeout)
    standard = dict(zip(used, found, strict=False))
    rows = [dict(row) for row in samples]
    for i, cost in zip(known, found[len(used) :], strict=True):
        other = standard[rows[i]["task_id"]]
        if cost and other:
            rows[i] |= {"cost": asdict(cost), "cost_of_reference": asdict(other)}
    return {"efficiency": summarize(rows, len(passed))}, rows


def summarize(rows: Sequence[Row], passed: int) -> Row:
    """Return means of ratios over tasks; ``passed`` samples are those that were to be measured."""
    measured = [row for row in rows if "cost" in row]
    result: Row = {"samples": len(measured), "not_measured": passed - len(measured)}
    for name in ("instructions", "peak_memory") if measured else ():
        logs: dict[str, list[float]] = defaultdict(list)
        for row in measured:
            ratio = max(1, row["cost"][name]) / max(1, row["cost_of_reference"][name])
            logs[row["task_id"]].append(math.log(ratio))
        means = [float(np.mean(values)) for values in logs.values()]
        low, high = interval(means)
        result["tasks"] = len(means)
        result[name] = math.exp(float(np.mean(means)))
        result[f"{name}_interval"] = [math.exp(low), math.exp(high)]
    return result
