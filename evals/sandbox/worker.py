"""One fork server and the socket to it: Worker(level).run(program, ...) gives a verdict.

A request is limits and open files. A program with tests needs two processes, each with files of its own: the program's
source, and the judge's tests and a file for the verdict.
"""

import itertools
import json
import math
import os
import re
import socket
import subprocess
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from evals.sandbox.explain import claim_of
from evals.sandbox.judge import packed_code
from evals.sandbox.load import EXTENSIONS, SLOWEST, Pace
from evals.sandbox.output import same_output
from evals.sandbox.program import ENDED, MEMORY, SYNTAX, UNSTARTED, pack
from evals.sandbox.tools import Tool
from evals.sandbox.types import Failure, Program, Script, Verdict

FORK_SERVER = Path(__file__).parent / "fork_server.py"
MEMORY_BYTES = 1 << 30  # of addresses, so that a thread with a stack of 512 MiB can be started
TOOL_BYTES = 1 << 30  # the heap (tools.py) and the run time of another language
OUTPUT_BYTES = 4 << 20
MOST_BYTES = 64 << 20  # of the output of a script that has to write more
CLAIM_BYTES = 4096  # of what a program says of its error
KEPT = 1000  # characters of an output that are kept once it was compared
VERDICT_BYTES = 1 << 18
WALL = 3  # seconds on the clock for each second of CPU time, and as many to start
CODES, LONGEST = 1024, 1 << 16  # tests whose code is kept; characters of the longest of them
# Tests are not ours to warn of. By their file's name, so that threads need not change the filters.
warnings.filterwarnings("ignore", category=SyntaxWarning, module="<tests>")


class WorkerLostError(Exception):
    """A fork server died or hung."""


@lru_cache(CODES)
def _code_of(tests: str) -> Callable[[], str]:
    """Return a function that gives the tests' code, "" when it is called first: they may not come a second time."""
    calls = itertools.count()

    @lru_cache
    def code() -> str:
        return packed_code(tests)

    return lambda: code() if next(calls) else ""


class Worker:
    """One fork server and the socket to it; ``tool`` runs the programs of another language.

    ``greeting`` is what it said at its start: {"walls"}, or {"error"} where this machine does not permit the level.
    """

    def __init__(self, level: str, tool: Tool | None = None):
        self.tool, self.pace = tool, Pace()
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            # As -I, but a fixed hash seed: the order of a set must not change a verdict.
            self.process = subprocess.Popen(
                [sys.executable, "-PsSB", "-Xutf8", "-Xint_max_str_digits=0", FORK_SERVER, str(theirs.fileno()), level,
                 json.dumps(tool and asdict(tool))],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                cwd="/", env={"PYTHONHASHSEED": "0"}, pass_fds=[theirs.fileno()],
                start_new_session=True,
            )  # fmt: skip
        self.socket.settimeout(60)
        self.greeting = {"error": "the sandbox process ended at its start"}
        with suppress(WorkerLostError):
            self.greeting = self._receive()
        if "error" in self.greeting:
            self.close()

    def _receive(self) -> dict[str, Any]:
        data = b""
        with suppress(OSError):
            data = self.socket.recv(4096)
        if not data:
            raise WorkerLostError
        return json.loads(data)

    def close(self) -> None:
        """End the fork server and every process below it."""
        self.socket.close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def run(self, program: Program | Script, timeout: float, cpu: float) -> tuple[Verdict, bool]:
        """Run one program for at most ``cpu`` seconds; return its verdict and whether load may have made it late."""
        if self.tool:
            timeout, cpu = timeout + self.tool.start, cpu + self.tool.start
        memory = TOOL_BYTES if self.tool else MEMORY_BYTES
        # More than the verdict allows: the kernel's limit goes by coarse ticks, and a busy machine computes slowly.
        most = math.ceil(cpu) if cpu > timeout else max(math.ceil(cpu) + 1, math.ceil(SLOWEST * cpu))
        limits = {"cpu": most, "memory": memory, "output": OUTPUT_BYTES}
        wall = WALL * (1 + timeout)
        if isinstance(program, Script):
            if program.expected is not None:
                size = len(program.expected.encode("utf-8", "replace"))
                limits["output"] = min(max(OUTPUT_BYTES, 2 * size), MOST_BYTES)
            reply, output, said = self._run_script(program, limits, wall)
            self._allow_for_load(reply, timeout, cpu)
            full = len(output) >= limits["output"]
            verdict, repeat = _script_verdict(program, reply, timeout, cpu, output, full)
            told = program.explain and not verdict.passed
            return (replace(verdict, failures=(script_failure(verdict.reason, said),)) if told else verdict), repeat
        reply, said, output = self._run_judged(program, limits, wall)
        self._allow_for_load(reply, timeout, cpu)
        return _judged_verdict(reply, timeout, cpu, said, output)

    def _allow_for_load(self, reply: dict, timeout: float, cpu: float) -> None:
        """Take from the CPU time of a program that was run alone, and a little too long, what others made it longer."""
        status, seconds = reply["ended"]
        if cpu <= timeout <= seconds < SLOWEST * timeout:
            reply["ended"] = [status, seconds / self.pace.slowdown()]

    def _run_script(self, script: Script, limits: dict, wall: float) -> tuple[dict, bytes, bytes]:
        """Return how a program ended, its output, and what it says of its error."""
        text = script.source if self.tool else pack(script.preamble, script.source)
        with _file(text) as source, _file(script.stdin) as stdin, _file() as output, _file() as said:
            asked = [said] if script.explain and not self.tool else []
            self._send("script", limits, wall, [source, stdin, output, *asked])
            reply = self._receive()
            return reply, os.pread(output.fileno(), limits["output"], 0), os.pread(said.fileno(), CLAIM_BYTES, 0)

    def _run_judged(self, program: Program, limits: dict, wall: float) -> tuple[dict, str, str]:
        """Return how the two processes ended, what the judge wrote, and the program's output."""
        job = {name: getattr(program, name) for name in ("setup", "tests", "names", "objects", "methods", "explain")}
        known = len(program.tests) <= LONGEST and not program.explain
        job["code"] = _code_of(program.tests)() if known else ""
        program_end, judge_end = socket.socketpair()
        with (
            _file(pack(program.preamble, program.source)) as source,
            _file() as output,
            _file(json.dumps(job)) as tests,
            _file() as verdict,
            program_end,
            judge_end,
        ):
            self._send("program", limits, wall, [source, output, program_end, tests, judge_end, verdict])
            for end in (program_end, judge_end):  # else neither side would see the other go
                end.close()
            reply = self._receive()
            return reply, _read(verdict.fileno(), VERDICT_BYTES), _read(output.fileno(), 4096)

    def _send(self, kind: str, limits: dict, wall: float, files: list[Any]) -> None:
        self.socket.settimeout((EXTENSIONS + 1) * wall + 60)
        request = json.dumps({"kind": kind, "limits": limits, "wall": wall}).encode()
        try:
            socket.send_fds(self.socket, [request], [file.fileno() for file in files])
        except OSError:
            raise WorkerLostError from None


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

    A program may take ``timeout`` CPU seconds and is killed after ``cpu``, twice as many in its first run. Only one
    that was killed for its CPU time, or whose clock ran out on a machine with free cores, needs no second run: one that
    took between one and two limits, or whose clock ran out on an overloaded machine, may have had a busy core.
    ``gone``: it ended by itself or by the kernel, not because its judge was done.
    """
    status, seconds = reply["ended"]
    killed = gone and status == -9
    late = killed or seconds >= timeout or reply["timed_out"]
    slept = reply["timed_out"] and not reply["overloaded"]
    again = status == UNSTARTED or (late and not slept and not (killed and seconds >= timeout))
    return seconds, "timeout" if late else "", again and cpu > timeout


def _script_verdict(
    script: Script, reply: dict, timeout: float, cpu: float, output: bytes, full: bool
) -> tuple[Verdict, bool]:
    seconds, late, repeat = _clock(reply, timeout, cpu, gone=True)
    status, text = reply["ended"][0], output.decode("utf-8", "replace")
    names = {ENDED: "passed", SYNTAX: "syntax error", MEMORY: "out of memory"}
    reason = late or names.get(status, "raised" if status >= 0 else "ended early")
    if reason == "raised" and full:
        reason = "too much output"
    if script.expected is not None:
        if reason == "passed" and not same_output(text, script.expected, script.judge):
            reason = "wrong answer"
        text = text[:KEPT]
    loads = reason in ("passed", "wrong answer")
    verdict = Verdict(reason == "passed", reason, status != SYNTAX, loads, output=text, seconds=seconds)
    return verdict, repeat


def script_failure(reason: str, said: bytes) -> Failure:
    """Return what is known of a program that did not pass: the ``reason`` is ours, all else what it ``said``."""
    frame: dict[str, Any] = {}
    with suppress(ValueError, RecursionError):
        found = json.loads(said[4:])  # after the length of the frame
        frame = found if isinstance(found, dict) else {}
    raised = frame.get("raised")
    if reason == "raised" and type(raised) is list and raised and type(raised[0]) is str:
        reason = f"raised {re.sub(r'[^A-Za-z0-9_]', '?', raised[0][:80])}"
    claim = claim_of(frame) if reason.startswith("raised ") or reason == "syntax error" else {}
    return Failure("", reason, **claim)


def _judged_verdict(reply: dict, timeout: float, cpu: float, said: str, output: str) -> tuple[Verdict, bool]:
    """Return what the judge ``said``, unless the program was late, and whether to repeat it."""
    verdict = {}
    with suppress(ValueError):  # none, or none that can be read
        verdict = json.loads(said)
    seconds, late, repeat = _clock(reply, timeout, cpu, gone=verdict.get("reason") == "ended early")
    if not verdict:  # the judge itself ran out of time or memory on what the program answered
        return Verdict(False, late or "no verdict", output=output, seconds=seconds), cpu > timeout
    if late:
        verdict |= {"passed": False, "reason": late}
    return Verdict(**verdict, output=output, seconds=seconds), repeat
