"""Rows of JSON files: lines or one list, packed or not."""

import bz2
import gzip
import io
import json
import lzma
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from llama_scale.errors import InputError
from llama_scale.files import check_regular, open_file

KINDS = (".jsonl", ".ndjson", ".json")
PACKED = {".gz": b"\x1f\x8b", ".bz2": b"BZh", ".xz": b"\xfd7zXZ", ".zst": b"\x28\xb5\x2f\xfd"}
SUFFIXES = tuple(kind + packed for kind in KINDS for packed in ("", *PACKED))
READ = "JSON lines or one JSON list (.jsonl, .ndjson, .json), also as .gz, .bz2, .xz or .zst"
MAX_LIST_BYTES, MAX_LINE_BYTES = 1 << 30, 1 << 28  # a list is held whole, of lines one at a time
DAMAGE = (EOFError, OSError, zlib.error, lzma.LZMAError, ValueError)


class Unreadable(Exception):
    """A packed file that ends too soon, or is none."""


def json_rows(file: Path) -> Iterator[tuple[int, Any]]:
    """Yield number (from 1) and value of each row of a file; None for a line that is not JSON.

    A file that begins with ``[`` is one list. Raises Unreadable where a packed file is damaged, after what comes
    before, and InputError where the file is of no kind that is read.
    """
    packed = _packing(file)
    try:
        with _open(file, packed) as lines:
            head = lines.peek(1 << 12)[: 1 << 12].lstrip(b"\xef\xbb\xbf \t\r\n")
            known = file.name.lower().endswith(SUFFIXES)
            if not known and head[:1] not in (b"{", b"["):
                raise InputError(f"path: {file}: not JSON; what is read is {READ}")
            if head[:1] == b"[" and not _is_line(head):
                yield from enumerate(_list(file, lines), 1)
                return
            number = 0
            while line := lines.readline(MAX_LINE_BYTES + 1):
                number += 1
                if len(line) > MAX_LINE_BYTES:
                    raise InputError(f"path: {file}: line {number} is longer than {MAX_LINE_BYTES >> 20} MiB")
                yield number, _value(line)
    except InputError:
        raise
    except DAMAGE as error:
        if packed or not isinstance(error, OSError):
            raise Unreadable from error
        raise InputError(f"path: {file}: cannot be read ({(error.strerror or str(error)).lower()})") from None


def _packing(file: Path) -> str | None:
    """Return how a file is packed: as its name says, else as it begins."""
    if file.suffix.lower() in PACKED:
        return file.suffix.lower()
    try:
        with open_file(file) as stream:
            head = stream.read(6)
    except OSError as error:
        raise InputError(f"path: {file}: cannot be read ({(error.strerror or str(error)).lower()})") from None
    return next((name for name, magic in PACKED.items() if head.startswith(magic)), None)


def _open(file: Path, packed: str | None) -> Any:
    """Return a file's bytes as a stream that can be looked into ahead."""
    check_regular(file)
    if packed == ".gz":
        return gzip.open(file)
    if packed == ".bz2":
        return bz2.open(file)
    if packed == ".xz":
        return lzma.open(file)
    if packed == ".zst":
        import pyarrow

        return io.BufferedReader(pyarrow.input_stream(str(file), compression="zstd"))
    return open(file, "rb")


def _is_line(head: bytes) -> bool:
    """Whether a text that begins with ``[`` begins with a line that is a value of its own."""
    first, end, rest = head.partition(b"\n")
    return bool(end and rest.strip()) and _value(first) is not None


def _list(file: Path, stream: IO[bytes]) -> list[Any]:
    data = stream.read(MAX_LIST_BYTES + 1)
    if len(data) > MAX_LIST_BYTES:
        raise InputError(f"path: {file}: a JSON list of more than {MAX_LIST_BYTES >> 30} GiB; write it as JSON lines")
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InputError(f"path: {file}: not a JSON list ({error})") from None


def _value(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None
