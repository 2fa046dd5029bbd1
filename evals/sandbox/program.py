"""The untrusted side: runs a program and answers calls of its functions with plain data."""

import builtins
import errno
import functools
import os
import sys
from typing import Any

from evals.sandbox import wire

CHANNEL = 3
# Exit codes; the last is of a process that could not be prepared.
ENDED, SYNTAX, RAISED, MEMORY, OUTPUT, UNSTARTED = 0, 10, 11, 12, 13, 99


def leave(code: Any = None) -> None:
    """Stand in for the interactive ``exit`` and ``quit``, which programs expect to be there."""
    raise SystemExit(code)


def compiled(source: bytes) -> Any:
    """Return the program's code, None if it is not Python."""
    try:
        return compile(source.decode(), "<program>", "exec")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def why_not(source: bytes) -> dict[str, Any]:
    """Return the words, line and column of the error that a program does not compile for."""
    try:
        compile(source.decode(), "<program>", "exec")
    except SyntaxError as error:
        return {"raised": [str(error.msg)[:200]], "where": [error.lineno or 0, max(0, error.offset or 0)]}
    except (ValueError, RecursionError, MemoryError) as error:
        return {"raised": [str(error)[:200]]}
    return {}


def main_module() -> dict[str, Any]:
    """Return the name space of a fresh ``__main__``."""
    module = type(sys)("__main__")
    sys.modules["__main__"] = module
    sys.argv = ["program.py"]
    builtins.exit = builtins.quit = leave
    return module.__dict__


def run_script(source: bytes) -> int:
    """Run a program that reads standard input and writes standard output; return how it ended."""
    code = compiled(source)
    if code is None:
        return SYNTAX
    try:
        exec(code, main_module())
        sys.stdout.flush()
    except SystemExit as stop:
        sys.stdout.flush()
        return ENDED if stop.code in (None, 0) else RAISED
    except MemoryError:
        return MEMORY
    except OSError as error:
        return OUTPUT if error.errno == errno.EFBIG else RAISED
    except BaseException:
        sys.stdout.flush()
        return RAISED
    return ENDED


def serve(source: bytes) -> int:
    """Run a program, then answer the judge's calls until it hangs up."""
    code = compiled(source)
    wire.write_frame(CHANNEL, {"parses": True} if code else {"parses": False} | why_not(source))
    if code is None:
        return SYNTAX
    names = main_module()
    objects: list[Any] = []
    wire.write_frame(CHANNEL, _answer(lambda: exec(code, names) or 0, None))

    def number(value: Any) -> int:
        objects.append(value)
        return len(objects) - 1

    while True:
        try:
            request = wire.read_frame(CHANNEL)
        except EOFError:
            return ENDED
        action = functools.partial(_perform, request, names, objects)
        wire.write_frame(CHANNEL, _answer(action, number if request["objects"] else None))


def _perform(request: dict[str, Any], names: dict[str, Any], objects: list[Any]) -> Any:
    """Call a function of the program, or get or set an attribute of one of its objects."""
    args = wire.decode(request["args"], objects.__getitem__)
    if request["do"] == "call":
        return _find(request["name"], names)(*args, **wire.decode(request["kwargs"]))
    target = objects[request["handle"]]
    if request["do"] == "get":
        return getattr(target, request["name"])
    return setattr(target, request["name"], *args)


def _find(name: str, names: dict[str, Any]) -> Any:
    """Return a global of the program, else a method of its class Solution, else a builtin."""
    if name in names:
        return names[name]
    if hasattr(names.get("Solution"), name):
        return getattr(names["Solution"](), name)
    if hasattr(builtins, name):
        return getattr(builtins, name)
    raise NameError(f"name {name!r} is not defined")


def _answer(action: Any, number: Any) -> dict[str, Any]:
    """Return the frame that says what an action gave or raised."""
    try:
        return {"value": wire.encode(action(), number)}
    except wire.WireError as error:
        return {"not_encodable": str(error)[:80]}
    except BaseException as error:
        kind = "EFBIG" if getattr(error, "errno", None) == errno.EFBIG else type(error).__name__
        try:
            words = str(error)[:200]
        except BaseException:
            words = ""
        return {"raised": [str(kind)[:80], words], "where": [last_line(error), 0]}


def last_line(error: BaseException) -> int:
    """Return the line of the program that an error came from, 0 if it is not known."""
    line, trace = 0, error.__traceback__
    while trace:
        line = trace.tb_lineno if trace.tb_frame.f_code.co_filename == "<program>" else line
        trace = trace.tb_next
    return line


def read_all(fd: int) -> bytes:
    """Read a file descriptor from its start to its end."""
    parts, offset = [], 0
    while part := os.pread(fd, 1 << 20, offset):
        parts.append(part)
        offset += len(part)
    return b"".join(parts)
