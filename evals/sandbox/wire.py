"""Plain data over a pipe: what a judge and an untrusted program say to each other.

A frame is a length of four bytes and JSON. Values keep their exact built-in type; whatever is not plain data arrives as
an opaque object, so nothing with behavior of its own reaches the judge.

JSON has no tuple, set or NaN, and the keys of its objects are texts only. So None, booleans, texts, lists, finite
floats and integers below 2^62 stand for themselves, and everything else is an object of one key, its type: (1, {2}) is
{"tuple": [1, {"set": [2]}]}, {1: "a"} is {"dict": [[1, "a"]]}. A dict always has that form, so none can be mistaken for
the form of something else.
"""

import builtins
import collections
import datetime
import decimal
import fractions
import itertools
import json
import math
import os
import struct
from typing import Any

FRAME = 4 << 20  # most bytes of a frame
ITEMS = 100_000  # most items taken from an iterator
DIRECT = 1 << 62  # integers below it go as JSON numbers
TYPES = ("int", "float", "str", "bool", "bytes", "list", "tuple", "dict", "set", "complex")
DATES = (datetime.datetime, datetime.date, datetime.time)
ITERATORS = {
    type(iter(())), type(iter([])), type(iter({})), type(iter(set())), type(iter(range(0))), map,
    filter, zip, enumerate, reversed, type(iter("")), type(reversed([])), type(x for x in ()),
}  # fmt: skip
SEQUENCES = {kind: kind.__name__ for kind in (tuple, set, frozenset, collections.deque)}
SEQUENCES |= {type({}.keys()): "keys", type({}.values()): "values", type({}.items()): "items"}


class WireError(Exception):
    """A value has no plain form, or a frame is not one."""


class Opaque:
    """Stands for a value that is not plain data: true, equal to nothing but itself."""


def write_frame(fd: int, message: Any) -> None:
    """Write one message; raise WireError if it is too long."""
    data = json.dumps(message, separators=(",", ":")).encode()
    if len(data) > FRAME:
        raise WireError("too long")
    data = struct.pack("<I", len(data)) + data
    while data:
        data = data[os.write(fd, data) :]


def read_frame(fd: int) -> Any:
    """Read one message. Raises EOFError at the end, WireError if it is too long or not JSON."""
    (length,) = struct.unpack("<I", _read(fd, 4))
    if length > FRAME:
        raise WireError("too long")
    try:
        return json.loads(_read(fd, length))
    except (ValueError, RecursionError):
        raise WireError("not JSON") from None


def _read(fd: int, length: int) -> bytes:
    parts = []
    while length:
        part = os.read(fd, length)
        if not part:
            raise EOFError
        parts.append(part)
        length -= len(part)
    return b"".join(parts)


def encode(value: Any, handle: Any = None) -> Any:
    """Return the JSON form of a value; ``handle(value)``, if given, numbers one that is not plain. Raises WireError."""
    kind = type(value)
    if value is None or kind is bool or kind is str:
        return value
    if kind is int:
        return value if -DIRECT < value < DIRECT else {"int": hex(value)}
    if kind is float:
        return value if math.isfinite(value) else {"float": repr(value)}
    if kind is list:
        return [encode(v, handle) for v in value]
    if kind in SEQUENCES:
        return {SEQUENCES[kind]: [encode(v, handle) for v in value]}
    if kind in (dict, collections.OrderedDict, collections.Counter, collections.defaultdict):
        return {kind.__name__: [[encode(k, handle), encode(v, handle)] for k, v in value.items()]}
    if kind in (bytes, bytearray):
        return {kind.__name__: value.hex()}
    if kind is complex:
        return {"complex": [repr(value.real), repr(value.imag)]}
    if kind in (decimal.Decimal, fractions.Fraction):
        return {kind.__name__: str(value)}
    if kind in DATES:
        return {kind.__name__: value.isoformat()}
    if kind is range:
        return {"range": [encode(v) for v in (value.start, value.stop, value.step)]}
    if kind is type and value.__name__ in TYPES and getattr(builtins, value.__name__) is value:
        return {"type": value.__name__}
    if kind in ITERATORS or kind.__module__ == "itertools":
        return {"iterator": [encode(v, handle) for v in _some(value)]}
    return _encode_other(value, handle)


def _encode_other(value: Any, handle: Any) -> Any:
    """Encode a subclass of a plain type as that type, anything else as a handle or opaque."""
    for base in (bool, int, float, str, bytes, tuple, list, dict, set, frozenset):
        if isinstance(value, base):
            plain = int.__int__(value) if base is int else base(value)
            if type(plain) is base:
                return encode(plain, handle)
    return {"opaque": ""} if handle is None else {"handle": handle(value)}


def _some(iterator: Any) -> list:
    values = list(itertools.islice(iterator, ITEMS + 1))
    if len(values) > ITEMS:
        raise WireError("endless iterator")
    return values


def decode(form: Any, handle: Any = None) -> Any:
    """Return the value of a JSON form; ``handle(number)`` makes what a handle stands for.

    Every value is of an exact built-in or standard-library type. Raises WireError.
    """
    try:
        return _decode(form, handle)
    except WireError:
        raise
    except (ValueError, TypeError, RecursionError, ArithmeticError, AttributeError) as error:
        raise WireError(type(error).__name__) from None


# How the value of a kind is made of its body, and a container of its decoded items; pairs are lists of two.
FROM_BODY = {
    "int": lambda body: int(body, 16),
    "float": float,
    "Decimal": decimal.Decimal,
    "Fraction": fractions.Fraction,
    "complex": lambda body: complex(float(body[0]), float(body[1])),
    "bytes": bytes.fromhex,
    "bytearray": bytearray.fromhex,
    "opaque": lambda body: Opaque(),
} | {kind.__name__: kind.fromisoformat for kind in DATES}
FROM_ITEMS = {
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "deque": collections.deque,
    "range": lambda items: range(*items),
    "iterator": iter,
    "dict": lambda pairs: dict(map(tuple, pairs)),
    "OrderedDict": lambda pairs: collections.OrderedDict(dict(map(tuple, pairs))),
    "Counter": lambda pairs: collections.Counter(dict(map(tuple, pairs))),
    "defaultdict": lambda pairs: collections.defaultdict(None, dict(map(tuple, pairs))),
    "keys": lambda items: dict.fromkeys(items).keys(),
    "values": lambda items: dict(enumerate(items)).values(),
    "items": lambda items: dict(items).items(),
}


def _decode(form: Any, handle: Any) -> Any:
    if type(form) is list:
        return [_decode(v, handle) for v in form]
    if type(form) is not dict:
        return form
    ((kind, body),) = form.items()
    if kind in FROM_BODY:
        return FROM_BODY[kind](body)
    if kind == "type" and body in TYPES:
        return getattr(builtins, body)
    if kind == "handle" and handle is not None:
        return handle(int(body))
    if kind in FROM_ITEMS:
        return FROM_ITEMS[kind]([_decode(v, handle) for v in body])
    raise WireError(kind)
