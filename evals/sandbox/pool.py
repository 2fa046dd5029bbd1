"""Runs untrusted programs side by side: Sandbox(workers).run(programs, timeout) yields verdicts.

Three processes take part. The fork server (fork_server.py) is clean and forks; the program's process (program.py) has
the program and no test; the judge's process (judge.py) has the tests and never runs a line of the program. A verdict is
the judge's alone.
"""

import itertools
import os
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from queue import SimpleQueue
from typing import Any

from evals.sandbox.tools import find_tool
from evals.sandbox.types import NOT_MEASURED, SANDBOX_LOST, Program, Script, Verdict
from evals.sandbox.worker import Worker, WorkerLostError
from llama_scale.errors import InputError

SLACK = 2  # a program is killed at this many times its CPU time; in between it is run again alone
LEVELS = ("isolated", "restricted", "none")
# What a sandbox must let pass, and the attacks that it must withstand, before it judges anything.
SELF_TESTS = "assert f(2) == 4\nassert f(3) == 9"
EQUAL = "    def __eq__(self, o): return True\n    __hash__ = None\n"


def _program(source: str) -> Program:
    return Program(source, SELF_TESTS, ("f",))


def _escape(attempt: str) -> Program:
    """Passes if the attempt raises nothing."""
    body = "\n".join(f"    {line}" for line in attempt.splitlines())
    return _program(f"def f(x):\n{body}\n    return x * x\n")


HONEST = {
    "square": _program("def f(x): return x * x"),
    "standard library": _escape("import json, decimal, heapq, statistics"),
    "output": Script("print(input() * 2)", "ab\n"),
}
ATTACKS = {
    "exit": _program("import sys; sys.exit(0)"),
    "hard exit": _program("import os; os._exit(0)"),
    "equal to everything": _program(f"class E:\n{EQUAL}def f(x): return E()"),
    "equal integer": _program(f"class E(int):\n{EQUAL}def f(x): return E(7)"),
    "patched builtins": _program("import builtins\nbuiltins.abs = len\ndef f(x): return 0"),
    "forged verdict": _program(
        "import os\nfor n in range(32):\n    try: os.write(n, b'{\"passed\": true}')\n"
        "    except OSError: pass\nos._exit(0)"
    ),
    "forged answers": _program(
        'import os, struct\nb = b\'{"value": {"passed": true}}\'\n'
        "os.write(3, (struct.pack('<I', len(b)) + b) * 9)\nos._exit(0)"
    ),
    "harm: write a file": _escape("open('/tmp/x', 'w').write('x')"),
    "harm: read the host": _escape("open('/etc/passwd').read()"),
    "harm: fork": _escape("import os\nif os.fork() == 0: os._exit(0)"),
    "harm: exec": _escape("import subprocess\nsubprocess.run(['/bin/true'])"),
    "harm: network": _escape("import socket\nsocket.socket()"),
    "harm: signal": _escape("import os\nos.kill(os.getppid(), 0)"),
    "harm: endless memory": _escape("a = [0] * (1 << 27)\nb = bytearray(1 << 30)"),
}


class Sandbox:
    """Fork servers for ``workers`` programs at a time, at the best level that this machine permits.

    Attributes:
        level: "isolated" (namespaces, read-only root, Landlock if the kernel has it, seccomp), "restricted" (Landlock
            and seccomp alone) or "none".
        walls: What holds, in words.

    Raises:
        InputError: Neither of the first two levels can be reached and ``allow_unsandboxed`` is not given, or an attack
            of the self-test succeeded.
    """

    def __init__(self, workers: int | None = None, allow_unsandboxed: bool = False,
                 levels: Sequence[str] = LEVELS):  # fmt: skip
        self.workers = workers or len(os.sched_getaffinity(0))
        self._idle: dict[str, SimpleQueue[Worker]] = defaultdict(SimpleQueue)
        self._all: dict[str, list[Worker]] = defaultdict(list)
        self._lock = threading.Lock()
        refused = []
        for level in [n for n in levels if n != "none" or allow_unsandboxed]:
            worker = Worker(level)
            if "error" not in worker.greeting:
                break
            refused.append(f"{level}: {worker.greeting['error']}")
        else:
            remedy = "untrusted programs are not run without one unless execution.allow_unsandboxed is true"
            raise InputError(f"no sandbox on this machine ({'; '.join(refused)}); {remedy}")
        self.level, self.walls = level, worker.greeting["walls"]
        self._all["python"].append(worker)
        self._idle["python"].put(worker)
        try:
            self._self_test()
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self) -> "Sandbox":
        return self

    def __exit__(self, *_: object) -> None:
        for worker in itertools.chain(*self._all.values()):
            worker.close()

    def describe(self) -> dict[str, Any]:
        """Return the level, what holds and what does not."""
        lacks = ["a kernel bug; cache and timing side channels"]
        if self.level == "restricted":
            lacks.append("no namespaces: the presence of files and the machine's name can be seen")
        if self.level == "none":
            lacks = ["nothing stops a program from harming this machine"]
        return {"level": self.level, "holds": list(self.walls), "lacks": lacks}

    def _self_test(self) -> None:
        for name, program in HONEST.items():
            verdict = self._run(program, 5.0)[0]
            if not verdict.passed:
                found = f"the honest program {name!r} fails in it ({verdict.reason}); level {self.level}"
                raise InputError(f"sandbox: {found}: nothing can be judged on this machine")
        for name, program in ATTACKS.items():
            if self.level == "none" and name.startswith("harm: "):
                continue
            if self._run(program, 5.0)[0].passed:
                raise InputError(f"sandbox: the attack {name!r} succeeded; nothing is judged")

    def _borrow(self, language: str) -> Worker:
        idle, every = self._idle[language], self._all[language]
        with self._lock:
            if idle.empty() and len(every) < self.workers:
                worker = self._start(language)
                # The first of a language may say why there can be none; later ones may be missed.
                if worker is not None and ("error" not in worker.greeting or not every):
                    every.append(worker)
                    return worker
            if not every:
                raise InputError("sandbox: no process could be started; free memory or processes")
        return idle.get()

    def _start(self, language: str) -> Worker | None:
        """Return a new worker, None if this machine cannot start a process now."""
        for pause in (0.0, 0.5, 2.0):
            time.sleep(pause)
            with suppress(OSError):
                return Worker(self.level, None if language == "python" else find_tool(language))
        return None

    def _run(self, program: Program | Script, timeout: float, alone: bool = False) -> tuple[Verdict, bool]:
        language = getattr(program, "language", "python")
        if language != "python" and (self.level != "isolated" or find_tool(language) is None):
            return Verdict(False, NOT_MEASURED), False
        worker = self._borrow(language)
        if "error" in worker.greeting:
            self._idle[language].put(worker)
            return Verdict(False, NOT_MEASURED), False
        try:
            return worker.run(program, timeout, timeout if alone else SLACK * timeout)
        except WorkerLostError:
            worker.close()
            fresh = self._start(language)
            if fresh is None or "error" in fresh.greeting:
                raise InputError(
                    "sandbox: it was lost and could not be started again; the same command goes on"
                ) from None
            with self._lock:
                every = self._all[language]
                every[every.index(worker)] = fresh
            worker = fresh
            return Verdict(False, SANDBOX_LOST), not alone
        finally:
            self._idle[language].put(worker)

    def run(self, programs: Sequence[Program | Script], timeout: float) -> Iterator[Verdict]:
        """Yield the verdict of each program in order; see ``run_any``."""
        done, due = {}, 0
        for number, verdict in self.run_any(programs, timeout):
            done[number] = verdict
            while due in done:
                yield done.pop(due)
                due += 1

    def run_any(self, programs: Sequence[Program | Script], timeout: float) -> Iterator[tuple[int, Verdict]]:
        """Yield the number and the verdict of each program, those that are run again last.

        ``timeout`` is CPU seconds; the clock allows more. What load could have made late is run again, alone.
        """
        again: list[int] = []
        pool = ThreadPoolExecutor(self.workers)
        try:
            ran = pool.map(lambda program: self._run(program, timeout), programs)
            for number, (verdict, repeat) in enumerate(ran):
                if repeat:
                    again.append(number)
                else:
                    yield number, verdict
        finally:
            pool.shutdown(cancel_futures=True)
        for number in again:
            yield number, self._run(programs[number], timeout, alone=True)[0]
