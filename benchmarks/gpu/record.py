"""The result of a step, written as it grows, so that what was found outlives the step's end."""

import threading
from pathlib import Path
from typing import Any

from llama_scale.files import write_json


class Record:
    """Rows and other values of a step in a JSON file, which is whole after each of them."""

    def __init__(self, path: str | Path) -> None:
        self.path, self.lock = Path(path), threading.Lock()
        self.values: dict[str, Any] = {"rows": []}

    def add(self, **row: Any) -> None:
        """Add a row."""
        with self.lock:
            self.values["rows"].append(row)
            write_json(self.path, self.values)

    def check(self, name: str, found: object, ok: bool | None = None, **values: Any) -> None:
        """Add a row that says what a check found, and whether that is right; None where it is no matter of that."""
        self.add(check=name, found=str(found), ok=ok, **values)

    def note(self, **values: Any) -> None:
        """Set values beside the rows."""
        with self.lock:
            self.values |= values
            write_json(self.path, self.values)
