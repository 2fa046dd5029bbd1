"""Trees of dataclasses as JSON: what is written under one name and read back into one type."""

import math
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import numpy as np

from llama_scale.errors import InputError

T = TypeVar("T")
# What JSON has for a type hint, and its name.
TYPES: dict[Any, tuple[Any, str]] = {
    float: ((int, float, type(None)), "a number"),
    int: ((int, float, type(None)), "a number"),
    str: (str, "text"),
    bool: (bool, "true or false"),
    list: (list, "a list"),
    dict: (dict, "fields"),
}


def to_json(value: Any, digits: int | None = None) -> Any:
    """Return ``value`` as JSON types: dataclasses as dictionaries, NaN and infinity as None, floats to ``digits``."""
    if is_dataclass(value):
        return {f.name: to_json(getattr(value, f.name), digits) for f in fields(value)}
    if isinstance(value, dict):
        return {key: to_json(item, digits) for key, item in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [to_json(item, digits) for item in value]
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    if isinstance(value, (int, np.integer)):
        return int(value)
    if isinstance(value, (float, np.floating)):
        if not math.isfinite(value):
            return None
        return float(value if digits is None else f"{value:.{digits}g}")
    return value


def from_json(kind: type[T], value: Any, path: str = "") -> T:
    """Return JSON as the dataclass ``kind``; fields that it does not have are left out.

    Lists, dictionaries and optional values of dataclasses are read as their type hints say. A
    field with ``metadata={"old": name}`` is also read under the name it had in older files.
    Raises InputError naming the field, by its ``path`` from the top, that is absent or of another type. A number may be
    None, which is what NaN and infinity are in JSON.
    """
    if not isinstance(value, dict):
        raise InputError(f"{path or 'the top level'} is not a mapping of names to values")
    hints, arguments = get_type_hints(kind), {}
    for f in fields(kind):  # type: ignore[arg-type]
        name = f.name if f.name in value else f.metadata.get("old", f.name)
        if name in value:
            arguments[f.name] = _convert(hints[f.name], value[name], f"{path}.{name}".lstrip("."))
        elif f.default is MISSING and f.default_factory is MISSING:
            raise InputError(f"no {f'{path}.{f.name}'.lstrip('.')!r}")
    return kind(**arguments)


def _convert(hint: Any, value: Any, path: str) -> Any:
    """Return a field's JSON value as its type hint: ``list[Run]`` of [{...}] is [Run(...)]."""
    if isinstance(hint, UnionType):  # X | None
        kinds = [kind for kind in get_args(hint) if kind is not type(None)]
        if value is None or len(kinds) > 1:
            return value
        hint = kinds[0]
    if is_dataclass(hint):
        return from_json(hint, value, path)  # type: ignore[arg-type]
    inner, kind = get_args(hint), get_origin(hint) or hint
    accepted, words = TYPES.get(kind, (object, ""))
    if not isinstance(value, accepted) or (isinstance(value, bool) and kind in (int, float)):
        raise InputError(f"{path}: expected {words}, found {value!r:.60}")
    if isinstance(value, list) and inner:
        return [_convert(inner[0], item, f"{path}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, dict) and inner:
        return {key: _convert(inner[1], item, f"{path}.{key}") for key, item in value.items()}
    return value


def has_values(row: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether a row has, of each ``wanted`` field, the value or one of a list of values."""
    return all(row.get(name) in (values if isinstance(values, list) else [values]) for name, values in wanted.items())
