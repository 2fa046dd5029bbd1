"""The text of ``--help``: what a command takes, in groups, with types, defaults and an example."""

import dataclasses
import shutil
import textwrap
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import docstring_parser

from llama_scale.config import nested_classes

# The groups of settings in their order; a setting that is named in none is of the first.
FIRST, SHAPE = "what", "shape"
GROUPS = {
    "data": (
        "data", "source", "path", "points", "columns", "where", "samples", "document_mask", "license", "licenses",
        "val_tokens", "fim", "vocab_size", "shard_tokens",
    ),
    "optimizer": ("optim", "max_skips", "branch_from"),
    "machine": (
        "device", "devices", "nodes", "strategy", "threads", "processes", "workers", "parallel", "executor", "slurm",
        "precision", "compile", "micro_batch", "checkpoint_activations", "cuda_graphs", "hardware", "mfu", "gpu",
        "batch_size", "execution",
    ),
    "output": (
        "run", "out", "log_every", "val_every", "checkpoint_every", "keep_last", "keep_every", "keep_steps", "wandb",
        "group", "dry_run", "json", "title", "compare", "mode", "until",
    ),
}  # fmt: skip
WORDS = {int: "INTEGER", float: "NUMBER", bool: "true|false", str: "TEXT", type(None): "null"}
INDENT, COLUMN = 2, 30


def help_text(config_class: type, program: str, description: str, example: str, positional: str | None = None) -> str:
    """Return the help of a command that fills ``config_class``.

    ``example`` is what may follow ``program``; ``positional`` names the setting that a first argument without a flag
    fills.
    """
    first = f"[{positional.upper()}] " if positional else ""
    lines = [f"usage: {program} {first}[--config FILE] [--SETTING VALUE ...]", "", description]
    grouped: dict[str, list[str]] = {name: [] for name in (FIRST, *GROUPS)}
    titles = {}
    for group, rows in sorted(_rows(config_class), key=lambda row: row[0] == SHAPE):
        if group == SHAPE:
            group = FIRST
        if isinstance(group, type):
            titles[group.__name__] = _title(group)
            group = group.__name__
        grouped.setdefault(group, []).extend(rows)
    for group, rows in grouped.items():
        if rows:
            lines += ["", f"{titles.get(group, group)}:", *rows]
    lines += ["", "everywhere:"]
    lines += _row("--config FILE", "YAML file of settings; what is given after it wins.")
    lines += _row("--print_config", "Print the settings as YAML and exit.")
    lines += _row("-h, --help", "Print this help and exit.")
    return "\n".join([*lines, "", "example:", f"  {program} {example}"] if example else lines)


def type_words(kind: Any) -> str:
    """Say what values a type has: NUMBER|auto, auto|cpu|cuda, [INTEGER,...]."""
    if get_origin(kind) is Literal:
        return "|".join(map(str, get_args(kind)))
    if get_origin(kind) in (Union, UnionType):
        return "|".join(type_words(part) for part in get_args(kind) if part is not type(None))
    if get_origin(kind) in (list, tuple):
        return f"[{type_words(get_args(kind)[0])},...]"
    return "{name: value}" if get_origin(kind) is dict else WORDS.get(kind, "fields")


def _rows(config_class: type, prefix: str = "") -> list[tuple[str | type, list[str]]]:
    """Return the lines of each setting with its group, a nested class for those of its own."""
    texts, rows = _texts(config_class), []
    nested = nested_classes(config_class)
    for item in dataclasses.fields(config_class):
        name = prefix + item.name
        if item.name in nested and not prefix:
            inner = [line for _, lines in _rows(nested[item.name], f"{name}.") for line in lines]
            own = {"model": SHAPE, "optim": "optimizer"}.get(item.name)
            rows.append((own or nested[item.name], inner))
            continue
        group = next((group for group, names in GROUPS.items() if item.name in names), FIRST)
        text = f"{texts.get(item.name, '')} {_default(item)}".strip()
        rows.append((group, _row(f"--{name} {type_words(item.type)}", text)))
    return rows


def _texts(config_class: type) -> dict[str, str]:
    """Return what the docstrings of a class, and of those that it extends, say of each setting."""
    texts: dict[str, str] = {}
    for kind in reversed(config_class.__mro__):
        for parameter in docstring_parser.parse(kind.__doc__ or "").params:
            texts[parameter.arg_name] = " ".join((parameter.description or "").split())
    return texts


def _title(kind: type) -> str:
    return (kind.__doc__ or kind.__name__).splitlines()[0].rstrip(".")


def _default(item: dataclasses.Field) -> str:
    """Return the default in parentheses, as it would be typed."""
    value = item.default if item.default_factory is dataclasses.MISSING else item.default_factory()
    if value is dataclasses.MISSING:
        return "(required)"
    if value is None or value == "" or isinstance(value, bool):
        return f"(default: { {'None': 'null', '': 'empty'}.get(str(value), str(value).lower()) })"
    if isinstance(value, list | tuple):
        value = f"[{','.join(map(str, value))}]"
    return "" if dataclasses.is_dataclass(value) else f"(default: {value})"


def _row(flag: str, text: str) -> list[str]:
    """Return a setting's lines: the flag to the left, what it is to the right of COLUMN."""
    width = min(shutil.get_terminal_size().columns, 120)
    lines = textwrap.wrap(text, max(40, width - COLUMN)) or [""]
    left = " " * INDENT + flag
    if len(left) > COLUMN - 2:
        return [left, *(" " * COLUMN + line for line in lines)]
    return [left.ljust(COLUMN) + lines[0], *(" " * COLUMN + line for line in lines[1:])]
