"""POST /run: a program judged by tests in the sandbox, at level isolated or not at all."""

import asyncio
import builtins
import sys
import threading
from dataclasses import asdict
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from evals.benchmarks.mbpp import free_names
from evals.sandbox.pool import Sandbox
from evals.sandbox.types import Program, Script, Verdict
from llama_scale.errors import InputError
from llama_scale.serving.app import read_body
from llama_scale.serving.protocol import Fields, ProtocolError

WORKERS = 2  # programs at a time, whatever is decoded beside them
WAITING = 16  # programs that wait for their turn
MOST_SECONDS = 10.0
MOST_TESTS = 1 << 16  # characters
OUTPUT = 4_000  # characters of a program's output that are told


class Judging:
    """The sandbox of a server, opened when first needed; programs wait for their turn, and not without end."""

    def __init__(self) -> None:
        self.sandbox: Sandbox | None = None
        self.lock = threading.Lock()
        self.turns, self.asked = asyncio.Semaphore(WORKERS), 0

    def __enter__(self) -> "Judging":
        return self

    def __exit__(self, *_: object) -> None:
        if self.sandbox is not None:
            self.sandbox.__exit__()

    def open(self) -> Sandbox:
        """Return the sandbox; raise ProtocolError where this machine does not permit the level isolated."""
        with self.lock:
            if self.sandbox is None:
                try:
                    sandbox = Sandbox(WORKERS)
                except InputError as error:
                    raise ProtocolError(403, str(error), code="no_sandbox") from None
                if sandbox.level != "isolated":
                    sandbox.__exit__()
                    problem = f"this machine's sandbox reaches the level {sandbox.level} alone, not isolated"
                    raise ProtocolError(403, f"{problem}; no program is run", code="no_sandbox")
                self.sandbox = sandbox
            return self.sandbox

    def judge(self, program: Program | Script, timeout: float) -> Verdict:
        """Return the verdict of a program."""
        return next(self.open().run([program], timeout))

    async def run(self, program: Program | Script, timeout: float) -> Verdict:
        """Return the verdict of a program when it had its turn; raise ProtocolError where too many wait."""
        if self.asked >= WORKERS + WAITING:
            raise ProtocolError(429, "too many programs wait for the sandbox; try again later", code="busy")
        self.asked += 1
        try:
            async with self.turns:
                return await asyncio.to_thread(self.judge, program, timeout)
        finally:
            self.asked -= 1


def read_program(fields: Fields) -> Program | Script:
    """Return the program of a request {program, tests, stdin}; without tests it is run as a script.

    The tests are the client's own assertions. A name in them that is neither a builtin nor a module is the program's.
    """
    source, tests = fields.text("program", ""), fields.text("tests", "")
    if not tests.strip():
        return Script(source, fields.text("stdin", ""))
    if len(tests) > MOST_TESTS:
        raise ProtocolError(400, f"tests: {len(tests):,} characters, at most {MOST_TESTS:,} are run", "tests")
    try:
        free = {name for name in free_names(tests) if not hasattr(builtins, name)}
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ProtocolError(400, f"tests: not Python ({error})", "tests") from None
    modules = free & sys.stdlib_module_names
    setup = "\n".join(f"import {name}" for name in sorted(modules))
    return Program(source, tests, tuple(sorted(free - modules)), setup, explain=True)


def run_route(judging: Judging) -> Route:
    """Return the route /run."""

    async def run(request: Request) -> Response:
        fields = Fields(await read_body(request))
        seconds = fields.number("timeout", 3.0, 0.1, MOST_SECONDS)
        verdict = await judging.run(read_program(fields), float(seconds))
        body: dict[str, Any] = asdict(verdict)
        body["output"] = body["output"][:OUTPUT]
        assert judging.sandbox is not None
        return JSONResponse(body | {"isolation": judging.sandbox.describe()})

    return Route("/run", run, methods=["POST"])
