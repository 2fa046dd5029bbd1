"""Files of tasks and of completions: what is wrong with a row is said by file, row and field."""

import errno
import gzip
import hashlib
import os
import reprlib
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llama_scale.errors import InputError
from llama_scale.files import numbered_rows, open_file, parse_json, sha256

MOST_BYTES = 1 << 30  # of a file of tasks or completions
WORDS = {str: "a text", int: "a whole number", list: "a list", dict: "an object"}


def shown(value: Any) -> str:
    """Return a value in few characters; an integer may have more digits than Python writes."""
    try:
        return reprlib.repr(value)
    except ValueError:
        return f"a value of type {type(value).__name__} with a very long integer"


@dataclass(frozen=True)
class Row:
    """A row as it was found: ``where`` begins messages, ``remedy`` ends them.

    Null stands for a field that is not there. All methods but ``either`` raise InputError, as in "mbpp.data:
    mbpp.jsonl: line 3: field 'code' is 5, expected a text; give mbpp.jsonl as ...".
    """

    where: str
    remedy: str
    fields: dict[str, Any]

    def __post_init__(self) -> None:
        if type(self.fields) is not dict:
            raise InputError(f"{self.where} is {shown(self.fields)}, expected an object; {self.remedy}")

    def error(self, name: str, found: str, expected: str) -> InputError:
        """Return what is raised where a field is not as expected."""
        return InputError(f"{self.where}: field {name!r} is {found}, expected {expected}; {self.remedy}")

    def either(self, *names: str) -> str:
        """Return the first of the ``names`` that is a field, or the first of all."""
        return next((name for name in names if name in self.fields), names[0])

    def take(self, name: str, kind: type, default: Any = None) -> Any:
        """Return a field of a ``kind``; it must be there unless it has a default."""
        value = self.fields.get(name)
        value = default if value is None else value
        if type(value) is not kind:
            raise self.error(name, "missing" if value is None else shown(value), WORDS[kind])
        return value

    def number(self, name: str) -> int:
        """Return a whole number, which may be written as a text."""
        value = self.fields.get(name)
        return int(value) if type(value) is str and value.isdecimal() else self.take(name, int)

    def unpack(self, name: str, kind: type, default: Any) -> Any:
        """Return a field of a ``kind`` that may be written as JSON; a blank text is none."""
        value = self.fields.get(name)
        if type(value) is not str:
            return self.take(name, kind, default)
        try:
            inner = parse_json(value) if value.strip() else None
        except (ValueError, RecursionError) as error:
            raise self.error(name, f"not JSON ({error})", WORDS[kind]) from None
        return Row(self.where, self.remedy, {name: inner}).take(name, kind, default)

    def texts(self, name: str, default: list[str] | None = None) -> list[str]:
        """Return a list of texts."""
        values = self.unpack(name, list, default)
        for value in values:
            if type(value) is not str:
                raise self.error(name, f"a list with {shown(value)}", "a list of texts")
        return values


def read_whole(path: Path) -> bytes:
    """Return a file's bytes, unpacked if its name ends in .gz; OSError if they are more than MOST_BYTES."""
    with open_file(path) as file, gzip.open(file) if path.suffix == ".gz" else file as content:
        large = os.fstat(file.fileno()).st_size > MOST_BYTES
        data = b"" if large else content.read(MOST_BYTES + 1)
        if large or len(data) > MOST_BYTES:
            raise OSError(errno.EFBIG, f"larger than {MOST_BYTES >> 20} MiB", str(path))
        return data


def read_rows(path: Path, setting: str, remedy: str) -> list[Row]:
    """Read a file of JSON lines, gzipped or not, or of one JSON list, which begins with ``[``.

    ``setting`` names what the path is from, ``remedy`` what to give instead, in messages. Raises InputError on a file
    that cannot be read, is empty or holds something else.
    """
    name = f"{setting}: {path}"
    try:
        data = read_whole(path)
    except (OSError, EOFError, zlib.error) as error:
        reason = (getattr(error, "strerror", None) or str(error)).lower()
        raise InputError(f"{name} cannot be read ({reason}); {remedy}") from None
    try:
        if data.lstrip().startswith(b"["):
            rows = [(f"row {n}", row) for n, row in enumerate(parse_json(data), start=1)]
        else:
            rows = [(f"line {n}", row) for n, row in numbered_rows(data, name)]
    except InputError as error:
        raise InputError(f"{error}; {remedy}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{name} is not JSON ({error}); {remedy}") from None
    if not rows:
        raise InputError(f"{name} is empty; {remedy}")
    return [Row(f"{name}: {number}", remedy, row) for number, row in rows]


def from_hub(benchmark: str, published: str, *args: str, **options: str) -> Any:
    """Load a data set of the Hub; raise InputError that says to give what is ``published`` if that fails."""
    try:
        from datasets import load_dataset

        return load_dataset(*args, **options)
    except Exception as error:
        reason = f"the Hub gave no data ({type(error).__name__})"
        raise InputError(f"{benchmark}: {reason}; set {benchmark}.data to the published {published}") from None


def content_sha256(path: Path, setting: str) -> str:
    """Return the SHA-256 of a file, or of what sha256sum prints of a folder's files in order."""
    try:
        files = sorted(file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file())
        for file in [path / name for name in files] if path.is_dir() else [path]:
            if file.stat().st_size > MOST_BYTES:
                raise OSError(errno.EFBIG, f"larger than {MOST_BYTES >> 20} MiB", str(file))
        if not path.is_dir():
            return sha256(path)
        lines = [f"{sha256(path / name)}  {name}\n" for name in files]
    except OSError as error:
        raise InputError(f"{setting}: {path} cannot be read ({error})") from None
    return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()
