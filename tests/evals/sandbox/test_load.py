"""Sweeps of minutes: python -m pytest -m slow tests/evals/sandbox/test_load.py -s."""

import os

import psutil
import pytest

from evals.benchmarks import humaneval, mbpp
from evals.sandbox.pool import Sandbox
from evals.sandbox.types import Program
from tests.conftest import ROOT

MBPP = ROOT.parent / "shared" / "data" / "eval" / "mbpp.jsonl"
LIMIT = 8.0  # CPU seconds, as MBPP is judged: 123 needs 2.4 on an idle core, 4 on a busy one


@pytest.mark.slow
@pytest.mark.parametrize("times", [1, 8, 32])
def test_load_changes_no_verdict(times):
    """References, wrong programs, endless ones and MBPP/123, with more workers than cores."""
    programs = []
    for task in humaneval.problems()[::4]:
        programs.append(humaneval.program(task, task["canonical_solution"]))
        programs.append(humaneval.program(task, "    return None\n"))
    expected = [True, False] * (len(programs) // 2)
    if MBPP.exists():
        (hard,) = [t for t in mbpp.problems(str(MBPP)) if t.number == 123]
        programs += [mbpp.program(hard, hard.code)] * 4
        expected += [True] * 4
    programs += [Program("def f():\n    while True: pass", "f()", ("f",))] * 2
    expected += [False] * 2
    workers = times * len(os.sched_getaffinity(0))
    for _ in range(3):
        with Sandbox(workers) as box:
            assert [v.passed for v in box.run(programs, LIMIT)] == expected


@pytest.mark.slow
@pytest.mark.parametrize("count", [5_000, 20_000])
def test_many_programs_leave_nothing(count):
    """No process, no temporary file, flat memory."""
    before = set(os.listdir("/tmp")), set(psutil.pids())
    program = Program("x = [0] * 1000\ndef f(n): return n * n", "assert f(3) == 9", ("f",))
    with Sandbox(2) as box:
        list(box.run([program] * 200, 2.0))
        mine = psutil.Process()
        servers = [psutil.Process(w.process.pid).children()[0] for w in box._all["python"]]
        sizes = [p.memory_info().rss for p in (*servers, mine)]
        for _ in range(count // 500):
            assert all(v.passed for v in box.run([program] * 500, 2.0))
        after = [p.memory_info().rss for p in (*servers, mine)]
        print(f"{count} programs: memory before {sizes}, after {after}")
        assert all(b - a < (4 << 20) for a, b in zip(sizes, after, strict=True))
        assert all(len(z.children()) <= 3 for z in servers)
    left = {p for p in set(psutil.pids()) - before[1] if "fork_server" in cmdline(p)}
    assert not left & {z.pid for z in servers}
    assert not {n for n in set(os.listdir("/tmp")) - before[0] if "llama" in n}


def cmdline(pid):
    """Return a process's command line, empty if it is gone."""
    try:
        return " ".join(psutil.Process(pid).cmdline())
    except psutil.Error:
        return ""
