"""Verdicts are kept by all that they depend on."""

import pytest

from evals.sandbox.types import Program, Script, Verdict
from evals.verdicts import Execution, ExecutionConfig
from llama_scale.errors import InputError


class Counted:
    """A sandbox that passes everything and says what it ran."""

    def __init__(self, level):
        self.level, self.ran = level, []

    def run_any(self, programs, timeout):
        for number, program in enumerate(programs):
            self.ran.append((program, timeout))
            yield number, Verdict(True, self.level, seconds=timeout)

    def __exit__(self, *_):
        pass


def judge(cache, level, programs, timeout):
    """Return what was run, and the reasons of the verdicts."""
    with Execution(cache=cache) as execution:
        execution._sandbox = Counted(level)
        verdicts = execution.judge(programs, timeout, "test")
        return execution._sandbox.ran, [verdict.reason for verdict in verdicts]


BASE = Program("def f(): pass", "f()", ("f",))
OTHERS = [
    Program("def f(): pass ", "f()", ("f",)),
    Program("def f(): pass", "f(); f()", ("f",)),
    Program("def f(): pass", "f()", ("f", "g")),
    Program("def f(): pass", "f()", ("f",), "import math"),
    Program("def f(): pass", "f()", ("f",), objects=True),
    Script("def f(): pass"),
    Script("def f(): pass", "1"),
    Script("def f(): pass", language="java"),
]


def test_a_program_is_run_once_under_the_same_limits_alone(tmp_path):
    cache = tmp_path / "verdicts.jsonl"
    ran, reasons = judge(cache, "isolated", [BASE, BASE], 2.0)
    assert ran == [(BASE, 2.0)] and reasons == ["isolated"] * 2
    assert judge(cache, "isolated", [BASE], 2.0) == ([], ["isolated"])
    assert judge(cache, "isolated", [BASE], 4.0) == ([(BASE, 4.0)], ["isolated"])
    assert judge(cache, "restricted", [BASE], 2.0) == ([(BASE, 2.0)], ["restricted"])
    ran, _ = judge(cache, "isolated", [*OTHERS, BASE], 2.0)
    assert [program for program, _ in ran] == OTHERS
    assert judge(cache, "restricted", [BASE], 2.0) == ([], ["restricted"])


def test_a_verdict_of_a_lost_sandbox_is_not_kept(tmp_path):
    cache = tmp_path / "verdicts.jsonl"
    judge(cache, "sandbox lost", [BASE], 2.0)
    assert not cache.exists()


def test_no_workers_are_refused():
    with pytest.raises(InputError, match=r"execution\.workers: expected at least 1, found 0"):
        ExecutionConfig(workers=0)
