"""Runs untrusted programs in zygotes: Sandbox(workers).run(programs, timeout) yields verdicts.

Three processes take part. The zygote (fork_server.py) is clean and forks; the program's process
(program.py) has the program and no test; the judge's process (judge.py) has the tests and never
runs a line of the program. A verdict is the judge's alone.
"""

import json
import math
import os
import socket
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from evals.sandbox.program import ENDED, MEMORY, OUTPUT, SYNTAX
from evals.sandbox.tools import Tool, find
from llama_scale.errors import InputError

ZYGOTE = Path(__file__).parent / "fork_server.py"
MEMORY_BYTES = 1 << 29
TOOL_BYTES = 1 << 30  # the heap (tools.py) and the run time of another language
OUTPUT_BYTES = 4 << 20
NOT_MEASURED = "not measured"
UNSTARTED = 99  # exit code of a process that could not be prepared
SLACK = 2  # a program is killed at this many times its CPU time; in between it is run again alone
WALL = 3  # seconds on the clock for each second of CPU time, and as many to start
LEVELS = ("isolated", "restricted", "none")


@dataclass(frozen=True)
class Program:
    """An untrusted program whose functions are called by trusted tests.

    ``tests`` run in the judge, after ``setup``, with each of ``names`` calling the program's
    function of that name. ``objects`` lets tests hold objects of the program's classes by
    reference: for tasks whose tests build them.
    """

    source: str
    tests: str
    names: tuple[str, ...]
    setup: str = ""
    objects: bool = False


@dataclass(frozen=True)
class Script:
    """An untrusted program that reads standard input; its output is compared by the caller.

    ``language`` is python, java or javascript. Where the machine does not have the tool, or not
    the level isolated, such a program's verdict is "not measured".
    """

    source: str
    stdin: str = ""
    language: str = "python"


@dataclass(frozen=True)
class Verdict:
    """Whether a program passed, and if not why, in a few words.

    A script passes if it comes to its end; ``output`` is what it wrote. ``held`` of ``tests``
    assertions held. ``seconds`` of CPU time are a measurement and differ from run to run.
    """

    passed: bool
    reason: str
    parses: bool = True
    held: int = 0
    tests: int = 0
    output: str = field(default="", compare=False)
    seconds: float = field(default=0.0, compare=False)


class LostError(Exception):
    """A zygote died or hung."""


class Worker:
    """One zygote and the socket to it."""

    def __init__(self, level: str, tool: Tool | None = None):
        self.tool = tool
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            # As -I, but a fixed hash seed: the order of a set must not change a verdict.
            self.process = subprocess.Popen(
                [sys.executable, "-PsSB", "-Xutf8", ZYGOTE, str(theirs.fileno()), level,
                 json.dumps(tool and asdict(tool))],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                cwd="/", env={"PYTHONHASHSEED": "0"}, pass_fds=[theirs.fileno()],
                start_new_session=True,
            )  # fmt: skip
        self.socket.settimeout(60)
        try:
            self.greeting = self._receive()
        except LostError:
            self.greeting = {"error": "the sandbox process ended at its start"}
        if "error" in self.greeting:
            self.close()

    def _receive(self) -> dict[str, Any]:
        try:
            data = self.socket.recv(4096)
        except OSError:
            data = b""
        if not data:
            raise LostError
        return json.loads(data)

    def close(self) -> None:
        """End the zygote and every process below it."""
        self.socket.close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def run(self, program: Program | Script, timeout: float, cpu: float) -> tuple[Verdict, bool]:
        """Run one program for at most ``cpu`` seconds; return its verdict and whether to repeat.

        To be repeated alone is what ran out of time in a way that other load could have caused.
        """
        if self.tool:
            timeout, cpu = timeout + self.tool.start, cpu + self.tool.start
        wall = WALL * (1 + timeout)
        # One second more than the verdict allows: the kernel's limit goes by coarse ticks.
        limits = {
            "cpu": math.ceil(cpu) + (cpu <= timeout),
            "memory": TOOL_BYTES if self.tool else MEMORY_BYTES,
            "output": OUTPUT_BYTES,
        }
        script = isinstance(program, Script)
        source, output = _file(program.source), _file()
        with source, output:
            if script:
                with _file(program.stdin) as stdin:
                    fds = [source, stdin, output]
                    self._send("script", limits, wall, fds)
                    reply = self._receive()
                return _script_verdict(reply, timeout, cpu, _read(output.fileno(), OUTPUT_BYTES))
            task = {"setup": program.setup, "tests": program.tests, "names": program.names,
                    "objects": program.objects}  # fmt: skip
            ours, theirs = socket.socketpair()
            with _file(json.dumps(task)) as tests, _file() as verdict, ours, theirs:
                fds = [source, output, ours, tests, theirs, verdict]
                self._send("judged", limits, wall, fds)
                for end in (ours, theirs):  # else neither side would see the other go
                    end.close()
                reply = self._receive()
                said = _read(verdict.fileno(), 1 << 16)
            return _judged_verdict(reply, timeout, cpu, said, _read(output.fileno(), 4096))

    def _send(self, kind: str, limits: dict, wall: float, files: list[Any]) -> None:
        self.socket.settimeout(8 * wall + 60)  # the zygote sets a clock again at most 7 times
        request = json.dumps({"kind": kind, "limits": limits, "wall": wall}).encode()
        try:
            socket.send_fds(self.socket, [request], [file.fileno() for file in files])
        except OSError:
            raise LostError from None


def _file(text: str = "") -> Any:
    """Return an unnamed file in memory that holds ``text``."""
    file = open(os.memfd_create("program"), "w+b", buffering=0)  # noqa: SIM115
    data = text.encode("utf-8", "surrogatepass")  # a lone surrogate then does not decode
    while data:
        data = data[file.write(data) :]
    file.seek(0)
    return file


def _read(fd: int, most: int) -> str:
    return os.pread(fd, most, 0).decode("utf-8", "replace")


def _clock(reply: dict, timeout: float, cpu: float, gone: bool) -> tuple[float, str, bool]:
    """Return CPU seconds, "timeout" or "", and whether the program should be repeated alone.

    ``gone``: it ended by itself or was killed by the kernel, not because its judge was done.
    """
    status, seconds = reply["ended"][0]
    killed = gone and status == -9
    if killed or seconds >= timeout or reply["timed_out"]:
        return seconds, "timeout", cpu > timeout and not (killed and seconds >= timeout)
    return seconds, "", False


def _script_verdict(reply: dict, timeout: float, cpu: float, output: str) -> tuple[Verdict, bool]:
    seconds, late, repeat = _clock(reply, timeout, cpu, gone=True)
    status = reply["ended"][0][0]
    names = {ENDED: "passed", SYNTAX: "syntax error", MEMORY: "out of memory",
             OUTPUT: "too much output"}  # fmt: skip
    reason = late or names.get(status, "raised" if status >= 0 else "ended early")
    passed = reason == "passed"
    if status == UNSTARTED:
        repeat = cpu > timeout
    return Verdict(passed, reason, status != SYNTAX, 0, 0, output, seconds), repeat


def _judged_verdict(
    reply: dict, timeout: float, cpu: float, said: str, output: str
) -> tuple[Verdict, bool]:
    try:
        verdict = json.loads(said)
    except ValueError:  # none, or none that can be read
        verdict, said = {}, ""
    gone = verdict.get("reason") == "ended early"
    seconds, late, repeat = _clock(reply, timeout, cpu, gone)
    if not said:  # the judge itself ran out of time or memory on what the program answered
        return Verdict(False, late or "no verdict", True, 0, 0, output, seconds), cpu > timeout
    if reply["ended"][0][0] == UNSTARTED:
        repeat = cpu > timeout
    if late:
        verdict |= {"passed": False, "reason": late}
    return Verdict(**verdict, output=output, seconds=seconds), repeat


class Sandbox:
    """Zygotes for ``workers`` programs at a time, at the best level that this machine permits.

    Attributes:
        level: "isolated" (namespaces, read-only root, Landlock if the kernel has it, seccomp),
            "restricted" (Landlock and seccomp alone) or "none".
        walls: What holds, in words.

    Raises:
        InputError: Neither of the first two levels can be reached and ``allow_unsandboxed`` is not
            given, or an attack of the self-test succeeded.
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
            raise InputError(
                f"no sandbox on this machine ({'; '.join(refused)}); untrusted programs are not "
                "run without one unless you insist: --allow-unsandboxed"
            )
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
        for worker in (worker for workers in self._all.values() for worker in workers):
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
        from evals.sandbox.self_test import ATTACKS, HONEST

        for name, program in HONEST.items():
            verdict = self._run(program, 5.0)[0]
            if not verdict.passed:
                raise InputError(
                    f"sandbox: the honest program {name!r} fails in it ({verdict.reason}); level "
                    f"{self.level}: nothing can be judged on this machine"
                )
        for name, program in ATTACKS.items():
            harm = name.startswith("harm: ")
            if self.level == "none" and harm:
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
                return Worker(self.level, None if language == "python" else find(language))
        return None

    def _run(
        self, program: Program | Script, timeout: float, alone: bool = False
    ) -> tuple[Verdict, bool]:
        language = getattr(program, "language", "python")
        if language != "python" and (self.level != "isolated" or find(language) is None):
            return Verdict(False, NOT_MEASURED), False
        worker = self._borrow(language)
        if "error" in worker.greeting:
            self._idle[language].put(worker)
            return Verdict(False, NOT_MEASURED), False
        try:
            return worker.run(program, timeout, timeout if alone else SLACK * timeout)
        except LostError:
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
            return Verdict(False, "sandbox lost"), not alone
        finally:
            self._idle[language].put(worker)

    def run(self, programs: Sequence[Program | Script], timeout: float) -> Iterator[Verdict]:
        """Yield the verdict of each program in order; see ``run_any``."""
        done: dict[int, Verdict] = {}
        due = 0
        for number, verdict in self.run_any(programs, timeout):
            done[number] = verdict
            while due in done:
                yield done.pop(due)
                due += 1

    def run_any(
        self, programs: Sequence[Program | Script], timeout: float
    ) -> Iterator[tuple[int, Verdict]]:
        """Yield the number and the verdict of each program, those that are run again last.

        ``timeout`` is CPU seconds; the clock allows more. What runs out of time is run again
        alone after all others, if load could have been the cause.
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
