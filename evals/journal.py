"""A file of JSON rows that a run adds to as it goes, and that one which was killed goes on from."""

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from evals.old_names import with_current_names


def append_row(path: Path, row: dict[str, Any]) -> None:
    """Add a row at once; a leading line end closes one that was torn."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        os.write(handle, f"\n{json.dumps(row)}\n".encode())
    finally:
        os.close(handle)


def read_journal(path: Path | None) -> list[dict[str, Any]]:
    """Read a journal, if it is there; unlike in files that are written whole, rows torn by a kill are left out."""
    rows = []
    if path and path.exists():
        for line in path.read_bytes().splitlines():
            with suppress(ValueError):
                row = json.loads(line)
                rows += [with_current_names(row)] if isinstance(row, dict) else []
    return rows
