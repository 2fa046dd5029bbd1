"""A table as plain data: a page and a terminal show the same cells."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """A table: its key, title, what it says in a sentence or two, the head and the cells."""

    key: str
    title: str
    caption: str
    head: list[str]
    body: list[list[str]]

    def text(self) -> str:
        """Return the table as aligned lines."""
        rows = [self.head, *self.body]
        wide = [max(len(row[i]) for row in rows) for i in range(len(self.head))]
        lines = ["  " + "  ".join(cell.ljust(w) for cell, w in zip(row, wide, strict=True)).rstrip() for row in rows]
        return "\n".join([f"{self.title}:", *lines])
