"""Files that are either whole or absent: atomic writes, JSON, JSON lines, checksums, names."""

import fcntl
import gzip
import hashlib
import json
import os
import re
import tempfile
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import IO, Any

from llama_scale.errors import InputError

LOCK_PATIENCE = 3.0  # seconds: a process that was just killed may take a moment to let go


@contextmanager
def atomic_write(path: str | Path, mode: str = "w") -> Iterator[IO]:
    """Open a temporary file beside ``path`` that replaces it, fsynced, when the block succeeds.

    On an exception the temporary file is removed and ``path`` stays as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException as error:
        if isinstance(error, OSError):
            error.filename = error.filename or str(path)
        Path(temporary).unlink(missing_ok=True)
        raise


@contextmanager
def locked(path: str | Path, busy: str) -> Iterator[int]:
    """Hold the file ``path`` for this process, whose number it keeps; yield its descriptor.

    Raises InputError, ``busy`` with the other process for {}, where that still holds it after LOCK_PATIENCE seconds.
    """
    with open(path, "a+", encoding="utf-8") as file:
        deadline = time.monotonic() + LOCK_PATIENCE
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    file.seek(0)
                    raise InputError(busy.replace("{}", f"process {file.read().strip() or '?'}")) from None
                time.sleep(0.1)
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield file.fileno()


def write_json(path: str | Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically."""
    with atomic_write(path) as file:
        json.dump(value, file, indent=2)
        file.write("\n")


def read_json(path: str | Path) -> Any:
    """Read JSON; raise InputError naming the file when it is missing or not JSON."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not valid JSON ({error})") from None


def read_jsonl(path: str | Path, whole: bool = False) -> list[dict]:
    """Read JSON lines, gzipped if the name ends in .gz; blank ones are passed over. Only a line feed ends a line.

    A last line without one counts in a file that is published (``whole``). Otherwise it is left out: a process was
    killed while it wrote. Raises InputError on a line that is not JSON, with its number, and on a damaged gzip file.
    """
    data = Path(path).read_bytes()
    if str(path).endswith(".gz"):
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise InputError(f"{path}: damaged ({error})") from None
    finished = data if whole else data[: data.rfind(b"\n") + 1]
    return [row for _, row in numbered_rows(finished, str(path))]


def parse_json(text: str | bytes) -> Any:
    """Return the value of a JSON text, with integers of any length, which Python reads to 4,300 digits by itself."""
    try:
        return json.loads(text)
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise
    except ValueError:
        return json.loads(text, parse_int=lambda digits: int(Decimal(digits)))


def numbered_rows(data: bytes, name: str) -> Iterator[tuple[int, Any]]:
    """Yield number and value of each JSON line of the file ``name``, no blank ones; raise InputError on a bad one."""
    for number, line in enumerate(data.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            yield number, parse_json(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{name}: line {number} is not JSON ({error})") from None


def sha256(path: str | Path) -> str:
    """Return the hexadecimal SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_name(field: str, name: str) -> None:
    """Raise InputError where ``name``, of the setting ``field``, cannot be a folder's own name."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise InputError(f"{field}: {name!r} is no folder name; use letters, digits and, after the first, . _ -")
