"""A warm interpreter that imports the libraries once and forks a process for each task of a study.

Most of the time of a small run's stage is the import of torch and Lightning. A forked process runs the launch script as
``python launch/x.py`` would: its own arguments, folder, environment, log and process group, the exit code of the
script, and no state of another task. Started as a program it is the server; ``WarmServer`` is its other end. They speak
JSON lines: a request is a task, and the answers are the number of its process and, once it has ended, its exit code.
"""

import ctypes
import gc
import importlib
import json
import os
import random
import runpy
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

POLL_SECONDS = 0.05
SET_PARENT_DEATH_SIGNAL = 1  # prctl's PR_SET_PDEATHSIG


class WarmProcess:
    """A task's process, forked by a ``WarmServer``; has what is used of ``subprocess.Popen``."""

    def __init__(self, server: "WarmServer", pid: int) -> None:
        self.server, self.pid = server, pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Return the exit code (minus a signal), or None while it runs."""
        self.server.read_answers()
        return self.returncode

    def wait(self) -> int:
        """Wait for the end and return the exit code."""
        while self.returncode is None:
            self.server.read_answers(wait=True)
        return self.returncode

    def terminate(self) -> None:
        """Ask the process to stop."""
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        """End the process."""
        self._send(signal.SIGKILL)

    def _send(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)


class WarmServer:
    """Starts the server in a process group and forks tasks from it.

    Args:
        modules: What it imports before the first task.
        environment: The environment of the server and of all its tasks.
        log: File for what the server itself says.
        group: The process group of the server and of its tasks.
    """

    def __init__(self, modules: Sequence[str], environment: dict[str, str], log: Path, group: int) -> None:
        self.group, self.environment = group, environment
        self.processes: dict[int, WarmProcess] = {}
        self.buffer = b""
        with open(log, "ab") as file:
            self.server = subprocess.Popen(
                [sys.executable, "-m", __name__, *modules],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                process_group=group,
                bufsize=0,
            )

    @property
    def alive(self) -> bool:
        """Whether it can fork tasks."""
        return self.server.poll() is None

    def start(self, argv: Sequence[str], folder: Path, log: Path) -> WarmProcess:
        """Fork a process for ``python script.py ...``; its output goes to the end of ``log``.

        Raises OSError if the server is gone.
        """
        assert self.server.stdin is not None
        request = {"argv": list(argv[1:]), "folder": str(folder), "log": str(log.absolute()), "group": self.group}
        self.server.stdin.write(json.dumps(request).encode() + b"\n")
        known = set(self.processes)
        while self.read_answers(wait=True):
            if new := set(self.processes) - known:
                return self.processes[new.pop()]
        raise OSError("the warm interpreter has ended")

    def read_answers(self, wait: bool = False) -> bool:
        """Take note of the processes that have started and ended; return False, and all have, if the server is gone."""
        assert self.server.stdout is not None
        stream = self.server.stdout.fileno()
        while select.select([stream], [], [], POLL_SECONDS if wait else 0)[0]:
            wait = False
            piece = os.read(stream, 1 << 16)
            if not piece:
                self.server.wait()
                for process in self.processes.values():  # they died with it
                    process.returncode = -signal.SIGKILL if process.returncode is None else process.returncode
                return False
            *lines, self.buffer = (self.buffer + piece).split(b"\n")
            for answer in map(json.loads, lines):
                pid = answer["pid"]
                if "code" in answer:
                    self.processes[pid].returncode = answer["code"]
                else:
                    self.processes[pid] = WarmProcess(self, pid)
        return True

    def close(self) -> None:
        """End the server; its tasks have ended."""
        assert self.server.stdin is not None
        self.server.kill()
        self.server.wait()
        self.server.stdin.close()


def serve(modules: Sequence[str]) -> None:
    """Import the modules, then fork a task for each request until there are no more; a task returns from here."""
    requests, answers = os.dup(0), os.dup(1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    for name in modules:
        importlib.import_module(name)
    if threading.active_count() > 1:
        sys.exit(f"an import has started threads, so that no task can be forked: {threading.enumerate()}")
    gc.collect()
    gc.freeze()  # what is here is shared with every task
    buffer, running = b"", 0
    while True:
        if select.select([requests], [], [], POLL_SECONDS)[0]:
            piece = os.read(requests, 1 << 16)
            if not piece:
                sys.exit()
            *lines, buffer = (buffer + piece).split(b"\n")
            for request in map(json.loads, lines):
                pid = os.fork()
                if not pid:
                    os.close(requests)
                    os.close(answers)
                    return become(request)
                running += 1
                os.write(answers, json.dumps({"pid": pid}).encode() + b"\n")
        while running:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                break
            running -= 1
            os.write(answers, json.dumps({"pid": pid, "code": os.waitstatus_to_exitcode(status)}).encode() + b"\n")


def become(request: dict[str, Any]) -> None:
    """Make this forked process the task's own and run its script."""
    ctypes.CDLL(None).prctl(SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    os.setpgid(0, request["group"])
    os.chdir(request["folder"])
    log = os.open(request["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    random.seed()  # of the system's entropy, as in a new process
    sys.argv = request["argv"]
    sys.path[0] = os.path.dirname(os.path.abspath(sys.argv[0]))
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    serve(sys.argv[1:])
