"""The collected corpus on disk: all contents in one file, one record for each document.

contents.bin holds the bytes of every document, one after another, with nothing between them;
records.jsonl says where each begins. So a step reads any document with one seek, and a list of
documents is a list of positions: no step copies contents or holds them all.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from data_tools.corpus.records import Record, Records
from data_tools.progress import with_progress
from data_tools.sources.document import Document
from llama_scale.files import open_file, read_json

CONTENTS = "contents.bin"
RECORDS = "records.jsonl"
RECORDS_INDEX = "records.npy"
SUMMARY = "records.json"  # written last
MAX_EXAMPLES = 5
BATCH_BYTES = 1 << 20  # of source that a worker takes at a time
T = TypeVar("T")


@dataclass(frozen=True)
class Corpus:
    """What ``collect`` made in ``folder``."""

    folder: Path  # of contents.bin
    records: Records  # by (package, path)
    dropped: dict[str, dict[str, int]]  # reason -> {"files", "bytes"} of what was left out by its source
    left_out: list[dict]  # the packages of those, with license and reason
    examples: dict[str, list[str]] = field(default_factory=dict)  # reason -> a few of those files


def load_corpus(folder: str | Path) -> Corpus | None:
    """Return what an earlier ``collect`` finished in ``folder``; None where it did not."""
    folder = Path(folder)
    if not (folder / SUMMARY).is_file():
        return None
    return Corpus(folder, Records.open(folder / RECORDS), **read_json(folder / SUMMARY))


def read_contents(folder: str | Path, records: Iterable[Record]) -> Iterator[bytes]:
    """Yield the bytes of each record, read from where they begin in contents.bin.

    Records in the order of the source are read straight through; a shuffled or chosen list costs a seek each.
    """
    with open_file(Path(folder) / CONTENTS) as file:
        for record in records:
            file.seek(record.offset)
            yield file.read(record.size)


def batches(items: Iterable[T], size: Callable[[T], int] = attrgetter("size")) -> Iterator[list[T]]:
    """Group items, in order, into lists of about BATCH_BYTES of content; ``size`` gives the bytes of one."""
    batch, n_bytes = [], 0
    for item in items:
        batch.append(item)
        n_bytes += size(item)
        if n_bytes >= BATCH_BYTES:
            yield batch
            batch, n_bytes = [], 0
    if batch:
        yield batch


def map_batches(
    function: Callable[[list[Record]], Any], records: Sequence[Record], map_: Callable, step: str
) -> Iterator[Any]:
    """Yield ``function`` of each batch of records, in order, with a progress line for ``step``.

    A worker gets the records, a few hundred bytes each, and reads the contents itself.
    """
    total = -(-int(document_sizes(records).sum()) // BATCH_BYTES)
    yield from with_progress(map_(function, batches(records)), step, total)


def document_sizes(records: Sequence[Record]) -> np.ndarray:
    """Return the bytes of each document: (D,) int64."""
    if isinstance(records, Records):
        return records.sizes
    return np.array([record.size for record in records], dtype=np.int64)


def count_file(counts: dict[str, dict[str, int]], key: str, n_bytes: int) -> None:
    """Add a file of ``n_bytes`` to ``counts[key]``."""
    row = counts.setdefault(key, {"files": 0, "bytes": 0})
    row["files"] += 1
    row["bytes"] += n_bytes


def add_example(examples: dict[str, list[str]], key: str, document: Document | Record) -> None:
    """Keep the first MAX_EXAMPLES files of ``key`` by name, whatever the order they come in."""
    names = sorted({*examples.get(key, []), f"{document.package}: {document.path}"})
    examples[key] = names[:MAX_EXAMPLES]
