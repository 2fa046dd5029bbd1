"""Verdicts are kept by all that they depend on."""

import json

import pytest

from evals.journal import journal_rows, read_journal
from evals.sandbox.types import Failure, Program, Script, Verdict
from evals.verdicts import Execution, ExecutionConfig
from llama_scale.errors import InputError
from llama_scale.files import SEAL


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


def test_another_interpreter_judges_again(tmp_path, monkeypatch):
    """What a program does may differ from one Python to the next: the order of iteration, new syntax, new modules."""
    cache = tmp_path / "verdicts.jsonl"
    judge(cache, "isolated", [BASE], 2.0)
    monkeypatch.setattr("platform.python_version", lambda: "3.99.0")
    assert judge(cache, "isolated", [BASE], 2.0)[0] == [(BASE, 2.0)]


@pytest.mark.parametrize("reason", ["sandbox lost", "not measured"])
def test_a_verdict_of_the_machine_is_not_kept(tmp_path, reason):
    """Where javac is installed later, a program in Java is judged then."""
    cache = tmp_path / "verdicts.jsonl"
    judge(cache, reason, [BASE], 2.0)
    assert not cache.exists()


class Loud(Counted):
    """A sandbox whose programs write 4 MiB of what takes most as JSON."""

    def run_any(self, programs, timeout):
        for number, _ in enumerate(programs):
            yield number, Verdict(False, "wrong answer", output="\U0001f600" * (1 << 20))


def test_a_kept_verdict_is_short_whatever_a_program_writes(tmp_path):
    with Execution(cache=tmp_path / "verdicts.jsonl") as execution:
        execution._sandbox = Loud("isolated")
        verdicts = execution.judge(OTHERS, 2.0, "test")
        assert {len(verdict.output) for verdict in verdicts} == {1000}
        rows = execution.cache.read_bytes().splitlines()
        assert max(map(len, rows)) < 16 << 10
        execution._sandbox = Counted("isolated")
        assert execution.judge(OTHERS, 2.0, "test") == verdicts and not execution._sandbox.ran


class Telling(Counted):
    """A sandbox whose program says its test in its output and by the name of what it raises."""

    def run_any(self, programs, timeout):
        for number, program in enumerate(programs):
            self.ran.append(program)
            yield number, Verdict(False, self.level, output="f(7001)", failures=(Failure("f(7001)", "x"),))


def test_of_a_silent_program_no_word_of_its_own_is_kept(tmp_path):
    """And what was kept of it when it might speak is not taken for that."""
    for name, kept in (("Saw7001", "an exception of its own"), ("KeyError", "KeyError")):
        with Execution(cache=tmp_path / name) as execution:
            execution._sandbox = Telling("isolated")
            execution._sandbox.level = f"raised {name}"
            (silent,) = execution.judge([BASE], 2.0, "test", silent=True)
            assert (silent.reason, silent.output, silent.failures) == (f"raised {kept}", "", ())
            assert "7001" not in execution.cache.read_text()
            (spoken,) = execution.judge([BASE], 2.0, "test")
            assert (spoken.output, spoken.reason) == ("f(7001)", f"raised {name}")
            assert execution.judge([BASE], 2.0, "test", silent=True) == [silent]
            assert len(execution._sandbox.ran) == 2


def test_long_rows_of_earlier_versions_are_passed_over(tmp_path):
    cache = tmp_path / "verdicts.jsonl"
    judge(cache, "isolated", [BASE], 2.0)
    short = cache.read_bytes()
    unsealed = {name: value for name, value in json.loads(short).items() if name != SEAL}
    long = json.dumps(unsealed | {"key": "other", "output": "x" * (1 << 20)}).encode()
    cache.write_bytes(long + b"\n" + short + long[:100] + short + long)
    assert judge(cache, "isolated", [BASE], 2.0) == ([], ["isolated"])
    assert len(list(journal_rows(cache, 16 << 10))) == 2 and len(read_journal(cache)) == 4


def test_a_kept_verdict_that_has_changed_is_come_to_again(tmp_path, capfd):
    cache = tmp_path / "verdicts.jsonl"
    judge(cache, "isolated", [BASE], 2.0)
    text = cache.read_text()
    assert text.count('"passed": true') == 1
    cache.write_text(text.replace('"passed": true', '"passed": false'))
    assert judge(cache, "isolated", [BASE], 2.0) == ([(BASE, 2.0)], ["isolated"])
    assert "verdicts.jsonl: 1 row has changed since written; left out and made again" in capfd.readouterr().err
    assert judge(cache, "isolated", [BASE], 2.0) == ([], ["isolated"]) and not capfd.readouterr().err


def test_no_workers_are_refused():
    with pytest.raises(InputError, match=r"execution\.workers: expected at least 1, found 0"):
        ExecutionConfig(workers=0)
