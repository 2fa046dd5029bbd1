"""What a person sees when something is wrong: one line, exit code 2, no traceback."""

import difflib
import errno
import math
import os
import sys
from collections.abc import Callable, Iterable
from typing import Any

FULL = (errno.ENOSPC, errno.EDQUOT)
FORBIDDEN = (errno.EROFS, errno.EACCES, errno.EPERM)
NO_PLACE = (errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOENT, errno.ENAMETOOLONG)
USER_ERROR = 2
INTERRUPTED = 130


class UserError(Exception):
    """Bad input. The message names the file, field or flag, what was found and what to do."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``" (did you mean 'x'?)"`` for the closest known name, or an empty string."""
    match = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" (did you mean {match[0]!r}?)" if match else ""


def positive(value: float) -> bool:
    """Whether a number is finite and above 0."""
    return 0 < value < math.inf


def at_least_0(value: float) -> bool:
    """Whether a number is finite and not below 0."""
    return 0 <= value < math.inf


def at_least_1(value: float) -> bool:
    """Whether a number is finite and not below 1."""
    return 1 <= value < math.inf


def check_fields(
    config: Any, wanted: str, holds: Callable[[Any], bool], names: str, prefix: str = ""
) -> None:
    """Raise UserError on the first of the fields ``names`` that is not as ``wanted``.

    auto and null are as wanted, and a list is if each of its items is.
    """
    for name in names.split():
        found = getattr(config, name)
        items = found if isinstance(found, list) else [found]
        if not all(item in ("auto", None) or holds(item) for item in items):
            raise UserError(f"{prefix}{name}: expected {wanted}, found {found}")


def listed(field: str, names: str, known: Iterable[str]) -> list[str]:
    """Return the comma-separated ``names``; raise UserError on the first that is not ``known``."""
    found = [name.strip() for name in names.split(",") if name.strip()]
    for name in found:
        if name not in known:
            hint = f"{nearest(name, known)}; known: {', '.join(known)}"
            raise UserError(f"{field}: unknown {name!r}{hint}")
    return found


def run_cli(main: Callable[[], None], resumes: bool = False) -> None:
    """Run a launch script's ``main``, turning bad input and interruption into an exit code.

    Exits 2 on bad input, a full disk or a path that cannot be written and 130 on Ctrl-C;
    anything else is a bug and keeps its traceback. ``resumes`` says that the same command goes on
    where it was stopped.
    """
    script = os.path.basename(sys.argv[0])
    try:
        main()
    except UserError as error:
        sys.exit(_report(script, str(error)))
    except KeyboardInterrupt:
        more = "; the same command continues" if resumes else ""
        print(f"{script}: interrupted{more}", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        if error.errno in FULL:
            action = "free some space, then run the same command again"
        elif error.errno in FORBIDDEN:
            action = "check its permissions, then run the same command again"
        elif error.errno in NO_PLACE and error.filename:
            action = "name another path"
        else:
            raise
        where = f" at {error.filename}" if error.filename else ""
        sys.exit(_report(script, f"{os.strerror(error.errno).lower()}{where}: {action}"))


def _report(script: str, message: str) -> int:
    print(f"{script}: error: {message}", file=sys.stderr)
    return USER_ERROR
