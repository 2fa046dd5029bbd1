"""What may be wrong with a file that a command reads: each kind makes the file so."""

import gc
import os
import signal
import socket
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import torch

from llama_scale.cli import run_cli

KINDS: dict[str, Callable[[Path, bytes], object]] = {
    "missing": lambda path, content: None,
    "empty": lambda path, content: path.touch(),
    "truncated": lambda path, content: path.write_bytes(content[: len(content) // 2]),
    "a list": lambda path, content: path.write_text("[1, 2]\n"),
    "a number": lambda path, content: path.write_text("3\n"),
    "empty fields": lambda path, content: path.write_text("{}\n"),
    "null": lambda path, content: path.write_text("null\n"),
    "another text": lambda path, content: path.write_text("a,b\n1,2\n"),
    "deep": lambda path, content: path.write_text("[" * 100_000),
    "long numbers": lambda path, content: path.write_text('{"a": ' + "9" * 5000 + "}\n"),
    "UTF-16": lambda path, content: path.write_bytes('{"a": "é"}\n'.encode("utf-16")),
    "Latin-1": lambda path, content: path.write_bytes('{"a": "é"}\n'.encode("latin-1")),
    "null bytes": lambda path, content: path.write_bytes(bytes(64)),
    "a folder": lambda path, content: path.mkdir(),
    "unreadable": lambda path, content: path.symlink_to("/proc/self/mem"),  # also for root: reading it fails
    "a loop of links": lambda path, content: path.symlink_to(path),
    "a link to nothing": lambda path, content: path.symlink_to("absent"),
    "a socket": lambda path, content: bind(path),
    "a pipe": lambda path, content: os.mkfifo(path),
    "a device": lambda path, content: path.symlink_to("/dev/zero"),
    "too large": lambda path, content: sparse(path),
}


def bind(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # the name of a socket is short
    try:
        socket.socket(socket.AF_UNIX).bind(path.name)
    finally:
        os.chdir(here)


def sparse(path: Path, size: int = 1 << 42) -> None:
    """Make a file of 4 TiB that takes no room."""
    with open(path, "wb") as file:
        file.truncate(size)


def spoil(path: Path, kind: str) -> None:
    """Put what ``kind`` says in the place of a file."""
    content = path.read_bytes()
    path.unlink()
    KINDS[kind](path, content)


@contextmanager
def at_most(seconds: int):
    """Raise AssertionError where what is done takes longer: it waits for ever, as opening a pipe does."""

    def waits(number, frame):
        raise AssertionError(f"still running after {seconds} s")

    before = signal.signal(signal.SIGALRM, waits)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def outcome(command, argv: list[str]) -> int:
    """Run a command in this process as its script does; return its exit code."""
    run = command if callable(command) else command.main
    threads, handlers = torch.get_num_threads(), [(n, signal.getsignal(n)) for n in (signal.SIGINT, signal.SIGTERM)]
    try:
        with at_most(300):
            run_cli(lambda: run(list(argv)), name="command")
    except SystemExit as ended:
        return int(ended.code or 0)
    finally:
        torch.set_num_threads(threads)
        gc.enable()
        for number, handler in handlers:
            signal.signal(number, handler)
    return 0


def assert_done_or_one_line(code: int, errors: str) -> None:
    """Assert that a command succeeded without an error line, or ended with code 2 and one, the last that it wrote."""
    said = errors.splitlines()
    assert code in (0, 2), said
    problems = [line for line in said if line.startswith("command: error: ")]
    assert len(problems) == (code == 2), said
    if code:
        assert said[-1] == problems[0]
