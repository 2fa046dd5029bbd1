"""A file of JSON rows that a run adds to as it goes, and that one which was killed goes on from.

Each row vouches for itself: what has changed since it was written is left out and made again.
"""

import json
import os
import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import IO, Any

from evals.old_names import with_current_names
from llama_scale.errors import InputError
from llama_scale.files import MOST_BYTES, check_regular, open_file, seal, unseal

LONGEST = 1 << 26  # bytes of a row
MOST_STREAMED = 1 << 36  # bytes of a journal whose rows are taken one after another: a minute's reading


def append_row(path: Path, row: dict[str, Any]) -> None:
    """Add a row at once; a leading line end closes one that was torn."""
    path.parent.mkdir(parents=True, exist_ok=True)
    check_regular(path)
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    data = f"\n{json.dumps(seal(row))}\n".encode()
    try:
        while data:
            data = data[os.write(handle, data) :]
    except OSError as error:
        error.filename = str(path)
        raise
    finally:
        os.close(handle)


def read_journal(path: Path | None) -> list[dict[str, Any]]:
    """Read a journal, if it is there; unlike in files that are written whole, rows torn by a kill are left out."""
    return list(journal_rows(path, most=MOST_BYTES))


def journal_rows(
    path: Path | None, longest: int = LONGEST, most: int = MOST_STREAMED, keys: Collection[Any] | None = None
) -> Iterator[dict[str, Any]]:
    """Yield the rows of a journal one after another, without those of more than ``longest`` bytes.

    With ``keys`` only those whose field "key" is one of them. Rows that have changed since they were written are left
    out, with a line on stderr where no later one has the same key. Raises InputError where the file has more than
    ``most`` bytes.
    """
    if path is None or not path.exists():
        return
    changed: set[Any] = set()
    with open_file(path) as file:
        if os.fstat(file.fileno()).st_size > most:
            raise InputError(f"{path}: larger than {most:,} bytes; delete it to begin anew, or name another folder")
        for number, line in enumerate(_lines(file, longest)):
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                continue
            key = str(row.get("key", row.get("ask", number))) if isinstance(row, dict) else None
            if key is None or (keys is not None and key not in keys):
                continue
            try:
                row = unseal(row, str(path))
            except InputError:
                changed.add(key)
                continue
            changed.discard(key)
            yield with_current_names(row)
    if changed:
        rows = "1 row has" if len(changed) == 1 else f"{len(changed)} rows have"
        print(f"{path}: {rows} changed since written; left out and made again", file=sys.stderr)


def _lines(file: IO[bytes], longest: int) -> Iterator[bytes]:
    """Yield the lines of a file; of one that is too long no more is held at a time than would be allowed."""
    while line := file.readline(longest + 1):
        if len(line) <= longest:
            yield line
            continue
        while line and not line.endswith(b"\n"):
            line = file.readline(longest + 1)
