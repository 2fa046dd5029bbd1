"""The collected corpus on disk: all contents in one file, one row for each document."""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
from tqdm import tqdm

from data_tools.corpus.records import Record, Records, row_of, write_sorted
from data_tools.filters.redact import redact
from data_tools.filters.rules import SourceRules, source_rejection
from data_tools.sources.installed import Document
from llama_scale.files import read_json, write_json

CONTENTS = "contents.bin"
ROWS = "rows.jsonl"  # the records in the order of the source
RECORDS = "records.jsonl"
SUMMARY = "records.json"  # written last
CHECKPOINT = "collect.json"
INDEX = "records.npy"
FILES = (CONTENTS, ROWS, RECORDS, INDEX, SUMMARY, CHECKPOINT)
EXAMPLES = 5
BATCH = 1 << 20  # bytes of source that a worker takes at a time
BETWEEN = 1 << 24  # bytes of source between two checkpoints of ``collect``
Open = Callable[[int], Iterable[Document | None]]


@dataclass(frozen=True)
class Corpus:
    """What ``collect`` made in ``folder``.

    Attributes:
        folder: Where contents.bin is.
        records: The documents, by (package, path).
        dropped: Reason -> {"files", "bytes"} of what was left out by its source.
        left_out: The packages of those, with license and reason.
        examples: Reason -> a few of those files.
    """

    folder: Path
    records: Sequence[Record]
    dropped: dict[str, dict[str, int]]
    left_out: list[dict]
    examples: dict[str, list[str]] = field(default_factory=dict)


@dataclass
class State:
    """How far ``collect`` is: what its checkpoint holds.

    Attributes:
        seen: Documents of the source.
        last: The last of them, to recognise the source by.
        bytes: Their bytes.
        contents: Bytes of contents.bin.
        rows: Bytes of rows.jsonl.
        dropped, left_out, examples: As in Corpus, ``left_out`` by its row as JSON.
    """

    seen: int = 0
    last: list[str] | None = None
    bytes: int = 0
    contents: int = 0
    rows: int = 0
    dropped: dict[str, dict[str, int]] = field(default_factory=dict)
    left_out: dict[str, dict[str, int]] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)


def collect(
    open_at: Open, folder: str | Path, rules: SourceRules | None = None, limit: int | None = None
) -> Corpus:
    """Copy the usable documents of a source into ``folder``; records.json is written last.

    Every BETWEEN bytes a checkpoint is written. A later call goes on from it, unless the source
    has another document in its place.

    Args:
        open_at: Function of a number n that gives the documents after the first n, in an order
            that is always the same; None stands for one that is not wanted.
        folder: Where the corpus goes.
        rules: What is decided before the content is looked at.
        limit: Most bytes to read; None is all.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    state, documents = _continued(open_at, folder)
    saved = state.bytes
    with (
        _appended(folder / CONTENTS, state.contents) as contents_,
        _appended(folder / ROWS, state.rows) as rows,
    ):
        for document in documents:
            state.bytes += len(document.content or b"") if document else 0
            if limit is not None and state.bytes > limit:
                break
            state.seen, state.last = state.seen + 1, _identity(document)
            if document:
                _add(document, rules or SourceRules(), state, contents_, rows)
            if state.bytes - saved >= BETWEEN:
                _save(folder, state, contents_, rows)
                saved = state.bytes
        _save(folder, state, contents_, rows)
    records = write_sorted(folder / ROWS, folder / RECORDS)
    left_out = [json.loads(row) | sizes for row, sizes in sorted(state.left_out.items())]
    value = {"dropped": state.dropped, "left_out": left_out, "examples": state.examples}
    write_json(folder / SUMMARY, value)
    for name in (ROWS, CHECKPOINT):
        (folder / name).unlink()
    return Corpus(folder, records, **value)


def _continued(open_at: Open, folder: Path) -> tuple[State, Iterator[Document | None]]:
    """Return how far an earlier call came, and the documents from there on."""
    path = folder / CHECKPOINT
    if path.exists():
        state = State(**read_json(path))
        if not state.seen:
            return state, iter(open_at(0))
        documents = iter(open_at(state.seen - 1))
        if _identity(next(documents, None)) == state.last:
            return state, documents
    return State(), iter(open_at(0))


def _identity(document: Document | None) -> list[str] | None:
    if document is None:
        return None
    digest = hashlib.sha1(document.content or b"").hexdigest()
    return [document.package, document.path, digest]


def _appended(path: Path, size: int) -> IO[bytes]:
    """Open a file to append after its first ``size`` bytes; what lies behind them is dropped."""
    file = open(path, "ab")  # noqa: SIM115
    file.truncate(size)
    return file


def _save(folder: Path, state: State, *files: IO[bytes]) -> None:
    for file in files:
        file.flush()
        os.fsync(file.fileno())
    write_json(folder / CHECKPOINT, vars(state))


def _add(
    document: Document, rules: SourceRules, state: State, contents_: IO[bytes], rows: IO[bytes]
) -> None:
    content = document.content or b""
    names = ("package", "version", "license", "path")
    document = replace(document, **{name: _encodable(getattr(document, name)) for name in names})
    if reason := source_rejection(document, rules):
        count(state.dropped, reason, len(content))
        example(state.examples, reason, document)
        row = {name: getattr(document, name) for name in names[:3]} | {"reason": reason}
        count(state.left_out, json.dumps(row), len(content))
        return
    digest, redacted = hashlib.sha256(content).hexdigest(), 0
    if rules.redact:
        content, redacted = redact(content)
    record = Record(
        document.package,
        document.version,
        document.license,
        document.path,
        digest,
        state.contents,
        len(content),
        document.stars,
        document.forks,
        redacted,
    )
    state.rows += rows.write(row_of(record))
    state.contents += contents_.write(content)


def _encodable(name: str) -> str:
    """Return a name with what UTF-8 cannot hold (a file name of other bytes) as escapes."""
    return name.encode("utf-8", "backslashreplace").decode()


def load(folder: str | Path) -> Corpus | None:
    """Return what an earlier ``collect`` finished in ``folder``; None where it did not."""
    folder = Path(folder)
    if not (folder / SUMMARY).is_file():
        return None
    return Corpus(folder, Records.open(folder / RECORDS), **read_json(folder / SUMMARY))


def count(counts: dict[str, dict[str, int]], key: str, size: int) -> None:
    """Add a file of ``size`` bytes to ``counts[key]``."""
    row = counts.setdefault(key, {"files": 0, "bytes": 0})
    row["files"] += 1
    row["bytes"] += size


def example(examples: dict[str, list[str]], key: str, item: Document | Record) -> None:
    """Keep the first EXAMPLES files of ``key`` by name, whatever the order they come in."""
    names = sorted({*examples.get(key, []), f"{item.package}: {item.path}"})
    examples[key] = names[:EXAMPLES]


def contents(folder: str | Path, records: Iterable[Record]) -> Iterator[bytes]:
    """Yield the bytes of each record."""
    with open(Path(folder) / CONTENTS, "rb") as file:
        for record in records:
            file.seek(record.offset)
            yield file.read(record.size)


def batches(records: Iterable[Record]) -> Iterator[list[Record]]:
    """Group records, in order, into lists of about BATCH bytes."""
    batch, size = [], 0
    for record in records:
        batch.append(record)
        size += record.size
        if size >= BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def mapped(
    function: Callable[[list[Record]], Any], records: Sequence[Record], map_: Callable, name: str
) -> Iterator[Any]:
    """Yield ``function`` of each batch of records, in order, with a bar called ``name``."""
    total = -(-int(sizes(records).sum()) // BATCH)
    results = map_(function, batches(records))
    yield from tqdm(results, name, total, unit="MB", leave=False, disable=None)


def sizes(records: Sequence[Record]) -> np.ndarray:
    """Return the bytes of each document: (D,) int64."""
    if isinstance(records, Records):
        return records.sizes
    return np.array([record.size for record in records], dtype=np.int64)
