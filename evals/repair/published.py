"""The protocol of the published pipelines, to see what it claims: all tests are shown, and a process is believed.

A program runs with its tests in one process, and has succeeded if that returns 0 and nothing was written to standard
error. Whoever writes, criticizes or names a program sees every test. All tests then judge it as ever.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from evals.benchmarks import mbpp
from evals.benchmarks.suite import Suite
from evals.repair.split import Split, Visible, mbpp_split
from evals.sandbox.types import Script, Verdict

# Run before a program: its process returns 1 where anything was written to standard error.
LISTENING = """
def _listen():
    import atexit, os, sys
    said, write, stdout = [], sys.stderr.write, sys.stdout

    def heard(text):
        said.append(text)
        return write(text)

    def end():
        if said:
            stdout.flush()
            os._exit(1)

    sys.stderr.write = heard
    atexit.register(end)

_listen()
"""


def all_shown(suite: Suite) -> list[Split]:
    """Return MBPP's tasks with all of their assertions shown."""
    parts = []
    for number, task in enumerate(suite.tasks):
        problem: mbpp.Problem = task.problem
        part = mbpp_split(task, number, problem.tests)
        setup = f"{problem.setup}\n" if problem.setup else ""
        template = Script(setup, preamble=LISTENING, explain=True)
        tests = "\n".join(problem.tests)
        visible = Visible((template,), claimed(len(problem.tests)), f"\n{tests}\n")
        parts.append(replace(part, visible=visible))
    return parts


def claimed(tests: int) -> Callable[[Sequence[Verdict]], Verdict]:
    """Return how the verdict on a process becomes one on so many tests: all held, or none that is known of."""

    def combine(verdicts: Sequence[Verdict]) -> Verdict:
        return replace(verdicts[0], assertions_passed=tests if verdicts[0].passed else 0, assertions=tests)

    return combine
