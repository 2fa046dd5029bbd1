"""Plain data over a pipe: what a judge and an untrusted program say to each other.

A frame is a length of four bytes and JSON. Values keep their exact built-in type. An object of a subclass that compares
and hashes as its base does arrives as one of a subclass here, with the base's data; whatever else is not plain data
arrives as an opaque object, so nothing with behavior of its own reaches the judge.

JSON has no tuple, set or NaN, the keys of its objects are texts only, and two halves of a surrogate pair become one
character in it. So None, booleans, texts without surrogates, lists, finite floats and integers below 2^62 stand for
themselves, and everything else is an object of one key, its type: (1, {2}) is {"tuple": [1, {"set": [2]}]}, {1: "a"} is
{"dict": [[1, "a"]]}. A dict always has that form, so none can be mistaken for the form of something else.
"""

import builtins
import collections
import datetime
import decimal
import enum
import fractions
import functools
import itertools
import json
import math
import os
import re
import struct
import types
from collections.abc import Callable, Iterator
from typing import Any

FRAME = 64 << 20  # most bytes of a frame
PART = 1 << 20  # most bytes read at once
ITEMS = 1_000_000  # most items taken from an iterator
FIRST = 1000  # of them that are sent at once; more as they are asked for
REORDERED = 64  # most items of a set whose order is looked for
DIRECT = 1 << 62  # integers below it go as JSON numbers
TYPES = ("int", "float", "str", "bool", "bytes", "list", "tuple", "dict", "set", "complex")
DATES = (datetime.datetime, datetime.date, datetime.time)
ITERATORS = {
    type(iter(())), type(iter([])), type(iter({})), type(iter(set())), type(iter(range(0))), map,
    filter, zip, enumerate, reversed, type(iter("")), type(reversed([])), type(x for x in ()), type(iter(int, 0)),
}  # fmt: skip
SEQUENCES = {kind: kind.__name__ for kind in (tuple, set, frozenset, collections.deque)}
SEQUENCES |= {type({}.keys()): "keys", type({}.values()): "values", type({}.items()): "items"}
MAPPINGS = (dict, collections.OrderedDict, collections.Counter, collections.defaultdict)
to_json = json.JSONEncoder(separators=(",", ":")).encode
SURROGATE = re.compile("[\ud800-\udfff]")
# What a subclass may define and still be equal to what its base is equal to; those SHOWN change what it looks like.
SHOWN = {"__repr__", "__str__", "__format__"}
ITERATOR = {"__iter__", "__next__"}
JUDGED = {"__eq__", "__ne__", "__bool__", "__len__"}  # an iterator without these is true, and equal to itself alone
HARMLESS = SHOWN | {
    "__abstractmethods__", "__annotations__", "__call__", "__class_getitem__", "__copy__", "__deepcopy__", "__del__",
    "__delattr__", "__dict__", "__dir__", "__doc__", "__enter__", "__exit__", "__getattr__", "__getnewargs__",
    "__getnewargs_ex__", "__getstate__", "__init__", "__init_subclass__", "__match_args__", "__missing__", "__module__",
    "__new__", "__new_member__", "__orig_bases__", "__parameters__", "__qualname__", "__reduce__", "__reduce_ex__",
    "__replace__", "__set_name__", "__setattr__", "__setstate__", "__sizeof__", "__slots__", "__weakref__",
    "__firstlineno__", "__static_attributes__",
}  # fmt: skip
WRAPPED = (classmethod, staticmethod)
# What these define beside comparisons and arithmetic gives what the base's own gives, of a value of theirs.
ENUMERATIONS = (enum.Enum, enum.ReprEnum, enum.IntEnum, enum.StrEnum, enum.Flag, enum.IntFlag)
# A class's own bases and names, and the data of a base in an object, whatever its class says of itself.
MRO, NAMESPACE = type.__dict__["__mro__"].__get__, type.__dict__["__dict__"].__get__
DATA: dict[type, Any] = {
    int: int.__int__,
    float: float.__float__,
    complex: complex.__complex__,
    str: str.__str__,
    bytes: lambda value: bytes.__getitem__(value, slice(None)),
    bytearray: lambda value: bytearray.__getitem__(value, slice(None)),
    tuple: lambda value: tuple.__getitem__(value, slice(None)),
    list: list.copy,
    set: lambda value: set.__or__(set(), value),
    frozenset: lambda value: frozenset.__or__(frozenset(), value),
    collections.deque: lambda value: collections.deque(collections.deque.__iter__(value)),
    collections.OrderedDict: lambda value: collections.OrderedDict(collections.OrderedDict.items(value)),
    collections.Counter: lambda value: collections.Counter(dict.copy(value)),
    collections.defaultdict: lambda value: collections.defaultdict(None, dict.copy(value)),
    dict: dict.copy,
}
BASES = {kind.__name__: kind for kind in DATA}


class WireError(Exception):
    """A value has no plain form, or a frame is not one."""


class Opaque:
    """Stands for a value that is not plain data: equal to nothing but itself, ``true`` if the value is.

    ``true`` is None for one that cannot say so; a test that asks fails.
    """

    def __init__(self, true: bool | None):
        self.true = true

    def __bool__(self) -> bool:
        if type(self.true) is not bool:
            raise ValueError("neither true nor false")
        return self.true


class Rest:
    """What is left of an iterator that ``taken`` items were sent of."""

    def __init__(self, iterator: Iterator[Any], taken: int):
        self.iterator, self.taken = iterator, taken


def write_frame(fd: int, message: Any) -> None:
    """Write one message; raise WireError if it is too long."""
    write_bytes(fd, pack(message))


def pack(message: Any) -> bytes:
    """Return a message's frame; raise WireError if it is too long."""
    data = to_json(message).encode()
    if len(data) > FRAME:
        raise WireError("too long")
    return struct.pack("<I", len(data)) + data


def write_bytes(fd: int, data: bytes) -> None:
    """Write all of a frame."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]


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
        part = os.read(fd, min(length, PART))
        if not part:
            raise EOFError
        parts.append(part)
        length -= len(part)
    return b"".join(parts)


def encode(value: Any, handle: Any = None, rest: Any = None) -> Any:
    """Return the JSON form of a value. Raises WireError.

    ``handle(value)``, if given, numbers one that is not plain, and ``rest(value)`` what is left of an iterator after
    its first items; without that it is read to its end.
    """
    kind = type(value)
    if value is None or kind is bool:
        return value
    if kind is int:
        return value if -DIRECT < value < DIRECT else {"int": hex(value)}
    if kind is str:
        return value if value.isascii() or not SURROGATE.search(value) else {"str": list(map(ord, value))}
    if kind is float:
        return value if math.isfinite(value) else {"float": repr(value)}
    if kind is list:
        return [encode(v, handle, rest) for v in value]
    if kind is collections.deque and value.maxlen is not None:
        return {"bounded": [value.maxlen, *(encode(v, handle, rest) for v in value)]}
    if kind is collections.defaultdict and _is_type(value.default_factory):
        return {"default": [value.default_factory.__name__, encode(dict(value), handle, rest)]}
    if kind in SEQUENCES:
        return {SEQUENCES[kind]: [encode(v, handle, rest) for v in value]}
    if kind in MAPPINGS:
        return {kind.__name__: [[encode(k, handle, rest), encode(v, handle, rest)] for k, v in value.items()]}
    if kind in (bytes, bytearray, memoryview):
        return {kind.__name__: value.hex()}
    if kind is complex:
        return {"complex": [repr(value.real), repr(value.imag)]}
    if kind in (decimal.Decimal, fractions.Fraction):
        return {kind.__name__: str(value)}
    if kind in DATES:
        return {kind.__name__: [value.isoformat(), getattr(value, "fold", 0)]}
    if kind is datetime.timedelta:
        return {"timedelta": [value.days, value.seconds, value.microseconds]}
    if kind is range:
        return {"range": [encode(v) for v in (value.start, value.stop, value.step)]}
    if _is_type(value):
        return {"type": value.__name__}
    if kind is Rest:
        return _encode_iterator(value.iterator, value.taken, handle, rest)
    if kind in ITERATORS or kind.__module__ == "itertools":
        return _encode_iterator(value, 0, handle, rest)
    return _encode_other(value, handle, rest)


def _encode_iterator(value: Any, taken: int, handle: Any, rest: Any) -> Any:
    """Encode the next items of an iterator, as many as were taken of it, and at least FIRST; all if there is no rest.

    An error of the iterator comes where it would come without the wire: after the items before it.
    """
    most = ITEMS if rest is None else min(max(FIRST, taken), ITEMS - taken)
    forms: list[Any] = []
    while True:
        try:
            item = next(value)
        except StopIteration:
            return {"generator" if type(value) is types.GeneratorType else "iterator": forms}
        except Exception as error:
            if rest is None or not forms:
                raise
            return {"lazy": [forms, rest(Rest(_raising(error), taken + len(forms)))]}
        if len(forms) == most:
            value = itertools.chain([item], value)
            break
        forms.append(encode(item, handle, rest))
    if rest is None or taken + most == ITEMS:
        return {"endless": forms}
    return {"lazy": [forms, rest(Rest(value, taken + most))]}


def _raising(error: Exception) -> Iterator[Any]:
    """Return an iterator that raises an error in place of its first item."""
    raise error
    yield


def _is_type(value: Any) -> bool:
    """Whether a value is one of the builtin TYPES."""
    return type(value) is type and value.__name__ in TYPES and getattr(builtins, value.__name__) is value


def _encode_other(value: Any, handle: Any, rest: Any) -> Any:
    """Encode an object of a subclass that behaves as its plain base, anything else as a handle, iterator or opaque."""
    kinds = MRO(type(value))
    base = next((kind for kind in kinds if kind in DATA), None)
    if base is not None:
        own = [item for kind in kinds[: kinds.index(base)] for item in NAMESPACE(kind).items()]
        if not any(_changes(base, name, attribute) for name, attribute in own):
            form = encode(DATA[base](value), handle, rest)
            return {"own": [base.__name__, form, SHOWN.isdisjoint(name for name, _ in own)]}
    if handle is not None:
        return {"handle": handle(value)}
    names = {name for kind in kinds[:-1] for name in NAMESPACE(kind)}
    if names.issuperset(ITERATOR) and names.isdisjoint(JUDGED):
        return _encode_iterator(value, 0, handle, rest)
    try:
        return {"opaque": bool(value)}
    except Exception:
        return {"opaque": None}


def _changes(base: type, name: str, attribute: Any) -> bool:
    """Whether an attribute of a subclass makes it compare, compute or iterate unlike its base."""
    if any(NAMESPACE(kind).get(name) is attribute for kind in ENUMERATIONS):
        return False
    if name.startswith("__"):
        return name not in HARMLESS
    return hasattr(base, name) and hasattr(attribute, "__func__" if type(attribute) in WRAPPED else "__code__")


def decode(form: Any, handle: Any = None, more: Any = None, ordered: bool = False) -> Any:
    """Return the value of a JSON form; ``handle(number)`` makes what a handle stands for.

    ``more(number)`` returns an iterator over what is left of one. ``ordered`` sets are iterated as those that were
    encoded, where such an order is found; others are filled with their items.
    Every value is of an exact built-in or standard-library type, or of a subclass of this module's. Raises WireError.
    """
    try:
        return _decode(form, handle, more, FROM_DISTINCT | ORDERED_SETS if ordered else FROM_DISTINCT)
    except WireError:
        raise
    except (ValueError, TypeError, RecursionError, ArithmeticError, AttributeError, LookupError) as error:
        raise WireError(type(error).__name__) from None


def _endless(items: list) -> Any:
    """Return an iterator over the first items of one that has more; it raises WireError after them."""
    yield from items
    raise WireError("too many items")


def _lazy(items: list, number: int, more: Callable[[int], Any]) -> Any:
    """Return an iterator over items and, once they are used up, what is asked for."""
    yield from items
    yield from more(number)


def _in_order(kind: Any) -> Any:
    """Return a function that makes a set of items which is iterated in their order, where that is found.

    A set that is filled in the order of another differs where items found their places taken. So those at the front,
    which may have found the end of the table full, are tried as the last, and so is, ten times, what stands in the
    place of another; a copy of a set, as a literal makes it, has a table of another size. Of random sets of up to 20
    items 97 % and more get their order so, of larger ones about half.
    """

    def make(items: list) -> Any:
        made = kind(items)
        sought = len(items) <= REORDERED and len(made) == len(items)
        for way, first in itertools.product((list, set), range(min(len(items), 10) if sought else 0)):
            order = items[first:] + items[:first]
            for _ in range(10):
                made = kind(way(order))
                misplaced = next((b for a, b in zip(items, made, strict=True) if a is not b), None)
                if misplaced is None:
                    return made
                order.sort(key=lambda item, late=misplaced: item is late)
        return made

    return make


@functools.cache
def _subclass(name: str, shown: bool) -> type:
    """Return a class that stands for all subclasses of a base; one that is not ``shown`` has a look of its own."""
    look = {} if shown else dict.fromkeys(SHOWN, lambda self, *_: f"<subclass of {name}>")
    return type(f"Subclass of {name}", (BASES[name],), look)


def _own(name: str, value: Any, shown: bool) -> Any:
    if type(value) is not BASES[name]:
        raise WireError(name)
    return _subclass(name, shown is True)(*([None] if name == "defaultdict" else []), value)


def _with_default(name: str, value: Any) -> Any:
    if type(value) is not dict:
        raise WireError("default")
    return collections.defaultdict(getattr(builtins, name), value)


def _pairs(kind: Any) -> Any:
    return lambda items: kind(dict(map(tuple, items)))


# How the value of a kind is made of its body, and a container of its decoded items; pairs are lists of two.
FROM_BODY = {
    "int": lambda body: int(body, 16),
    "str": lambda body: "".join(map(chr, body)),
    "float": float,
    "Decimal": decimal.Decimal,
    "Fraction": fractions.Fraction,
    "complex": lambda body: complex(float(body[0]), float(body[1])),
    "bytes": bytes.fromhex,
    "bytearray": bytearray.fromhex,
    "memoryview": lambda body: memoryview(bytes.fromhex(body)),
    "timedelta": lambda body: datetime.timedelta(*map(int, body)),
    "opaque": Opaque,
    "date": lambda body: datetime.date.fromisoformat(body[0]),
    "datetime": lambda body: datetime.datetime.fromisoformat(body[0]).replace(fold=body[1]),
    "time": lambda body: datetime.time.fromisoformat(body[0]).replace(fold=body[1]),
}
FROM_ITEMS = {
    "tuple": tuple,
    "deque": collections.deque,
    "bounded": lambda items: collections.deque(items[1:], items[0]),
    "range": lambda items: range(*items),
    "iterator": iter,
    "generator": lambda items: (item for item in items),
    "endless": _endless,
    "values": lambda items: dict(enumerate(items)).values(),
}
# Items that are equal would become one: they cannot be those of one container.
FROM_DISTINCT = {
    "set": set,
    "frozenset": frozenset,
    "dict": _pairs(dict),
    "OrderedDict": _pairs(collections.OrderedDict),
    "Counter": _pairs(collections.Counter),
    "defaultdict": _pairs(functools.partial(collections.defaultdict, None)),
    "keys": lambda items: dict.fromkeys(items).keys(),
    "items": lambda items: dict(items).items(),
}
ORDERED_SETS = {"set": _in_order(set), "frozenset": _in_order(frozenset)}


def _decode(form: Any, handle: Any, more: Any, distinct: dict[str, Any]) -> Any:
    if type(form) is list:
        return [_decode(v, handle, more, distinct) for v in form]
    if type(form) is not dict:
        return form
    ((kind, body),) = form.items()
    if kind in FROM_BODY:
        return FROM_BODY[kind](body)
    if kind == "type" and body in TYPES:
        return getattr(builtins, body)
    if kind == "handle" and handle is not None:
        return handle(int(body))
    if kind == "lazy" and more is not None:
        return _lazy([_decode(v, handle, more, distinct) for v in body[0]], int(body[1]), more)
    if kind == "default" and body[0] in TYPES:
        return _with_default(body[0], _decode(body[1], handle, more, distinct))
    if kind == "own":
        return _own(body[0], _decode(body[1], handle, more, distinct), body[2])
    if kind in FROM_ITEMS:
        return FROM_ITEMS[kind]([_decode(v, handle, more, distinct) for v in body])
    if kind in distinct:
        made = distinct[kind]([_decode(v, handle, more, distinct) for v in body])
        if len(made) == len(body):
            return made
    raise WireError(kind)
