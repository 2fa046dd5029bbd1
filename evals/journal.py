"""A file of JSON rows that a run adds to as it goes, and that one which was killed goes on from."""

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from evals.old_names import with_current_names
from llama_scale.files import check_regular, open_file


def append_row(path: Path, row: dict[str, Any]) -> None:
    """Add a row at once; a leading line end closes one that was torn."""
    path.parent.mkdir(parents=True, exist_ok=True)
    check_regular(path)
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        os.write(handle, f"\n{json.dumps(row)}\n".encode())
    finally:
        os.close(handle)


def read_journal(path: Path | None) -> list[dict[str, Any]]:
    """Read a journal, if it is there; unlike in files that are written whole, rows torn by a kill are left out."""
    return list(journal_rows(path))


def journal_rows(path: Path | None, longest: int | None = None) -> Iterator[dict[str, Any]]:
    """Yield the rows of a journal one after another, without those of more than ``longest`` bytes."""
    if path is None or not path.exists():
        return
    with open_file(path) as file:
        for line in _lines(file, longest):
            with suppress(ValueError, RecursionError):
                row = json.loads(line)
                if isinstance(row, dict):
                    yield with_current_names(row)


def _lines(file: IO[bytes], longest: int | None) -> Iterator[bytes]:
    """Yield the lines of a file; of one that is too long no more is held at a time than would be allowed."""
    size = -1 if longest is None else longest + 1
    while line := file.readline(size):
        if longest is None or len(line) <= longest:
            yield line
            continue
        while line and not line.endswith(b"\n"):
            line = file.readline(size)
