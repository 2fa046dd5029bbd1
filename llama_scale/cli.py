"""What every command shares: settings from files and flags, one line and exit 2 on bad input."""

import dataclasses
import errno
import json
import os
import re
import sys
from collections.abc import Callable
from itertools import pairwise
from types import UnionType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union, get_args, get_origin

from llama_scale.config import find_config, nest, read_yaml, renamed_fields, size_path, with_new_names
from llama_scale.errors import InputError, UserError, nearest

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")
FULL = (errno.ENOSPC, errno.EDQUOT)
FORBIDDEN = (errno.EROFS, errno.EACCES, errno.EPERM)
NO_PLACE = (errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOENT, errno.ENAMETOOLONG)
USER_ERROR = 2
INTERRUPTED = 130


def parse(
    config_class: type[T],
    description: str,
    argv: list[str] | None = None,
    positional: str | None = None,
    shipped: str | None = None,
) -> T:
    """Fill ``config_class`` from ``--config FILE``, ``--size NAME`` and ``--dotted.overrides``.

    Later arguments win, but ``--size`` wins over the size of a file wherever it stands;
    ``--dry-run`` is ``--dry_run``, and a switch needs no value. The old name of a setting, which
    its class lists in ``RENAMED``, is read as the new one.
    ``positional`` names the field that a leading argument without a flag fills. ``shipped`` is the
    folder of configs/ that has the files a person may name without their folder. Raises UserError
    with one line on an unknown key (naming the nearest one), a wrong type, a missing file or an
    unknown size.
    """
    import jsonargparse

    argv = list(sys.argv[1:] if argv is None else argv)
    parser = jsonargparse.ArgumentParser(
        prog=_program(argv), description=description, exit_on_error=False, allow_abbrev=False
    )
    parser.add_argument("--config", action=jsonargparse.ActionConfigFile, help="YAML file to read")
    parser.add_class_arguments(config_class, None)
    if positional and argv and not argv[0].startswith("-"):
        argv[0] = f"--{positional}={argv[0]}"
    argv = _normalize(argv, config_class)
    if shipped:
        argv = _find_config_files(argv, shipped)
    for path in _config_files(argv):
        _check_mappings(path, config_class)
    try:
        sized = {"size", "model"} <= set(_field_names(config_class))
        expanded = _new_names_in_files(_expand_sizes(argv) if sized else argv, config_class)
        values = parser.instantiate(parser.parse_args(expanded))
    except jsonargparse.ArgumentError as error:
        raise UserError(_one_line(str(error), config_class, argv)) from None
    return config_class(**{f.name: values[f.name] for f in dataclasses.fields(config_class)})


def build(config_class: type[T], settings: dict[str, Any]) -> T:
    """Fill ``config_class`` from a mapping, {"model": {...}, "optim.lr": 1e-3}, nested or dotted.

    Old names are read as in ``parse``. Raises InputError with one line on an unknown key (naming
    the nearest one), a wrong type, or a value that the class refuses.
    """
    import jsonargparse

    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(config_class, None)
    nested = with_new_names(nest(settings), config_class)
    for item in dataclasses.fields(config_class):
        value = nested.get(item.name, {})
        if dataclasses.is_dataclass(item.type) and not isinstance(value, dict):
            raise InputError(f"{item.name}: expected fields, found {value!r:.80}")
    try:
        values = parser.instantiate(parser.parse_object(nested))
    except jsonargparse.ArgumentError as error:
        raise InputError(_one_line(str(error), config_class, [])) from None
    return config_class(**{f.name: values[f.name] for f in dataclasses.fields(config_class)})


def _normalize(argv: list[str], config_class: type) -> list[str]:
    """Write hyphens in a flag's name as underscores and ``--switch`` as ``--switch=true``.

    A flag of an old name gets the new one.
    """
    switches = {f"--{name}" for name in _field_names(config_class, of_type=bool)}
    renamed = renamed_fields(config_class)
    result = []
    for argument, following in pairwise([*argv, "--"]):
        if argument.startswith("--"):
            flag, equals, value = argument.partition("=")
            name = flag[2:].replace("-", "_")
            flag = "--" + renamed.get(name, name)
            if flag in switches and not equals and following.startswith("-"):
                equals, value = "=", "true"
            argument = flag + equals + value
        result.append(argument)
    return result


def _expand_sizes(argv: list[str]) -> list[str]:
    """Put the shape of each named size where it counts, as ``--model=FILE``.

    The size of a flag goes over that of a file, label and shape, wherever it stands. The
    ``model`` of a file goes over the shape of that file's own size.
    """
    flags, expanded = _joined(argv, ("--size", "--config")), []
    chosen = [flag.removeprefix("--size=") for flag in flags if flag.startswith("--size=")][-1:]
    for flag in flags:
        value = flag.partition("=")[2]
        values = read_yaml(value) if flag.startswith("--config=") else {}
        values = values if isinstance(values, dict) else {}
        size, model = values.get("size"), values.get("model")
        if flag.startswith("--size="):
            expanded += [flag, f"--model={size_path(value)}"]
        elif size and chosen and chosen != [size]:
            expanded += [flag, f"--size={chosen[0]}", f"--model={size_path(chosen[0])}"]
        elif size and not (isinstance(model, dict) and "d_model" in model):
            expanded += [f"--model={size_path(str(size))}", flag]
        else:
            expanded.append(flag)
    return expanded


def _new_names_in_files(argv: list[str], config_class: type) -> list[str]:
    """Put the content of a file that has old names in its place, under the new ones.

    ``--config=old.yaml`` becomes ``--config={"optim": {"grad_clip": 1.0}}``. What such a file
    takes from another file, as in "optim: fast.yaml", is read beside it.
    """
    if not renamed_fields(config_class):
        return argv
    result = []
    for flag in _joined(argv, ("--config",)):
        name, _, path = flag.partition("=")
        if name == "--config":
            values = read_yaml(path)
            for item in dataclasses.fields(config_class):
                value = values.get(item.name)
                if dataclasses.is_dataclass(item.type) and isinstance(value, str):
                    values[item.name] = read_yaml(os.path.join(os.path.dirname(path), value))
            try:
                new = with_new_names(values, config_class)
            except InputError as error:
                raise UserError(f"{path}: {error}") from None
            if new != values:
                flag = f"--config={json.dumps(new)}"
        result.append(flag)
    return result


def _joined(argv: list[str], names: tuple[str, ...]) -> list[str]:
    """Write ``--name value`` as ``--name=value`` for the given names."""
    rest, joined = iter(argv), []
    for argument in rest:
        value = next(rest, None) if argument in names else None
        joined.append(argument if value is None else f"{argument}={value}")
    return joined


def _field_names(config_class: type, prefix: str = "", of_type: type | None = None) -> list[str]:
    names = []
    for item in dataclasses.fields(config_class):
        if of_type in (None, item.type):
            names.append(prefix + item.name)
        if isinstance(item.type, type) and dataclasses.is_dataclass(item.type):
            names.extend(_field_names(item.type, f"{prefix}{item.name}.", of_type))
    return names


def _one_line(message: str, config_class: type, argv: list[str]) -> str:
    """Turn the parser's message into one line that names the key and its nearest match."""
    message = " ".join(message.split())
    unknown = re.search(r"unrecognized arguments: (?:--)?([^\s=]+)", message)
    if match := re.search(r"Group '(\S+)' does not accept option '(\S+)'", message):
        key = f"{match[1]}.{match[2]}"
    elif match := re.search(r"Option '(\S+)' is not accepted", message):
        key = match[1].split(".")[0]
    elif unknown:
        key = unknown[1]
    else:
        missing = re.search(r"arguments are required: model\.d_model", message)
        hint = "no model shape: pass --size NAME (configs/size/NAME.yaml)"
        message = hint if missing else re.sub(r'^Parser key "([\w.]+)":', r"\1:", message)
        key = None
    if key:
        message = f"unknown key {key!r}{nearest(key, _field_names(config_class))}"
    wrong = re.match(r"([\w.]+): (?:Does not|Expected a).*(?:Got|Given) value: (.*)$", message)
    if wrong and (kind := _field_type(config_class, wrong[1])):
        key, message = wrong[1], f"{wrong[1]}: expected {_words(kind)}, found {wrong[2]}"
    flags = {argument.partition("=")[0] for argument in argv}
    files = _config_files(argv)
    given = unknown or not files or f"--{key}" in flags
    return message if given else f"{', '.join(files)}: {message}"


def _find_config_files(argv: list[str], folder: str) -> list[str]:
    """Put the file that each ``--config NAME`` means in the place of its name."""
    result = []
    for flag in _joined(argv, ("--config",)):
        name, equals, value = flag.partition("=")
        if name == "--config" and equals:
            try:
                value = str(find_config(value, folder) if not os.path.exists(value) else value)
            except InputError as error:
                raise UserError(f"config: {error}") from None
        result.append(name + equals + value)
    return result


def _config_files(argv: list[str]) -> list[str]:
    flags = _joined(argv, ("--config",))
    return [a.removeprefix("--config=") for a in flags if a.startswith("--config=")]


def _check_mappings(path: str, config_class: type) -> None:
    """Raise UserError if a file, or a field of it that has fields of its own, is no mapping."""
    values = read_yaml(path)
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected a mapping of fields, found {values!r:.80}")
    for item in dataclasses.fields(config_class):
        value = values.get(item.name, {})
        if dataclasses.is_dataclass(item.type) and not isinstance(value, dict | str):
            raise UserError(f"{path}: {item.name}: expected fields or a file, found {value!r:.80}")


def _field_type(config_class: type, key: str) -> Any:
    """Return the type of a dotted field, or None where there is no such field."""
    first, _, rest = key.partition(".")
    kind = {f.name: f.type for f in dataclasses.fields(config_class)}.get(first)
    if not rest or kind is None:
        return kind
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return _field_type(kind, rest)
    return None


def _words(kind: Any) -> str:
    """Say in words what values a type has."""
    plain = {int: "a whole number", float: "a number", bool: "true or false", str: "text",
             type(None): "null", list: "a list", dict: "fields"}  # fmt: skip
    parts = get_args(kind)
    if get_origin(kind) is Literal:
        return " or ".join(map(str, parts))
    if get_origin(kind) in (Union, UnionType):
        return " or ".join(map(_words, parts))
    return plain.get(get_origin(kind) or kind, str(kind))


def _program(argv: list[str]) -> str:
    """Return the command as typed up to ``argv``: "llama-scale train", "scaling.py fit"."""
    names = sys.argv[1 : max(1, len(sys.argv) - len(argv))]
    return " ".join([os.path.basename(sys.argv[0]), *names])


def run_cli(main: Callable[[], None], resumes: bool = False, name: str | None = None) -> None:
    """Run a command's ``main``, turning bad input and interruption into an exit code.

    Exits 2 on bad input, a full disk or a path that cannot be written and 130 on Ctrl-C;
    anything else is a bug and keeps its traceback. ``resumes`` says that the same command goes on
    where it was stopped; ``name`` begins the line that says what was wrong (default: the script).
    """
    script = name or os.path.basename(sys.argv[0])
    try:
        main()
    except InputError as error:
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
