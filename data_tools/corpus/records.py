"""One row for each document, on disk: memory holds two numbers of each.

A row is a JSON list of a Record's values, without their names. Its line's place in the file and the document's size are
in an array beside it, so the sum of sizes, an order or a choice of documents need no row to be read.
"""

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

from llama_scale.files import atomic_write, open_file

RUN_ROWS = 10_000  # sorted in memory at a time
MERGED_RUNS = 256  # files open at a time
LONGEST = 1 << 20  # bytes of a row that are read: a damaged file may have no end of a line


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
        starts, sizes = read_array(path.with_suffix(".npy"))  # (D,), (D,)
        return cls(path, starts, sizes)

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, i: int) -> Record:
        with open_file(self.path) as file:
            file.seek(self.starts[i])
            return parse_row(file.readline(LONGEST))

    def __iter__(self) -> Iterator[Record]:
        with open_file(self.path) as file:
            for start in self.starts:
                file.seek(start)
                yield parse_row(file.readline(LONGEST))

    def take(self, positions: np.ndarray) -> "Records":
        """Return the records at ``positions`` (n,), in that order."""
        return Records(self.path, self.starts[positions], self.sizes[positions])


def parse_row(row: bytes) -> Record:
    """Return the record of a row."""
    return Record(*json.loads(row))


def format_row(record: Record) -> bytes:
    """Return a record as a row."""
    return json.dumps(astuple(record)).encode() + b"\n"


def write_sorted(unsorted: Path, path: Path) -> Records:
    """Write the rows of ``unsorted`` to ``path`` by (package, path), and their index beside it.

    Runs of RUN_ROWS rows are sorted in memory and merged, MERGED_RUNS at a time, so neither memory
    nor open files grow with their number.
    """
    runs = deque(_write_runs(unsorted, path))
    # Merged runs go to the end of the queue, so that each row is copied about as often as any other: 1,000 runs become
    # 745 by one merge of 256, then 490, then 235, which the last merge below takes at once.
    while len(runs) > MERGED_RUNS:
        merged = path.with_name(f"{path.name}.merged-{len(runs)}")
        with open(merged, "wb") as file:
            file.writelines(_merge_runs([runs.popleft() for _ in range(MERGED_RUNS)]))
        runs.append(merged)
    starts, sizes, position = array("q"), array("q"), 0
    with atomic_write(path, "wb") as file:
        for row in _merge_runs(runs):
            starts.append(position)
            sizes.append(parse_row(row).size)
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


def read_array(path: Path) -> np.ndarray:
    """Read what ``write_array`` wrote."""
    with open_file(path) as file:
        return np.load(file)


def _write_runs(unsorted: Path, path: Path) -> Iterator[Path]:
    with open_file(unsorted) as rows:
        while run := sorted(islice(rows, RUN_ROWS), key=_sort_key):
            name = path.with_name(f"{path.name}.run-{rows.tell()}")
            name.write_bytes(b"".join(run))
            yield name


def _merge_runs(runs: Collection[Path]) -> Iterator[bytes]:
    """Yield the rows of sorted files in order, then remove them."""
    with ExitStack() as stack:
        files = [stack.enter_context(open(run, "rb")) for run in runs]
        yield from heapq.merge(*files, key=_sort_key)
    for run in runs:
        run.unlink()


def _sort_key(row: bytes) -> tuple[str, str, str]:
    record = parse_row(row)
    return record.package, record.path, record.sha256
