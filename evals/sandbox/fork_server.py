"""A fork server: a clean interpreter behind walls that forks a process for each program.

Started by worker.py with the number of a socket, the level and the language's tool. No program, test or key is ever
read by this process: requests carry limits and open files, which go straight to the forked processes.
"""

import fcntl
import functools
import gc
import importlib
import json
import os
import platform
import posix
import random
import resource
import select
import socket
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

sys.path.append(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
from evals.sandbox import judge, namespaces, plain_run, program, syscalls, wire
from evals.sandbox.load import EXTENSIONS, Load
from evals.sandbox.tools import CALLS

sys.path.pop()

GRACE = 1.0  # seconds that a judge has left when the clock of its program has run out
WARM = 20  # calls, after which the interpreter has adapted a function
ZONES = ["/usr/share/zoneinfo"]  # time zones, which the standard library reads
PRELOADED = [
    "abc", "array", "base64", "binascii", "bisect", "bz2", "calendar", "cmath", "collections.abc", "contextlib", "copy",
    "dataclasses", "datetime", "decimal", "enum", "fractions", "functools", "hashlib", "heapq", "io", "itertools",
    "lzma", "math", "numbers", "operator", "pprint", "queue", "random", "re", "secrets", "string", "struct",
    "statistics", "sys", "textwrap", "threading", "time", "traceback", "types", "typing", "unicodedata", "warnings",
    "zlib", "sqlite3", "encodings.idna", "encodings.ascii", "encodings.latin_1", "encodings.utf_16",
    "encodings.unicode_escape",
]  # fmt: skip


def raise_walls(level: str, tool: dict[str, Any] | None) -> list[str]:
    """Put up the walls of ``level`` around this process and its children; return their names.

    With a ``tool`` (tools.py) Landlock and seccomp stand around each program only: its file must be put into a folder
    of its own first. Raises OSError where the level cannot be reached.
    """
    readable = [os.path.realpath(sysconfig.get_path("stdlib")), *filter(os.path.isdir, ZONES)]
    if tool and level != "isolated":
        raise OSError("programs in this language are run at level isolated alone")
    walls = []
    if level == "isolated":
        walls = namespaces.enter_namespaces([*readable, *(tool["paths"] if tool else ())])
        if os.fork():  # the PID namespace begins with the next child
            os._exit(os.waitstatus_to_exitcode(os.wait()[1]) & 127)
    elif level == "restricted":
        namespaces.drop_root()
    syscalls.drop_bounding_set()
    syscalls.prctl(syscalls.NO_NEW_PRIVS, 1)
    syscalls.prctl(syscalls.SET_DUMPABLE, 0)
    if level != "none":
        if tool or syscalls.restrict_files(readable, ["/dev/null"]):
            walls.append("Landlock: the standard library can be read, nothing written")
        elif level == "restricted":
            raise OSError("this kernel has no Landlock")
        walls.append("seccomp: a list of allowed system calls; no process, socket or signal")
        walls.append("unprivileged user without capabilities")
    return [*walls, "limits on CPU time, memory, output and open files"]


def confine(limits: dict[str, Any], rules: bytes | None, tool: bool = False, shared: bool = False) -> None:
    """Limit this process, for good, before untrusted code runs in it.

    A user ``shared`` with the programs of other workers has their threads counted as its own. The run time of a
    ``tool`` reserves far more addresses than it uses, and has threads.
    """
    cpu, size = limits["cpu"], limits["output"]
    for kind, most in (
        (resource.RLIMIT_CPU, cpu),
        (resource.RLIMIT_DATA if tool else resource.RLIMIT_AS, limits["memory"]),
        (resource.RLIMIT_FSIZE, size),
        (resource.RLIMIT_NOFILE, 64 if tool else 32),
        (resource.RLIMIT_NPROC, 4096 if shared else 128 if tool else 64),
    ):
        resource.setrlimit(kind, (most, most))
    if rules:
        syscalls.drop_capabilities()
        syscalls.restrict_calls(rules)


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process so far, by its clock (see clock_getcpuclockid(3)).

    The kernel's number of that clock is the process id, inverted, above three bits: 2 stands for "time on the CPU of
    the whole process". Process 1 has the clock -14: ~1 << 3 | 2.
    """
    return time.clock_gettime(~pid << 3 | 2)


def warm_up() -> None:
    """Run what programs and judges do first on a program of our own: forked processes have it specialized then.

    An interpreter adapts a function's code, and remembers where it found attributes, in its first few calls, and each
    forked process would do that anew, in pages copied for it.
    """
    for number in range(WARM):
        preamble, source = program.unpack(program.pack("", "def f(x):\n    return [x, 'a', 0.5]\n").encode())
        names: dict[str, Any] = {"preamble": preamble}
        exec(program.compiled(source), names)
        ask = {"do": "call", "name": "f", "args": wire.encode([number]), "kwargs": wire.encode({})}
        request = json.loads(wire.pack(ask | {"objects": False, "methods": False})[4:])
        answer = program._answer(functools.partial(program._perform, request, names, []), None, None)
        wire.decode(json.loads(answer[4:])["value"])
        judge.compile_tests("assert f(1) == [1, 'a', 0.5]\n")


def name_main_thread(number: int) -> None:
    """Say which number the system has for the main thread, as the interpreter notes it of itself at a fork."""
    threading.main_thread()._native_id = number  # type: ignore[attr-defined]


ROLES = {"program": program.serve, "script": program.run_script}


class Forked(BaseException):
    """Raised in a forked process to leave the fork server's calls behind: ``play`` is its role, with its source."""

    def __init__(self, play: Callable[[], int]):
        self.play = play


class ForkServer:
    """Forks the processes of one request, and the next one's ahead, and reports what became of them."""

    def __init__(self, control: socket.socket, level: str, tool: dict[str, Any] | None, load: Load):
        self.control, self.level, self.tool, self.load = control, level, tool, load
        self.home = os.pidfd_open(os.getpid())
        more = CALLS[platform.machine()] if tool else ()
        self.rules = syscalls.syscall_filter(1, more) if level == "isolated" else None
        if self.rules:
            syscalls.kernel_form(self.rules)
        self.ready: dict[str, tuple[int, socket.socket]] = {}
        self.judge: tuple[int, socket.socket] | None = None

    def fork(self, prepare: Callable[[socket.socket], Callable[[], int] | None]) -> tuple[int, socket.socket]:
        """Fork a process, in a PID namespace of its own; it plays what ``prepare`` makes of its socket."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        if self.level == "isolated":
            syscalls.unshare(syscalls.NEW_PID)
        pid = syscalls.fork()
        if pid == 0:
            play = None
            try:
                if self.level != "isolated":
                    name_main_thread(os.getpid())
                judges = [self.judge] if self.judge else []
                for _, link in (*self.ready.values(), *judges, (0, ours), (0, self.control)):
                    link.detach()  # else its end would close a file of the same number
                os.closerange(0, theirs.fileno())
                os.closerange(theirs.fileno() + 1, 1 << 16)
                play = prepare(theirs)
            finally:
                if play is None:
                    os._exit(program.UNSTARTED)
            gc.freeze()  # what is alive is not the program's: its first collection need not look through that
            gc.enable()
            raise Forked(play)
        theirs.close()
        if self.level == "isolated":
            syscalls.call(syscalls.LIBC.setns(self.home, syscalls.NEW_PID))
        return pid, ours

    def confine(self, limits: dict[str, Any], more: Sequence[int] = ()) -> None:
        """Limit this process, for good; ``more`` system calls are allowed to it."""
        rules = self.rules
        if self.level != "none" and (more or rules is None):
            rules = syscalls.syscall_filter(os.getpid(), more)
        confine(limits, rules, bool(self.tool), shared=self.level != "isolated")

    def prepare(self, role: str, waiting: socket.socket) -> Callable[[], int] | None:
        """Wait for limits and files, confine this process and return the role that it is to play.

        The first file holds the source; the others, or the null device, become descriptors from 0 on. Standard error
        is the null device: it is no output, and may be as long as it likes.
        """
        data, fds, _, _ = socket.recv_fds(waiting, 4096, 8)
        if not data:
            return None
        order, limits = json.loads(data)
        source = program.read_all(fds[0])
        null = posix.open(os.devnull, os.O_RDWR)
        # Copied to 64 and above first: dup2 to 0 to 4 would overwrite a file still to be moved. Order [-1, 1, -1, 2]
        # makes 0 and 2 the null device, 1 the second file and 3 the third.
        chosen = [null if index < 0 else fds[index] for index in order]
        moved = [fcntl.fcntl(fd, fcntl.F_DUPFD, 64) for fd in chosen]
        waiting.detach()
        for target, fd in enumerate(moved):
            os.dup2(fd, target)
        os.closerange(len(moved), 1 << 16)
        if self.tool:
            self.install(source, program.read_all(0))
        self.confine(limits)
        if self.tool:
            own = {"LD_LIBRARY_PATH": ":".join(self.tool["libraries"])}
            os.execve(self.tool["argv"][0], self.tool["argv"], {"LANG": "C.UTF-8"} | own)
        return functools.partial(ROLES[role], source)

    def prepare_judge(self, limits: dict[str, Any], link: socket.socket) -> Callable[[], int]:
        """Confine this process as a program's, but for receiving files, and return its role.

        The CPU time of each program's tests is limited by the judge itself.
        """
        null, own = posix.open(os.devnull, os.O_RDWR), fcntl.fcntl(link.detach(), fcntl.F_DUPFD, 64)
        for target in range(judge.LINK):
            os.dup2(null, target)
        os.dup2(own, judge.LINK)
        os.closerange(judge.LINK + 1, 1 << 16)
        link = socket.socket(fileno=judge.LINK)
        self.confine(limits | {"cpu": resource.RLIM_INFINITY}, syscalls.RECEIVE[platform.machine()])
        return functools.partial(judge.serve, link)

    def install(self, source: bytes, stdin: bytes) -> None:
        """Put a program's file and its input into a folder that only it sees, and let it read the tool alone."""
        quiet = syscalls.NO_SUID | syscalls.NO_DEV
        syscalls.unshare(syscalls.NEW_NS)
        syscalls.mount("tmpfs", "/tmp", "tmpfs", quiet, "size=64m,mode=755")
        for path, data in ((self.tool["file"], source), ("/tmp/stdin", stdin)):
            with open(path, "wb") as file:
                file.write(data)
        syscalls.mount(None, "/tmp", None, syscalls.REMOUNT | syscalls.BIND | syscalls.READ_ONLY | quiet)
        os.chdir("/tmp")
        syscalls.restrict_files(["/tmp", "/dev/urandom", "/dev/random"], ["/dev/null"], self.tool["paths"])

    def start(self, role: str, fds: list[int], order: list[int], limits: dict[str, Any]) -> int:
        """Give a process its files; ``order`` says which become its descriptors (-1: null)."""
        prepare = functools.partial(self.prepare, role)
        pid, link = self.ready.pop(role, None) or self.fork(prepare)
        socket.send_fds(link, [json.dumps([order, limits]).encode()], fds)
        link.close()
        return pid

    def start_judge(self, fds: list[int], limits: dict[str, Any]) -> socket.socket | None:
        """Give the judge a program's tests, the channel to the program and a file for the verdict.

        One judge has the programs of many requests one after another. It ends itself after one that did anything
        unusual (judge.py), and another is forked.
        """
        message = json.dumps({"cpu": 2 * limits["cpu"] + 2}).encode()
        for _ in range(2):
            self.judge = self.judge or self.fork(functools.partial(self.prepare_judge, limits))
            try:
                socket.send_fds(self.judge[1], [message], fds)
                return self.judge[1]
            except OSError:  # it was ended meanwhile, by the kernel
                self.end_judge()
        return None

    def end_judge(self) -> None:
        """Kill and forget the judge."""
        if self.judge:
            pid, link = self.judge
            link.close()
            os.kill(pid, 9)
            os.waitpid(pid, 0)
            self.judge = None

    def wait(self, pid: int, wall: float, link: socket.socket | None = None) -> dict[str, Any]:
        """Wait for a program, and for its judge at the other end of ``link``; when the clock has run out kill them.

        The clock is set again for a program that computes, only slowly, while the machine is overloaded. When the judge
        is done its program is, too. Returns the program's exit code and CPU seconds, whether the clock ran out and
        whether the machine may be why: it was overloaded.
        """
        handle = os.pidfd_open(pid)
        poll, code, seconds, deadline = select.poll(), None, 0.0, time.monotonic() + wall
        timed_out = overloaded = False
        before, extra, waited = 0.0, 0, self.load.waited()
        for fd in (handle, self.control.fileno(), *([link.fileno()] if link else [])):
            poll.register(fd, select.POLLIN)
        while code is None or link:
            events = [fd for fd, _ in poll.poll(max(0.0, deadline - time.monotonic()) * 1e3)]
            if self.control.fileno() in events:  # nobody is there any more
                os._exit(0)
            if link and link.fileno() in events:
                poll.unregister(link)
                said = b""
                with suppress(OSError):  # it may have died with files unread
                    said = link.recv(1)
                if said != judge.AGAIN:
                    self.end_judge()
                link = None
                if code is None:
                    os.kill(pid, 9)
            if handle in events:
                poll.unregister(handle)
                os.close(handle)
                _, status, usage = os.wait4(pid, 0)
                code, seconds = os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime
            if not events and time.monotonic() >= deadline:
                busy, used = self.load.overloaded(waited, wall), cpu_seconds(pid) if code is None else before
                overloaded |= busy and not timed_out
                working = busy and self.load.working((used - before) / wall)
                if working and extra < EXTENSIONS and not timed_out:
                    before, extra, deadline, waited = used, extra + 1, deadline + wall, self.load.waited()
                    continue
                if code is None:
                    os.kill(pid, 9)
                elif link:
                    self.end_judge()
                    link = None
                timed_out, deadline = True, time.monotonic() + GRACE
        return {"ended": [code, seconds], "timed_out": timed_out, "overloaded": overloaded}

    def serve(self) -> None:
        """Answer requests until the other side hangs up."""
        while True:
            data, fds, _, _ = socket.recv_fds(self.control, 4096, 8)
            if not data:
                return
            request = json.loads(data)
            limits, role, link = request["limits"], request["kind"], None
            if role == "script":
                pid = self.start(role, fds, [1, 2, -1, *range(3, len(fds))], limits)
            else:
                pid = self.start(role, fds[:3], [-1, 1, -1, 2], limits)
                link = self.start_judge(fds[3:], limits)
            for fd in fds:
                os.close(fd)
            if role not in self.ready:
                self.ready[role] = self.fork(functools.partial(self.prepare, role))
            self.control.send(json.dumps(self.wait(pid, request["wall"], link)).encode())


def main() -> None:
    """Raise the walls, say which, and serve."""
    control = socket.socket(fileno=int(sys.argv[1]))
    for name in PRELOADED:
        importlib.import_module(name)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")
    plain_run.prepare()
    load = Load()
    tool = json.loads(sys.argv[3])
    try:
        walls = raise_walls(sys.argv[2], tool)
        server = ForkServer(control, sys.argv[2], tool, load)
        warm_up()
        random.seed(0)  # random numbers without a seed are the same in each run, as the order of a set is
        name_main_thread(1)  # of a namespace of its own
        gc.collect()
        gc.freeze()
        gc.disable()  # it would look through what pages must then be copied for
    except (OSError, KeyError) as error:
        control.send(json.dumps({"error": f"{type(error).__name__}: {error}"}).encode())
        return
    control.send(json.dumps({"walls": walls}).encode())
    server.serve()


if __name__ == "__main__":
    role = None
    try:
        main()
    except Forked as forked:
        role = forked.play
    if role is not None:  # no call lies below it now
        status = program.UNSTARTED
        try:
            status = role()
        finally:
            os._exit(status)
