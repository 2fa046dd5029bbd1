"""Errors of bad input, and the checks that raise them."""

import difflib
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any


class InputError(ValueError):
    """A file, field or value that cannot be used; the message is one line: which, what was found, what to do."""


class TrainingDiverged(InputError):
    """A run whose loss stays not finite or far too high, whatever batches are left out."""


class UserError(InputError):
    """Bad input on a command line: the message may name flags."""


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


def check_fields(config: Any, expected: str, holds: Callable[[Any], bool], names: str, prefix: str = "") -> None:
    """Raise InputError on the first of the fields ``names`` that is not as ``expected``.

    auto and null are as expected, and a list is if each of its items is.
    """
    for name in names.split():
        value = getattr(config, name)
        if not all(item in ("auto", None) or holds(item) for item in (value if isinstance(value, list) else [value])):
            raise InputError(f"{prefix}{name}: expected {expected}, found {value}")


def listed(field: str, names: str, known: Iterable[str]) -> list[str]:
    """Return the comma-separated ``names``; raise InputError on the first that is not ``known``."""
    found = [name.strip() for name in names.split(",") if name.strip()]
    for name in found:
        if name not in known:
            hint = f"{nearest(name, known)}; known: {', '.join(known)}"
            raise InputError(f"{field}: unknown {name!r}{hint}")
    return found


@contextmanager
def prefix_errors(prefix: str) -> Iterator[None]:
    """Put a prefix, the name of a file or field, before the message of an InputError that is raised within."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{prefix}: {error}") from None
