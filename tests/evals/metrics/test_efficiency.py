"""Instructions and memory of passing programs, counted in the sandbox: known counts, known ratios, what is not told."""

import dis

import pytest

from evals.benchmarks.suite import CodeConfig, Suite, Task
from evals.metrics import efficiency
from evals.metrics.efficiency import Cost, cost_of, costs, counted, describe, summarize
from evals.sandbox.types import Program, Script, Verdict
from evals.verdicts import Execution, ExecutionConfig

LOOP = "def f(n):\n    total = 0\n    for i in range(n):\n        total += i\n    return total\n"
SHORT = "def f(n):\n    return sum(range(n))\n"
TESTS = "assert f(100) == 4950\nassert f(10) == 45"


@pytest.fixture(scope="module")
def execution():
    with Execution(ExecutionConfig(workers=1)) as opened:
        yield opened


def task(name="T/1", tests=TESTS, reference=SHORT):
    return Task(name, "", lambda text: [Program(text, tests, ("f",))], reference)


def test_a_loop_costs_its_instructions(execution):
    one, ten, hundred = (
        costs([(task(tests=f"assert f({n}) == {n * (n - 1) // 2}"), LOOP)], execution, 3.0)[0] for n in (1, 11, 101)
    )
    # Ten turns more, and a hundred: each turn is FOR_ITER to JUMP_BACKWARD.
    names = {}
    exec(LOOP, names)
    found = list(dis.get_instructions(names["f"]))
    start = next(i for i, one in enumerate(found) if one.opname == "FOR_ITER")
    end = next(i for i, one in enumerate(found) if one.opname.startswith("JUMP_BACKWARD"))
    turn = end - start + 1
    assert ten.instructions - one.instructions == 10 * turn
    assert hundred.instructions - one.instructions == 100 * turn


def test_what_the_program_calls_in_the_library_counts(execution):
    own = "import heapq\ndef f(n):\n    return sum(heapq.merge(range(n), []))\n"
    plain, merged = costs([(task(), SHORT), (task(), own)], execution, 3.0)
    assert merged.instructions > plain.instructions + 400  # heapq.merge is Python


def test_memory_is_the_most_at_once(execution):
    small, large = (
        f"def f(n):\n    a = bytearray({size})\n    del a\n    return sum(range(n))\n" for size in (10, 10**6)
    )
    less, more = costs([(task(), small), (task(), large)], execution, 3.0)
    assert more.peak_memory - less.peak_memory == pytest.approx(10**6, abs=20_000)


def test_scripts_are_counted_and_other_languages_are_not(execution):
    script = Script("print(sum(range(int(input()))))", "10\n", expected="45\n")
    name = Task("S/1", "", lambda text: [Script(text, "10\n", expected="45\n")], script.source)
    assert costs([(name, script.source)], execution, 3.0)[0].instructions > 5
    assert counted(Script("x", language="java")) is None
    other = Task("J/1", "", lambda text: [Script(text, language="java")], "x", language="java")
    assert costs([(other, "x")], execution, 3.0) == [None]


def test_ratios_to_the_reference(execution):
    suite = Suite(CodeConfig(), [task(), task("T/2"), task("T/3", reference=None)], {})
    rows = [
        {"task_id": "T/1", "completion": LOOP, "passed": True},
        {"task_id": "T/1", "completion": SHORT, "passed": True},
        {"task_id": "T/2", "completion": SHORT, "passed": True},
        {"task_id": "T/2", "completion": "def f(n): return 0", "passed": False},
        {"task_id": "T/3", "completion": SHORT, "passed": True},
    ]
    result, described = describe(rows, suite, execution)
    found = result["efficiency"]
    assert (found["samples"], found["tasks"], found["not_measured"]) == (3, 2, 1)
    assert described[1]["cost"] == described[1]["cost_of_reference"]
    ratio = described[0]["cost"]["instructions"] / described[0]["cost_of_reference"]["instructions"]
    assert ratio > 5
    assert found["instructions"] == pytest.approx(ratio**0.25)  # task 1: sqrt(ratio), task 2: 1
    assert "cost" not in described[3] and "cost" not in described[4]


def test_what_does_not_tell_is_not_measured(execution, monkeypatch):
    quiet = "import os\ndef f(n):\n    return sum(range(n))\ndef __cost__(): pass\n"
    slow = "def f(n):\n    for _ in range(10**8): pass\n    return sum(range(n))\n"
    monkeypatch.setattr(efficiency, "SLOWER", 0.2)
    assert costs([(task(), quiet), (task(), slow)], execution, 1.0) == [None, None]
    told = Verdict(True, "passed", output="\x01cost 12 34\nmore")
    assert cost_of([told, told]) == Cost(24, 34)
    assert cost_of([told, Verdict(True, "passed", output="12 34")]) is None
    assert cost_of([Verdict(False, "timeout", output=told.output)]) is None
    assert cost_of([]) is None
    assert summarize([], 2) == {"samples": 0, "not_measured": 2}
