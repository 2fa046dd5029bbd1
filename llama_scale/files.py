"""Files that are either whole or absent: atomic writes, JSON, JSON lines, checksums, names."""

import errno
import fcntl
import gzip
import hashlib
import json
import os
import re
import secrets
import stat
import textwrap
import time
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import IO, Any

from llama_scale.errors import InputError

FULL = (errno.ENOSPC, errno.EDQUOT)
LOCK_PATIENCE = 3.0  # seconds: a process that was just killed may take a moment to let go
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL)  # how a file system says that it has none
SEAL = "self_sha256"  # the field of a JSON file that vouches for the others
LINE = 120  # characters
NUMBER = r"(?:-?\d[\d.]*(?:e[-+]?\d+)?|null|NaN|-?Infinity)"
NUMBERS = re.compile(rf"(\[)\n( *{NUMBER}(?:,\n *{NUMBER})*)(\n *)\]")  # a string has no line break of its own in JSON
MOST_BYTES = 1 << 30  # of a file that is read whole
SPECIAL = {stat.S_ISFIFO: "pipe", stat.S_ISSOCK: "socket", stat.S_ISCHR: "device", stat.S_ISBLK: "device"}


def check_regular(path: str | Path, pipes: bool = False) -> None:
    """Raise OSError, before it is opened, where a pipe, a socket or a device stands in a file's place.

    Opening a pipe waits until somebody writes to it, and reading a device may never end. Links are followed; that
    nothing is there, or a folder, is left to ``open``. With ``pipes`` one that the shell hands over is taken:
    ``/dev/stdin``, or ``<(command)``, which bash names /dev/fd/63; it can be read once.
    """
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):  # ValueError: a null character in the name
        return
    kind = next((name for is_kind, name in SPECIAL.items() if is_kind(mode)), None)
    if kind is None or (pipes and kind == "pipe" and os.path.realpath(path).startswith("/proc/")):
        return
    raise OSError(errno.EINVAL, f"a {kind}, not a regular file", str(path))


def open_file(path: str | Path, mode: str = "rb", pipes: bool = False, **options: Any) -> Any:
    """``open`` a regular file or what links to one; raise OSError as ``open`` and ``check_regular``."""
    check_regular(path, pipes)
    return open(path, mode, **options)


@contextmanager
def atomic_write(path: str | Path, mode: str = "w") -> Iterator[IO]:
    """Open a temporary file beside ``path`` that replaces it, fsynced, when the block succeeds.

    On an exception the temporary file is removed and ``path`` stays as it was. The permissions are those that the
    umask leaves. Raises OSError where a device or a pipe, as /dev/null or /dev/stdout, has the name: it stays.
    """
    path = Path(path)
    check_regular(path)
    if path.is_symlink() and str(path.absolute().parent) == "/dev":  # /dev/stdout of a shell that sends it to a file
        raise OSError(errno.EINVAL, "a device, not a regular file", str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, mode.replace("w", "x"), encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        if isinstance(error, OSError):
            error.filename = str(path) if error.filename in (None, temporary, str(temporary)) else error.filename
        Path(temporary).unlink(missing_ok=True)
        raise


@contextmanager
def locked(path: str | Path, busy: str) -> Iterator[int]:
    """Hold the file ``path`` for this process, whose number it keeps; yield its descriptor.

    Raises InputError, ``busy`` with the other process for {}, where that still holds it after LOCK_PATIENCE seconds,
    and where the file system has no locks.
    """
    check_regular(path)
    with open(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b", buffering=0) as file:
        deadline = time.monotonic() + LOCK_PATIENCE
        while not _try_lock(file, path):
            if time.monotonic() > deadline:
                file.seek(0)
                raise InputError(busy.replace("{}", f"process {file.read(20).decode(errors='replace').strip() or '?'}"))
            time.sleep(0.1)
        try:
            file.truncate(0)
            file.write(f"{os.getpid()}\n".encode())
        except OSError as error:
            error.filename = str(path)
            raise
        yield file.fileno()


def _try_lock(file: IO, path: str | Path) -> bool:
    """Whether the lock on an open file is ours now.

    It is flock's, or a POSIX record lock where the file system (some NFS, Lustre and FUSE mounts) has that alone. Both
    go when the process ends; processes that were started meanwhile hold flock's too.
    """
    reasons = []
    for name, lock in (("flock", fcntl.flock), ("lockf", fcntl.lockf)):
        try:
            lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except (BlockingIOError, PermissionError):
            return False
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            reasons.append(f"{name}: {error.strerror}")
    raise InputError(f"{path}: cannot be locked here ({', '.join(reasons)}); use a folder on another file system")


def write_json(path: str | Path, value: Any, sealed: bool = False) -> None:
    """Write ``value`` as indented JSON, lists of numbers in a paragraph, atomically; ``sealed``, a mapping carries a
    checksum of its own.
    """
    text = json.dumps(seal(value) if sealed else value, indent=2)
    with atomic_write(path) as file:
        file.write(NUMBERS.sub(_in_lines, text) + "\n")


def _in_lines(numbers: re.Match[str]) -> str:
    """Return a list of one number a line with as many on a line as there is room for."""
    opening, items, closing = numbers.groups()
    indent = " " * (len(closing) - 1)
    joined = " ".join(items.split())
    one_line = f"{opening}{joined}]"
    if len(indent) + len(one_line) <= LINE:
        return one_line
    inner = indent + "  "
    return f"{opening}\n{textwrap.fill(joined, LINE, initial_indent=inner, subsequent_indent=inner)}{closing}]"


def read_json(path: str | Path) -> Any:
    """Read JSON and check its seal, if it has one, which is left out.

    Raises InputError naming the file when it is missing, cannot be read, is no JSON or has changed since it was sealed.
    """
    text = read_text(path)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError: also a number of more digits than Python converts
        raise InputError(f"{path}: not valid JSON ({error})") from None
    return unseal(value, str(path))


def read_fields(path: str | Path, required: Iterable[str] = ()) -> dict[str, Any]:
    """Read a JSON mapping; raise InputError, as ``read_json``, also where it is none or lacks a ``required`` field."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise InputError(f"{path}: expected fields, found {json.dumps(value):.60}")
    for name in required:
        if name not in value:
            raise InputError(f"{path}: no field {name!r}")
    return value


def seal(value: dict[str, Any]) -> dict[str, Any]:
    """Return a mapping of JSON values with the SHA-256 of the others in the field ``SEAL``."""
    return value | {SEAL: _seal_of(value)}


def unseal(value: Any, name: str) -> Any:
    """Return ``value`` without its seal; raise InputError where that is another's. Without one nothing is checked."""
    if not isinstance(value, dict) or SEAL not in value:
        return value
    rest = {key: item for key, item in value.items() if key != SEAL}
    if value[SEAL] != _seal_of(rest):
        problem = f"its values have changed since it was written ({SEAL} does not match)"
        raise InputError(f"{name}: {problem}; restore it, or delete the field {SEAL} if you changed it on purpose")
    return rest


def _seal_of(value: dict[str, Any]) -> str:
    """Return the SHA-256 of a mapping as JSON has it, whatever the order and the layout."""
    return hashlib.sha256(json.dumps(json.loads(json.dumps(value)), sort_keys=True).encode()).hexdigest()


def read_bytes(path: str | Path, most: int = MOST_BYTES) -> bytes:
    """Read a file whole; raise InputError where it is missing, no file, unreadable or larger than ``most`` bytes."""
    try:
        with open_file(path) as file:
            large = os.fstat(file.fileno()).st_size > most
            data = b"" if large else file.read(most + 1)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise InputError(f"{path}: cannot be read ({reason.lower()})") from None
    if large or len(data) > most:
        raise InputError(f"{path}: larger than {most:,} bytes; this is another file than is meant")
    return data


def copy_file(source: Path, target: Path) -> None:
    """Copy a file's content; raise InputError as ``read_bytes``, before a file that is far too large fills the disk."""
    target.write_bytes(read_bytes(source))


def read_text(path: str | Path, most: int = MOST_BYTES) -> str:
    """Read a UTF-8 file whole; raise InputError as ``read_bytes`` and where it is not UTF-8."""
    try:
        return read_bytes(path, most).decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text ({error}); save it as UTF-8") from None


def read_jsonl(
    path: str | Path, whole: bool = False, required: Iterable[str] = (), texts: Iterable[str] = ()
) -> list[dict]:
    """Read JSON lines, gzipped if the name ends in .gz; blank ones are passed over. Only a line feed ends a line.

    A last line without one counts in a file that is published (``whole``). Otherwise it is left out: a process was
    killed while it wrote. Raises InputError on a line that is no JSON mapping with the ``required`` fields, or whose
    ``texts`` are not text, with its number, and on a damaged gzip file.
    """
    data = read_bytes(path)
    if str(path).endswith(".gz"):
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise InputError(f"{path}: damaged ({error})") from None
    finished = data if whole else data[: data.rfind(b"\n") + 1]
    rows = []
    for number, row in numbered_rows(finished, str(path)):
        if not isinstance(row, dict) or not row.keys() >= set(required):
            expected = f"fields, {list(required)} among them" if required else "fields"
            raise InputError(f"{path}: line {number}: expected {expected}, found {_shown(row)}")
        for name in texts:
            check_text(f"{path}: line {number}: {name}", row.get(name))
        rows.append(row)
    return rows


def check_text(where: str, value: Any) -> None:
    """Raise InputError, which begins with ``where``, unless a value of JSON is text that can be written as UTF-8."""
    if not isinstance(value, str):
        raise InputError(f"{where} should be text, found {_shown(value)}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        half = f"\\u{ord(value[error.start]):04x}, half of a character that JSON writes as two"
        raise InputError(f"{where} has {half}; write it whole, or as UTF-8") from None


def _shown(value: Any) -> str:
    """Return the beginning of a value as JSON, which Python does not write of a number of over 4,300 digits."""
    try:
        return f"{json.dumps(value):.60}"
    except ValueError:
        return "a number of more digits than can be shown"


def append_jsonl(path: str | Path, rows: Iterable[dict[str, Any]]) -> None:
    """Append JSON lines; where they cannot be written whole, the file is left as it was."""
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    with open_file(path, "ab", buffering=0) as file:
        end = file.seek(0, os.SEEK_END)
        try:
            while data:
                data = data[file.write(data) :]
        except OSError as error:
            os.ftruncate(file.fileno(), end)
            error.filename = error.filename or str(path)
            raise


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
    with open_file(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_built(path: str | Path, manifest: str = "pairs.json") -> None:
    """Raise InputError where a file has changed since the build that it lies in was written.

    The manifest beside it names its SHA-256 by its name without the ending; without one nothing is checked.
    """
    path = Path(path)
    beside = path.with_name(manifest)
    hashes = read_fields(beside).get("sha256") if beside.is_file() else None
    written = hashes.get(path.stem) if isinstance(hashes, dict) else None
    made = f"it was made (its checksum is not that in {manifest})"
    remedy = "make it again, or copy it to another folder if you changed it on purpose"
    check_unchanged(path, written if isinstance(written, str) else None, made, remedy)


def check_unchanged(path: str | Path, written: str | None, since: str, remedy: str) -> None:
    """Raise InputError where a file's SHA-256 is not that which was ``written`` down; None, as of old, is not known."""
    if written is not None and written != sha256(path):
        raise InputError(f"{path}: has changed since {since}; {remedy}")


def check_name(field: str, name: str) -> None:
    """Raise InputError where ``name``, of the setting ``field``, cannot be a folder's own name."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise InputError(f"{field}: {name!r} is no folder name; use letters, digits and, after the first, . _ -")
