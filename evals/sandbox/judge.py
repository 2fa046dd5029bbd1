"""The trusted side: runs tests in a process of its own, calling the program's functions by wire.

Nothing of the program is in this process but plain data that it answered. Each assertion that stands outside of a
``try`` is counted; a wrong one does not end the tests.
"""

import ast
import base64
import builtins
import functools
import gc
import json
import marshal
import math
import os
import re
import resource
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from types import CodeType
from typing import Any, NoReturn

from evals.sandbox import wire
from evals.sandbox.explain import Notes, claim_of
from evals.sandbox.program import read_all
from evals.sandbox.types import NOT_MEASURED

NULL, CHANNEL, LINK = 2, 3, 4
AGAIN, LAST = b"a", b"l"  # what the judge says when it is done: whether it waits for another program
USES = 50  # programs of one judge at most
USUAL = ("wrong answer", "syntax error")
LARGE = 64 << 10  # KiB of memory
LONGEST = 80  # characters kept of an exception's name
COUNTED = "try:\n  0\nexcept BaseException as e:\n  __wrong(e)\nelse:\n  __right()"


class GoneError(BaseException):
    """The program can give no further answer; no test may catch this."""


class ProgramError(Exception):
    """The program raised an exception that is not a built-in one, of the class ``name``."""

    name = ""


class Session:
    """Calls to one program; after it is gone every call fails at once."""

    def __init__(self, objects: bool, methods: bool):
        self.about = {"objects": objects, "methods": methods}
        self.objects = objects
        self.gone = ""
        self.claim: dict[str, Any] = {}  # what the program says of its last error

    def begin(self) -> None:
        """Wait for the program to be read and run."""
        frame = self._receive()
        if frame.get("parses") is not True:
            self.claim = claim_of(frame)
            self.leave("syntax error")
        self._unpack(self._receive())

    def ask(self, **request: Any) -> Any:
        """Send a request, return the plain value of the answer or raise what it raised."""
        if self.gone:
            raise GoneError(self.gone)
        try:
            wire.write_frame(CHANNEL, request | self.about)
        except OSError:
            self.leave("ended early")
        return self._unpack(self._receive())

    def number(self, value: Any) -> int:
        """Return the number of an object of the program that is an argument.

        A function or another thing of the tests that cannot be sent says nothing about the program.
        """
        if type(value) is Remote:
            return value._number
        self.leave("answer not plain data" if type(value) is wire.Opaque else NOT_MEASURED)

    def leave(self, reason: str) -> NoReturn:
        """Give the program up for good."""
        self.gone = self.gone or reason
        raise GoneError(self.gone)

    def _receive(self) -> dict:
        try:
            frame = wire.read_frame(CHANNEL)
        except (EOFError, OSError):
            self.leave("ended early")
        except (wire.WireError, MemoryError):
            self.leave("answer not plain data")
        return frame if type(frame) is dict else {}

    def _unpack(self, frame: dict) -> Any:
        if "value" in frame:
            handle = (lambda number: Remote(self, number)) if self.objects else None
            try:
                return wire.decode(frame["value"], handle, self._more, ordered=True)
            except (wire.WireError, MemoryError):
                self.leave("answer not plain data")
        raised = frame.get("raised")
        if type(raised) is not list or [type(r) for r in raised] != [str, str, str]:
            self.leave("answer not plain data")
        self.claim = claim_of(frame)
        self._raise(*raised, frame.get("args"))

    def _more(self, number: int) -> Any:
        """Return an iterator over what is left of one of the program's."""
        return self.ask(do="next", handle=number, args=[])

    def _raise(self, name: str, base: str, words: str, args: Any) -> None:
        """Raise the built-in exception ``base``, as that or as the class ``name`` of the program's own.

        What is no Exception ends the program, but for SystemExit, which tests may catch; what would quietly end a loop
        of the tests is raised as another.
        """
        if name == base == "SystemExit":
            raise SystemExit(words)
        kind, name = getattr(builtins, base, None), re.sub(r"\W", "?", name[:LONGEST])
        if not isinstance(kind, type) or not issubclass(kind, BaseException):
            self.leave("answer not plain data")
        if name == "EFBIG" or not issubclass(kind, Exception):
            self.leave("too much output" if name == "EFBIG" else f"raised {name}")
        if issubclass(kind, StopIteration | StopAsyncIteration):
            kind = Exception
        error = ProgramError(words)
        # Caught as its base is, as a plain run would. Its arguments are the program's where they give the same words.
        made = kind if name == base and kind is not Exception else own_error(kind)
        with suppress(TypeError):
            error = made(words)
        with suppress(Exception):
            given = made(*wire.decode(args, ordered=True)) if type(args) is list and args else error
            error = given if str(given)[: len(words)] == words else error
        if isinstance(error, ProgramError):
            error.name = name
        raise error


@functools.cache
def own_error(base: type[Exception]) -> type[ProgramError]:
    """Return a class for exceptions of the program's own whose built-in base is ``base``."""
    return ProgramError if base is Exception else type("ProgramError", (ProgramError, base), {})


class Remote:
    """An object of the program: its attributes can be read and set, it has no value of its own."""

    def __init__(self, session: Session, number: int):
        object.__setattr__(self, "_session", session)
        object.__setattr__(self, "_number", number)

    def __getattr__(self, name: str) -> Any:
        return self._session.ask(do="get", name=name, handle=self._number, args=[])

    def __setattr__(self, name: str, value: Any) -> None:
        args = wire.encode([value], self._session.number)
        self._session.ask(do="set", name=name, handle=self._number, args=args)

    def __eq__(self, other: object) -> bool:
        self._session.leave("answer not plain data")

    __hash__ = None

    def __bool__(self) -> bool:
        self._session.leave("answer not plain data")


def stand_in(session: Session, name: str) -> Any:
    """Return a function that calls the program's function ``name``."""

    def call(*args: Any, **kwargs: Any) -> Any:
        forms = wire.encode(list(args), session.number), wire.encode(kwargs, session.number)
        return session.ask(do="call", name=name, args=forms[0], kwargs=forms[1])

    call.__name__ = name
    return call


def count(body: list[ast.stmt], frame: ast.Try, prepare: Callable[[ast.Assert], list[ast.stmt]]) -> None:
    """Wrap each assertion of ``body`` outside of a ``try`` in one like ``frame``, ``prepare``d, in place."""
    for i, node in enumerate(body):
        if isinstance(node, ast.Assert):
            body[i] = ast.copy_location(ast.Try(prepare(node), frame.handlers, frame.orelse, []), node)
        elif not isinstance(node, ast.Try):
            for inner in (getattr(node, "body", None), getattr(node, "orelse", None)):
                if isinstance(inner, list):
                    count(inner, frame, prepare)


def compile_tests(tests: str, notes: Notes | None = None) -> CodeType:
    """Return the code of ``tests`` whose assertions are counted, and told to ``notes``. Raises SyntaxError."""
    tree = ast.parse(tests, "<tests>")
    count(tree.body, ast.parse(COUNTED).body[0], notes.prepare if notes else lambda node: [node])
    return compile(tree, "<tests>", "exec", dont_inherit=True, optimize=0)


def packed_code(tests: str) -> str:
    """Return the code of ``tests`` for ``run``, which then need not compile them; "" if it has to.

    It has to where another process would not give the same code: it may take no integers of thousands of digits, and
    the order of a set in it depends on its hash seed.
    """
    try:
        if "{" in tests and any(isinstance(node, ast.Set) for node in ast.walk(ast.parse(tests, "<tests>"))):
            return ""
        return base64.b64encode(marshal.dumps(compile_tests(tests))).decode()
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ""


class Tally:
    """How many assertions passed and failed, and the first error; with ``notes``, what each was about."""

    def __init__(self, session: Session, notes: Notes | None) -> None:
        self.session, self.notes = session, notes
        self.passed = self.failed = 0
        self.reason = ""

    def right(self) -> None:
        """Count an assertion that passed."""
        self.passed += 1

    def wrong(self, error: BaseException) -> None:
        """Count one that did not, and note why if it is the first."""
        self.failed += 1
        self.note(error)

    def note(self, error: BaseException) -> None:
        """Keep the first error in a few words."""
        self.reason = self.reason or in_words(error)
        if self.notes:
            self.notes.failed(in_words(error), self.session.claim)
            self.session.claim = {}


def in_words(error: BaseException) -> str:
    """Return what a test ended with, in a few words."""
    if isinstance(error, GoneError):
        return str(error)
    if isinstance(error, ProgramError):
        return f"raised {error.name}"
    if isinstance(error, AssertionError):
        return "wrong answer"
    if isinstance(error, SystemExit):
        return "exited"
    return "out of memory" if isinstance(error, MemoryError) else f"raised {type(error).__name__}"


def run(task: dict[str, Any]) -> dict[str, Any]:
    """Run the tests of ``task`` (setup, tests, code, names, objects, methods, explain); return the verdict.

    ``code`` is what packed_code made of the tests.
    """
    session = Session(task["objects"], task["methods"])
    notes = Notes(task["names"]) if task["explain"] else None
    tally, parses, loads = Tally(session, notes), True, True
    names: dict[str, Any] = {"__name__": "__tests__", "__right": tally.right, "__wrong": tally.wrong}
    if task["setup"]:
        exec(compile(task["setup"], "<setup>", "exec"), names)
    names |= {name: stand_in(session, name) for name in task["names"]}
    names |= notes.scope() if notes else {}
    known = task["code"] and not notes
    code = marshal.loads(base64.b64decode(task["code"])) if known else compile_tests(task["tests"], notes)
    try:
        session.begin()
    except BaseException as error:
        parses, loads = session.gone != "syntax error", False
        session.gone = session.gone or "ended early"
        tally.note(error)
    try:
        exec(code, names)
    except BaseException as error:
        tally.note(error)
    passed = not (tally.reason or tally.failed or session.gone)
    return {
        "passed": passed,
        "reason": "passed" if passed else tally.reason or session.gone,
        "parses": parses,
        "loads": loads,
        "assertions_passed": tally.passed,
        "assertions": tally.passed + tally.failed,
        "failures": notes.failures if notes else [],
    }


def serve(link: socket.socket) -> int:
    """Judge the programs that come by ``link``, one after another, and write their verdicts.

    Nothing of a program or its tests is meant for the next: after USES of them, after one that ended or answered in an
    unusual way, and after one whose data were large, the judge ends and a new one is forked.
    """
    gc.disable()
    signal.signal(signal.SIGXCPU, lambda *_: os._exit(1))
    for use in range(USES):
        data, files, _, _ = socket.recv_fds(link, 4096, 8)
        if not data:
            return 0
        used = time.process_time()
        resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(used) + json.loads(data)["cpu"], resource.RLIM_INFINITY))
        tests, channel, answer = files
        os.dup2(channel, CHANNEL)
        verdict = run(json.loads(read_all(tests)))
        os.write(answer, json.dumps(verdict).encode())
        os.dup2(NULL, CHANNEL)  # closed, and the number not free for the next files
        for file in files:
            os.close(file)
        usual = verdict["passed"] or verdict["reason"] in USUAL or verdict["reason"].startswith("raised ")
        large = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > LARGE
        again = usual and not large and use + 1 < USES
        os.write(link.fileno(), AGAIN if again else LAST)
        if not again:
            break
    return 0
