"""The untrusted side: runs a program and answers calls of its functions with plain data."""

import atexit
import builtins
import errno
import functools
import gc
import linecache
import os
import sys
import threading
from contextlib import suppress
from typing import Any

from evals.sandbox import wire

CHANNEL = 3
FILE = "/tmp/program.py"  # what a program reads as its own path; there is no such file
LARGEST = 1 << 63  # of the integers that C has
LONGEST_ARGS = 1 << 16  # bytes of an exception's arguments that are sent
MODULE = "program"  # its ``__name__`` where its functions are called
# Exit codes; the last is of a process that could not be prepared.
ENDED, SYNTAX, RAISED, MEMORY, UNSTARTED = 0, 10, 11, 12, 99


def pack(preamble: str, source: str) -> str:
    """Return what ``unpack`` reads: a program with what is run before it in its name space."""
    return f"{len(preamble)}\n{preamble}{source}"


def unpack(data: bytes) -> tuple[str, bytes]:
    """Return the preamble, which is ASCII, and the program."""
    size, _, rest = data.partition(b"\n")
    return rest[: int(size)].decode(), rest[int(size) :]


def as_text(source: bytes) -> str:
    """Return a program's text, less the mark that some editors begin a file with."""
    return source.decode().removeprefix("\ufeff")


def compiled(source: bytes) -> Any:
    """Return the program's code, None if it is not Python."""
    try:
        return compile(as_text(source), FILE, "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def why_not(source: bytes) -> dict[str, Any]:
    """Return the words, line and column of the error that a program does not compile for."""
    try:
        compile(as_text(source), FILE, "exec", dont_inherit=True)
    except SyntaxError as error:
        return {"raised": [str(error.msg)[:200]], "where": [error.lineno or 0, max(0, error.offset or 0)]}
    except (ValueError, RecursionError, MemoryError) as error:
        return {"raised": [str(error)[:200]]}
    return {}


def fresh_module(name: str, source: bytes, preamble: str) -> dict[str, Any]:
    """Return the name space of a new module, also found as ``__main__``, in which the ``preamble`` was run."""
    module = type(sys)(name)
    sys.modules[name] = sys.modules["__main__"] = module
    module.__dict__.update(__file__=FILE, __builtins__=builtins)
    if preamble:
        exec(compile(preamble, "<preamble>", "exec"), module.__dict__)
    sys.argv = [os.path.basename(FILE)]
    # What tracebacks and the module inspect show of a file that cannot be read.
    linecache.cache[FILE] = (lambda: as_text(source),)  # type: ignore[assignment]
    return module.__dict__


def run_script(data: bytes) -> int:
    """Run a program that reads standard input and writes standard output, to its end; return how it ended.

    Where there is a file for it, what the program's error was is written there.
    """
    preamble, source = unpack(data)
    code, told = compiled(source), _is_open(CHANNEL)
    if code is None:
        if told:
            wire.write_frame(CHANNEL, why_not(source))
        return SYNTAX
    status = ENDED
    try:
        exec(code, fresh_module("__main__", source, preamble))
    except SystemExit as stop:
        status = exit_status(stop.code)
        if told and status != ENDED:
            _tell(stop)
    except BaseException as error:
        status = MEMORY if isinstance(error, MemoryError) else RAISED
        if told:
            _tell(error)
        with suppress(BaseException):
            sys.excepthook(type(error), error, error.__traceback__ and error.__traceback__.tb_next)
    del code
    return end(status)


def _is_open(number: int) -> bool:
    """Whether a process was given a file of this number."""
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def end(status: int) -> int:
    """End a program as the interpreter does; return how it ended, RAISED if not all of its output could be written.

    Wait for its threads, run its exit handlers, write out standard output, give up what it holds (files write out what
    they buffer), and standard output once more, which a file given up may have replaced.
    """
    with suppress(BaseException):
        threading._shutdown()
    with suppress(BaseException):
        atexit._run_exitfuncs()
    flushed = _flush(getattr(sys, "stdout", None))
    for name in ("stdin", "stdout", "stderr"):
        setattr(sys, name, getattr(sys, f"__{name}__", None))
    for name in ("last_type", "last_value", "last_traceback"):
        vars(sys).pop(name, None)
    # Twice, as the interpreter does: the first leaves a file before what it writes through, so that it is ended first.
    gc.collect()
    sys.modules.pop("__main__", None)
    gc.collect()
    return status if _flush(sys.stdout) and flushed else status or RAISED


def _flush(file: Any) -> bool:
    """Write out what a file buffers; False if it cannot be written."""
    if file is None or getattr(file, "closed", False):
        return True
    try:
        file.flush()
    except BaseException:
        return False
    return True


def exit_status(code: Any) -> int:
    """Return how a program ended that raised SystemExit: well only with no code, or one whose last byte is 0.

    Of an integer beyond those of C the interpreter makes -1.
    """
    if code is None or (isinstance(code, int) and code & 0xFF == 0 and -LARGEST <= code < LARGEST):
        return ENDED
    if not isinstance(code, int):
        with suppress(BaseException):
            print(code, file=sys.stderr)
    return RAISED


def serve(data: bytes) -> int:
    """Run a program as a module that is imported, then answer the judge's calls until it hangs up."""
    preamble, source = unpack(data)
    code = compiled(source)
    wire.write_frame(CHANNEL, {"parses": True} if code else {"parses": False} | why_not(source))
    if code is None:
        return SYNTAX
    names = fresh_module(MODULE, source, preamble)
    objects: list[Any] = []
    wire.write_bytes(CHANNEL, _answer(lambda: exec(code, names) or 0, None, None))

    def number(value: Any) -> int:
        objects.append(value)
        return len(objects) - 1

    while True:
        try:
            request = wire.read_frame(CHANNEL)
        except EOFError:
            return ENDED
        action = functools.partial(_perform, request, names, objects)
        wire.write_bytes(CHANNEL, _answer(action, number if request["objects"] else None, number))


def _perform(request: dict[str, Any], names: dict[str, Any], objects: list[Any]) -> Any:
    """Call a function of the program, go on with an iterator, or get or set an attribute of one of its objects."""
    args = wire.decode(request["args"], objects.__getitem__)
    if request["do"] == "call":
        return _find(request["name"], names, request["methods"])(*args, **wire.decode(request["kwargs"]))
    target = objects[request["handle"]]
    if request["do"] == "next":
        return target
    if request["do"] == "get":
        return getattr(target, request["name"])
    return setattr(target, request["name"], *args)


def _find(name: str, names: dict[str, Any], methods: bool) -> Any:
    """Return a global of the program, else, if ``methods`` count, one of its class Solution, else a builtin."""
    if name in names:
        return names[name]
    if methods and hasattr(names.get("Solution"), name):
        return getattr(names["Solution"](), name)
    if hasattr(builtins, name):
        return getattr(builtins, name)
    raise NameError(f"name {name!r} is not defined")


def _answer(action: Any, number: Any, rest: Any) -> bytes:
    """Return the frame that says what an action gave or raised."""
    try:
        return wire.pack({"value": wire.encode(action(), number, rest)})
    except wire.WireError as error:
        return wire.pack({"not_encodable": str(error)[:80]})
    except BaseException as error:
        raised = _said_of(error)
        with suppress(BaseException):
            args = wire.encode(list(BaseException.args.__get__(error)))  # type: ignore[attr-defined]
            if len(wire.to_json(args)) <= LONGEST_ARGS:
                raised["args"] = args
        return wire.pack(raised)


def _tell(error: BaseException) -> None:
    """Write down what an error was, if that is still possible."""
    with suppress(BaseException):
        wire.write_frame(CHANNEL, _said_of(error))


def _said_of(error: BaseException) -> dict[str, Any]:
    """Return what a frame says of an error: its class, the built-in one below that, its words, its line."""
    kind = "EFBIG" if getattr(error, "errno", None) == errno.EFBIG else type(error).__name__
    bases = [base.__name__ for base in type(error).__mro__ if base.__module__ == "builtins"]
    try:
        words = str(error)[:200]
    except BaseException:
        words = ""
    return {"raised": [str(kind)[:80], str(bases[0])[:80], words], "where": [last_line(error), 0]}


def last_line(error: BaseException) -> int:
    """Return the line of the program that an error came from, 0 if it is not known."""
    line, trace = 0, BaseException.__traceback__.__get__(error)  # not what a class of the program says it is
    while trace:
        line = trace.tb_lineno if trace.tb_frame.f_code.co_filename == FILE else line
        trace = trace.tb_next
    return line


def read_all(fd: int) -> bytes:
    """Read a file descriptor from its start to its end."""
    parts, offset = [], 0
    while part := os.pread(fd, 1 << 20, offset):
        parts.append(part)
        offset += len(part)
    return b"".join(parts)
