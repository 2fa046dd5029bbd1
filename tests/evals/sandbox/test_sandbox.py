"""The sandbox: honest programs pass, nothing else does, and the machine stays as it was."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

import psutil
import pytest

from evals.sandbox import wire, worker
from evals.sandbox.pool import ATTACKS, HONEST, Sandbox
from evals.sandbox.types import Program, Script, Verdict
from llama_scale.errors import InputError
from tests.conftest import ROOT
from tests.evals.sandbox.hostile_programs import cheats, harms

SQUARE = "assert f(2) == 4\nassert f(3) == 9\nassert f(True) == 1\nassert f(0.5) == 0.25"


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox(2) as box:
        yield box


def square(source):
    return Program(source, SQUARE, ("f",))


def judge(sandbox, programs, timeout=2.0):
    return list(sandbox.run(programs, timeout))


def test_the_best_level_is_reached(sandbox):
    if sandbox.level == "isolated":
        assert "read-only root" in str(sandbox.describe()["holds"])
    else:
        assert "no namespaces" in str(sandbox.describe()["lacks"])


@pytest.mark.parametrize("level", ["isolated", "restricted"])
def test_nothing_hostile_passes(level):
    """Every cheat and every harm fails, honest programs pass after it, nothing is left."""
    programs = {**cheats(), **{f"harm: {name}": source for name, source in harms().items()}}
    assert len(programs) >= 210
    before = set(os.listdir("/tmp")), len(psutil.pids())
    try:
        box = Sandbox(2, levels=[level])
    except InputError as error:
        pytest.skip(str(error))
    with box:
        servers = {worker.process.pid for worker in box._all["python"]}
        verdicts = judge(box, [square(source) for source in programs.values()], 0.5)
        passed = [name for name, v in zip(programs, verdicts, strict=True) if v.passed]
        assert passed == []
        assert judge(box, [square("def f(x): return x * x")])[0].passed
        assert servers <= {worker.process.pid for worker in box._all["python"]}, "a server was lost"
    assert not any("harm" in name for name in set(os.listdir("/tmp")) - before[0])
    assert not any(psutil.pid_exists(pid) for pid in servers)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("def f(x): return x + x", "wrong answer"),
        ("def f(:\n  pass", "syntax error"),
        ("x = 1\x00", "syntax error"),
        ("x = '\ud800'", "syntax error"),
        ("(" * 50_000, "syntax error"),
        ("import sys; sys.exit(0)", "exited"),
        ("import os; os._exit(0)", "ended early"),
        ("def f(x): return 1 / 0", "raised ZeroDivisionError"),
        ("def f(x): raise KeyboardInterrupt", "raised KeyboardInterrupt"),
        ("def f(x): return f(x)", "raised RecursionError"),
        ("def g(x): return x", "raised NameError"),
        ("class E(Exception): pass\ndef f(x): raise E", "raised E"),
        ("x = bytearray(1 << 31)", "out of memory"),
        ("while True: print('x' * 10000)", "too much output"),
        ("def f(x):\n    while True: pass", "timeout"),
        ("import torch", "raised ModuleNotFoundError"),
    ],
)
def test_a_wrong_program_fails_with_its_reason(sandbox, source, reason):
    (verdict,) = judge(sandbox, [square(source)], 1.0)
    assert (verdict.passed, verdict.reason) == (False, reason)
    assert verdict.parses == (reason != "syntax error")


def test_values_keep_their_exact_types(sandbox):
    values = [
        "None", "True", "0", "-(10 ** 400)", "2 ** 62", "1.5", "float('inf')", "-0.0", "'é\\ud800'",
        "b'\\x00'", "bytearray(b'a')", "1 + 2j", "[1, [2]]", "(1,)", "{1, 2}", "frozenset({1})",
        "{1: 'a', (2,): None}", "range(3)", "__import__('decimal').Decimal('1.10')",
        "__import__('fractions').Fraction(1, 3)", "__import__('collections').Counter('aab')",
        "__import__('collections').OrderedDict(b=1, a=2)", "__import__('collections').deque([1])",
        "__import__('datetime').date(2020, 1, 2)", "{'a': 1}.keys()",
    ]  # fmt: skip
    checks = [f"a = f({v!r})\nb = {v}\nassert type(a) is type(b)\nassert repr(a) == repr(b)" for v in values]
    programs = [Program("def f(s): return eval(s)", check, ("f",)) for check in checks]
    verdicts = judge(sandbox, programs)
    failed = [v for v, verdict in zip(values, verdicts, strict=True) if not verdict.passed]
    assert failed == []
    for value in (float("nan"), [1.0, float("-inf")], {"a": {1: (2, {3})}}):
        assert repr(wire.decode(wire.encode(value))) == repr(value)


def test_generators_arguments_and_exceptions_reach_the_other_side(sandbox):
    source = (
        "def f(*a, **k):\n    if k: raise ValueError('no')\n    return (x * 2 for x in a[0])\n"
        "def g(t, x): return isinstance(x, t)\n"
    )
    tests = (
        "assert list(f([1, 2])) == [2, 4]\nassert g(int, 3) is True\n"
        "try:\n    f(k=1)\nexcept ValueError as e:\n    assert str(e) == 'no'\n"
        "else:\n    assert False\n"
    )
    assert judge(sandbox, [Program(source, tests, ("f", "g"))])[0].passed
    objects = Program(
        "class P:\n    def __init__(s, v): s.v = v\ndef f(p): return p.v",
        "p = P(1)\np.v = 5\nassert f(p) == 5 and p.v == 5", ("P", "f"), objects=True,
    )  # fmt: skip
    assert judge(sandbox, [objects])[0].passed


def test_a_failing_assertion_does_not_hide_the_others(sandbox):
    (verdict,) = judge(sandbox, [square("def f(x): return 4 if x == 2 else 0")])
    assert (verdict.passed, verdict.assertions_passed, verdict.assertions) == (False, 1, 4)
    (verdict,) = judge(sandbox, [square("import os\ndef f(x): return 4 if x == 2 else os._exit(0)")])
    assert (verdict.passed, verdict.assertions_passed, verdict.assertions) == (False, 1, 4)


def test_scripts_read_and_write(sandbox):
    programs = [
        Script("import sys\nfor line in sys.stdin: print(int(line) * 2)", "1\n2\n"),
        Script("print(input()); exit()", "é\n"),
        Script("print(1); exit(3)"),
        Script("print(1); raise ValueError"),
        Script("import os, sys\nprint('x'); sys.stdout.flush(); os._exit(0)"),
    ]
    verdicts = judge(sandbox, programs)
    assert [v.output for v in verdicts] == ["2\n4\n", "é\n", "1\n", "1\n", "x\n"]
    assert [v.reason for v in verdicts] == ["passed", "passed", "raised", "raised", "passed"]


def test_hash_order_is_fixed(sandbox):
    code = "print(list({'a', 'b', 'c', 'd'}))"
    out = subprocess.run([sys.executable, "-c", code], env={"PYTHONHASHSEED": "0"}, capture_output=True, text=True)
    assert judge(sandbox, [Script(code)])[0].output == out.stdout


def test_programs_run_in_parallel_and_keep_order(sandbox):
    programs = [
        square(f"import time\ntime.sleep({n % 3} / 50)\ndef f(x): return x * x * ({n} % 4 > 0)") for n in range(24)
    ]
    assert [v.passed for v in judge(sandbox, programs)] == [n % 4 != 0 for n in range(24)]


def test_one_program_leaves_nothing_for_the_next(sandbox):
    first = square("import builtins, sys\nbuiltins.left = sys.left = 1\ndef f(x): return x * x")
    second = square("import builtins, sys\ndef f(x): return hasattr(builtins, 'left')")
    for _ in range(4):
        one, two = judge(sandbox, [first, second])
        assert one.passed and not two.passed


def test_a_lost_fork_server_is_replaced():
    with Sandbox(1) as box:
        for server in psutil.Process(box._all["python"][0].process.pid).children():
            server.kill()
        assert judge(box, [square("def f(x): return x * x")])[0].passed


def test_a_program_that_sleeps_is_ended_by_the_clock():
    asleep = "import time\ntime.sleep(60)"
    with Sandbox(1) as box:
        server = box._all["python"][0]
        verdicts = judge(box, [Script(asleep), square(asleep), square("def f(x): return x * x")], 0.1)
        assert [v.reason for v in verdicts] == ["timeout", "timeout", "passed"]
        assert box._all["python"] == [server], "a server was lost"


def test_no_process_or_memory_is_left():
    with Sandbox(1) as box:
        program = square("def f(x): return x * x")
        judge(box, [program] * 20)
        (server,) = psutil.Process(box._all["python"][0].process.pid).children()
        size, files = server.memory_info().rss, server.num_fds()
        judge(box, [program] * 200)
        assert server.memory_info().rss < size + (1 << 20) and server.num_fds() == files
        assert len(server.children()) <= 3, "more than the processes forked ahead"
    deadline = time.monotonic() + 5
    while server.is_running() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not server.is_running()


def test_an_exception_does_not_end_a_loop_of_the_tests(sandbox):
    for name in ("StopIteration", "StopAsyncIteration", "GeneratorExit"):
        program = Program(f"def f(x): raise {name}", "assert all(map(f, [2, 3]))", ("f",))
        (verdict,) = judge(sandbox, [program])
        assert not verdict.passed, name


def test_a_verdict_that_cannot_be_read_is_a_failure_and_the_judging_goes_on():
    reply = {"ended": [0, 0.1], "timed_out": False, "overloaded": False}
    for said in ("", '{"passed": true', "\x00"):
        first, again = (worker._judged_verdict(reply, 2.0, cpu, said, "") for cpu in (4.0, 2.0))
        assert (first[0].passed, first[0].reason) == (False, "no verdict")
        assert (first[1], again[1]) == (True, False)  # once more, alone
    reply["ended"][0] = worker.UNSTARTED
    said = json.dumps({"passed": False, "reason": "ended early"})
    assert worker._judged_verdict(reply, 2.0, 4.0, said, "")[1]


def test_verdicts_come_as_they_are_found_and_repeats_last(sandbox):
    slow = square("import time\ndef f(x):\n    while True: pass")
    honest = square("def f(x): return x * x")
    order = [number for number, _ in sandbox.run_any([slow, honest, honest], 0.5)]
    assert sorted(order) == [0, 1, 2]
    assert [v.passed for v in sandbox.run([slow, honest, honest], 0.5)] == [False, True, True]


def test_it_refuses_without_walls():
    with pytest.raises(InputError, match=r"execution\.allow_unsandboxed"):
        Sandbox(1, levels=["none"])
    with Sandbox(1, allow_unsandboxed=True, levels=["none"]) as box:
        assert "nothing stops" in str(box.describe()["lacks"])
        assert judge(box, [square("def f(x): return x * x")])[0].passed


def test_it_refuses_when_an_attack_succeeds(monkeypatch):
    monkeypatch.setitem(ATTACKS, "honest", HONEST["square"])
    with pytest.raises(InputError, match="the attack 'honest' succeeded"):
        Sandbox(1)


UNPRIVILEGED = """
import os, sys
sys.path += sys.argv[1:]
from evals.sandbox.pool import Sandbox
from evals.sandbox.types import Program
from tests.evals.sandbox.hostile_programs import harms
assert os.getuid() == 65534
with Sandbox(1) as box:
    programs = [Program(s, "assert f(2) == 4", ("f",)) for s in harms().values()]
    honest = Program("def f(x): return x * x", "assert f(2) == 4", ("f",))
    print(box.level, sum(v.passed for v in box.run(programs, 1.0)), next(box.run([honest], 1.0)))
"""


@pytest.fixture
def public(tmp_path):
    """Copies of interpreter, standard library and code that every user may read."""
    folder = Path(tempfile.mkdtemp(prefix="llama_scale-"))
    folder.chmod(0o755)
    library = Path(sysconfig.get_path("stdlib"))
    skip = shutil.ignore_patterns("site-packages", "dist-packages", "__pycache__", "test", "*.a")
    program = folder / "bin" / "python3"
    program.parent.mkdir()
    shutil.copy(Path(sys.executable).resolve(), program)
    shutil.copytree(library, folder / "lib" / library.name, ignore=skip)
    for name in ("evals", "llama_scale", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=skip)
    yield folder, program
    shutil.rmtree(folder)


def test_an_unprivileged_user_has_the_same_walls(public):
    if os.geteuid() != 0:
        pytest.skip("the whole suite runs unprivileged already")
    root, program = public
    command = [program, "-B", "-c", UNPRIVILEGED, str(root)]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd="/", user=65534, group=65534,
        extra_groups=[], env={"PYTHONHOME": str(root), "PATH": os.environ["PATH"]},
    )  # fmt: skip
    if "No module named 'encodings'" in done.stderr or "shared libraries" in done.stderr:
        pytest.skip("this interpreter cannot be copied")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(("isolated 0 Verdict(passed=True", "restricted 0 Verdict(passed"))


def test_a_measured_time_sets_no_verdicts_apart():
    assert Verdict(True, "passed", seconds=1.0) == Verdict(True, "passed", seconds=2.0)
