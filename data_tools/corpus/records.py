"""One row for each document, on disk: memory holds two numbers of each."""

import heapq
import json
from array import array
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import astuple, dataclass
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from llama_scale.files import atomic_write

RUN = 10_000  # rows sorted in memory at a time
OPEN = 256  # files merged at a time


@dataclass(frozen=True, slots=True)
class Record:
    """One document: what it is, and where its ``size`` bytes begin in contents.bin.

    ``sha256`` is that of the source's bytes, before ``redacted`` secrets were replaced.
    """

    package: str
    version: str
    license: str
    path: str
    sha256: str
    offset: int
    size: int
    stars: int = 0
    forks: int = 0
    redacted: int = 0


class Records(Sequence[Record]):
    """Rows of a file of JSON lines, read when they are asked for; a selection shares the file.

    Args:
        path: The rows.
        starts: (D,) int64, where each row begins.
        sizes: (D,) int64, ``size`` of each record.
    """

    def __init__(self, path: Path, starts: np.ndarray, sizes: np.ndarray):
        self.path, self.starts, self.sizes = path, starts, sizes

    @classmethod
    def open(cls, path: Path) -> "Records":
        """Open what ``write_sorted`` wrote."""
        starts, sizes = np.load(path.with_suffix(".npy"))  # (D,), (D,)
        return cls(path, starts, sizes)

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, i: int) -> Record:
        with open(self.path, "rb") as file:
            file.seek(self.starts[i])
            return parse(file.readline())

    def __iter__(self) -> Iterator[Record]:
        with open(self.path, "rb") as file:
            for start in self.starts:
                file.seek(start)
                yield parse(file.readline())

    def take(self, positions: np.ndarray) -> "Records":
        """Return the records at ``positions`` (n,), in that order."""
        return Records(self.path, self.starts[positions], self.sizes[positions])


def parse(row: bytes) -> Record:
    """Return the record of a row."""
    return Record(*json.loads(row))


def row_of(record: Record) -> bytes:
    """Return a record as a row."""
    return json.dumps(astuple(record)).encode() + b"\n"


def write_sorted(unsorted: Path, path: Path) -> Records:
    """Write the rows of ``unsorted`` to ``path`` by (package, path), and their index beside it.

    Runs of RUN rows are sorted in memory and merged, OPEN at a time, so neither memory nor open
    files grow with their number.
    """
    runs = deque(_runs(unsorted, path))
    while len(runs) > OPEN:
        merged = path.with_name(f"{path.name}.merged-{len(runs)}")
        with open(merged, "wb") as file:
            file.writelines(_merged([runs.popleft() for _ in range(OPEN)]))
        runs.append(merged)
    starts, sizes, position = array("q"), array("q"), 0
    with atomic_write(path, "wb") as file:
        for row in _merged(runs):
            starts.append(position)
            sizes.append(parse(row).size)
            position += file.write(row)
    table = np.array([starts, sizes], dtype=np.int64)  # (2, D)
    write_array(path.with_suffix(".npy"), table)
    return Records(path, *table)


def write_array(path: Path, values: np.ndarray) -> None:
    """Write an array as .npy, atomically.

    np.save writes into a file past Python, and raises a full disk without its number.
    """
    with atomic_write(path, "wb") as file:
        np.save(SimpleNamespace(write=file.write), values)


def _runs(unsorted: Path, path: Path) -> Iterator[Path]:
    with open(unsorted, "rb") as rows:
        while run := sorted(islice(rows, RUN), key=_key):
            name = path.with_name(f"{path.name}.run-{rows.tell()}")
            name.write_bytes(b"".join(run))
            yield name


def _merged(runs: Collection[Path]) -> Iterator[bytes]:
    """Yield the rows of sorted files in order, then remove them."""
    with ExitStack() as stack:
        files = [stack.enter_context(open(run, "rb")) for run in runs]
        yield from heapq.merge(*files, key=_key)
    for run in runs:
        run.unlink()


def _key(row: bytes) -> tuple[str, str, str]:
    record = parse(row)
    return record.package, record.path, record.sha256
