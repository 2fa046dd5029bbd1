"""The trusted side: runs tests in a process of its own, calling the program's functions by wire.

Nothing of the program is in this process but plain data that it answered. Each assertion that stands outside of a
``try`` is counted; a wrong one does not end the tests.
"""

import ast
import builtins
import gc
import json
import os
import re
from collections.abc import Callable
from typing import Any

from evals.sandbox import wire
from evals.sandbox.explain import Notes, claim_of

CHANNEL, VERDICT = 3, 4
LONGEST = 80  # characters kept of an exception's name
COUNTED = "try:\n  0\nexcept BaseException as e:\n  __wrong(e)\nelse:\n  __right()"


class GoneError(BaseException):
    """The program can give no further answer; no test may catch this."""


class ProgramError(Exception):
    """The program raised an exception that is not a built-in one."""


class Session:
    """Calls to one program; after it is gone every call fails at once."""

    def __init__(self, objects: bool):
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
            wire.write_frame(CHANNEL, request | {"objects": self.objects})
        except OSError:
            self.leave("ended early")
        return self._unpack(self._receive())

    def leave(self, reason: str) -> None:
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
                return wire.decode(frame["value"], handle)
            except (wire.WireError, MemoryError):
                self.leave("answer not plain data")
        raised = frame.get("raised")
        if type(raised) is not list or [type(r) for r in raised] != [str, str]:
            self.leave("answer not plain data")
        self.claim = claim_of(frame)
        self._raise(*raised)

    def _raise(self, name: str, words: str) -> None:
        """Raise the built-in exception of that name; what is no Exception ends the program.

        One that would quietly end a loop of the tests is raised as another.
        """
        name = name[:LONGEST]
        kind = getattr(builtins, name, None)
        known = isinstance(kind, type) and issubclass(kind, BaseException)
        special = {"SystemExit": "exited", "EFBIG": "too much output"}
        if name in special or (known and not issubclass(kind, Exception)):
            self.leave(special.get(name, f"raised {name}"))
        if known and not issubclass(kind, StopIteration | StopAsyncIteration):
            try:
                error = kind(words)
            except TypeError:
                error = ProgramError(name)
            raise error
        raise ProgramError(re.sub(r"\W", "?", name))


class Remote:
    """An object of the program: its attributes can be read and set, it has no value of its own."""

    def __init__(self, session: Session, number: int):
        object.__setattr__(self, "_session", session)
        object.__setattr__(self, "_number", number)

    def __getattr__(self, name: str) -> Any:
        return self._session.ask(do="get", name=name, handle=self._number, args=[])

    def __setattr__(self, name: str, value: Any) -> None:
        args = wire.encode([value], handle_number)
        self._session.ask(do="set", name=name, handle=self._number, args=args)

    def __eq__(self, other: object) -> bool:
        self._session.leave("answer not plain data")

    __hash__ = None

    def __bool__(self) -> bool:
        self._session.leave("answer not plain data")


def handle_number(value: Any) -> int:
    """Return the number of an object of the program; raise WireError for any other."""
    if type(value) is not Remote:
        raise wire.WireError(type(value).__name__)
    return value._number


def stand_in(session: Session, name: str) -> Any:
    """Return a function that calls the program's function ``name``."""

    def call(*args: Any, **kwargs: Any) -> Any:
        number = handle_number if session.objects else None
        forms = wire.encode(list(args), number), wire.encode(kwargs, number)
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
    if isinstance(error, AssertionError):
        return "wrong answer"
    if isinstance(error, ProgramError):
        return f"raised {error}"
    return "out of memory" if isinstance(error, MemoryError) else f"raised {type(error).__name__}"


def run(task: dict[str, Any]) -> dict[str, Any]:
    """Run the tests of ``task`` (setup, tests, names, objects, explain); return the verdict."""
    session, notes, parses = Session(task["objects"]), Notes(task["names"]) if task["explain"] else None, True
    tally = Tally(session, notes)
    names: dict[str, Any] = {"__name__": "__tests__", "__right": tally.right, "__wrong": tally.wrong}
    exec(compile(task["setup"], "<setup>", "exec"), names)
    names |= {name: stand_in(session, name) for name in task["names"]}
    tree = ast.parse(task["tests"])
    count(tree.body, ast.parse(COUNTED).body[0], notes.prepare if notes else lambda node: [node])
    names |= notes.scope() if notes else {}
    code = compile(tree, "<tests>", "exec")
    try:
        session.begin()
    except BaseException as error:
        parses = session.gone != "syntax error"
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
        "assertions_passed": tally.passed,
        "assertions": tally.passed + tally.failed,
        "failures": notes.failures if notes else [],
    }


def serve(source: bytes) -> int:
    """Judge one program and write the verdict."""
    gc.disable()
    os.write(VERDICT, json.dumps(run(json.loads(source))).encode())
    return 0
