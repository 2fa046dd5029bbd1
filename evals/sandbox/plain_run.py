"""What a plain run has and the walls take away: /dev/stdin, asyncio's wake-up, the depth of calls."""

import builtins
import importlib.machinery
import io
import os
import re
import sys
from types import ModuleType
from typing import Any

STANDARD = {"/dev/stdin": 0, "/dev/stdout": 1, "/dev/stderr": 2}
LIMIT = sys.getrecursionlimit()
DEPTH = 3  # calls that lie below a program's first line here and not in a plain run


def prepare() -> None:
    """Make this interpreter, and all that is forked from it, look like one that runs a program alone."""
    builtins.open = io.open = _by_number(io.open)
    os.open = _by_number(os.open, is_copy=True)
    sys.meta_path.insert(0, EventLoops())
    deepen()
    import _sitebuiltins  # what the module site, which is not imported here, adds

    builtins.exit = _sitebuiltins.Quitter("exit", "Ctrl-D (i.e. EOF)")
    builtins.quit = _sitebuiltins.Quitter("quit", "Ctrl-D (i.e. EOF)")
    builtins.help = _sitebuiltins._Helper()


def _copy(file: Any) -> int | None:
    """Return a copy of the open file that a path names by its number; None for any other path."""
    path = os.fsdecode(file) if isinstance(file, str | bytes | os.PathLike) else ""
    if not path.startswith(("/dev/", "/proc/self/fd/")):
        return None
    found = re.fullmatch(r"/(?:dev|proc/self)/fd/(\d+)", path)
    number = int(found[1]) if found else STANDARD.get(path)
    return None if number is None else os.dup(number)


def _by_number(opens: Any, is_copy: bool = False) -> Any:
    """Return ``opens`` for a root without /proc, where the paths of open files lead nowhere."""

    def open(file: Any, *args: Any, **options: Any) -> Any:
        copy = _copy(file)
        if copy is None:
            return opens(file, *args, **options)
        return copy if is_copy else opens(copy, *args, **options)

    return open


def deepen() -> None:
    """Let a program call as deep as in a plain run, and read the limit that it would read there."""
    get, put = sys.getrecursionlimit, sys.setrecursionlimit

    def getrecursionlimit() -> int:
        return get() - DEPTH

    def setrecursionlimit(limit: int, /) -> None:
        put(limit + DEPTH if isinstance(limit, int) and 0 < limit < (1 << 31) - 1 - DEPTH else limit)

    sys.getrecursionlimit, sys.setrecursionlimit = getrecursionlimit, setrecursionlimit
    setrecursionlimit(LIMIT)


class EventLoops:
    """Finder for asyncio's event loops: they wake themselves through a pipe, where no socket can be made."""

    NAME = "asyncio.selector_events"

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """Return the module's own specification, with a loader that changes it once it is read."""
        if name != self.NAME:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec and spec.loader:
            spec.loader.exec_module = self._loads(spec.loader.exec_module)  # type: ignore[method-assign]
        return spec

    def _loads(self, execute: Any) -> Any:
        def exec_module(module: ModuleType) -> None:
            execute(module)
            own = vars(module).copy()
            module.socket = ModuleType("socket")  # type: ignore[attr-defined]
            vars(module.socket).update(vars(own["socket"]), socketpair=PipeEnd.pair)  # type: ignore[attr-defined]

        return exec_module


class PipeEnd(io.FileIO):
    """An end of a pipe with the few methods of a socket that an event loop wakes itself by."""

    @staticmethod
    def pair() -> tuple["PipeEnd", "PipeEnd"]:
        """Stand in for socket.socketpair: what is sent into the second is received from the first."""
        ends = os.pipe()
        return PipeEnd(ends[0], "r"), PipeEnd(ends[1], "w")

    def setblocking(self, blocks: bool) -> None:
        """As of a socket."""
        os.set_blocking(self.fileno(), blocks)

    def recv(self, size: int) -> bytes:
        """As of a socket."""
        return os.read(self.fileno(), size)

    def send(self, data: bytes) -> int:
        """As of a socket."""
        return os.write(self.fileno(), data)
