"""The collect step: the usable documents of a source copied to disk, with checkpoints."""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO

from data_tools.corpus.corpus import CONTENTS, RECORDS, RECORDS_INDEX, SUMMARY, Corpus, add_example, count_file
from data_tools.corpus.records import Record, format_row, write_sorted
from data_tools.corpus.redact import redact
from data_tools.sources.document import Document
from data_tools.sources.source_rules import SourceRules, source_rejection
from llama_scale.files import open_file, read_json, write_json

UNSORTED = "rows.jsonl"  # the records in the order of the source
CHECKPOINT = "collect.json"
FILES = (CONTENTS, UNSORTED, RECORDS, RECORDS_INDEX, SUMMARY, CHECKPOINT)
CHECKPOINT_BYTES = 1 << 24  # of source between two checkpoints
OpenAt = Callable[[int], Iterable[Document | None]]


@dataclass
class CollectState:
    """How far ``collect`` is: what its checkpoint holds; the last three are as in Corpus."""

    seen: int = 0  # documents of the source
    last: list[str] | None = None  # the last of them, to recognize the source by
    bytes: int = 0  # of all of them
    contents: int = 0  # bytes of contents.bin
    rows: int = 0  # bytes of rows.jsonl
    dropped: dict[str, dict[str, int]] = field(default_factory=dict)
    left_out: dict[str, dict[str, int]] = field(default_factory=dict)  # by the row as JSON
    examples: dict[str, list[str]] = field(default_factory=dict)


def collect(open_at: OpenAt, folder: str | Path, rules: SourceRules | None = None, limit: int | None = None) -> Corpus:
    """Copy the usable documents of a source into ``folder``; records.json is written last.

    Every CHECKPOINT_BYTES a checkpoint is written. A later call goes on from it, unless the source has another document
    in its place.

    Args:
        open_at: Function of a number n that gives the documents after the first n, in an order that is always the same;
            None stands for one that is not used.
        folder: Where the corpus goes.
        rules: What is decided before the content is looked at.
        limit: Most bytes to read; None is all.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    state, documents = _start_or_resume(open_at, folder)
    saved_bytes = state.bytes
    with (
        _open_truncated(folder / CONTENTS, state.contents) as contents,
        _open_truncated(folder / UNSORTED, state.rows) as rows,
    ):
        for document in documents:
            state.bytes += len(document.content or b"") if document else 0
            if limit is not None and state.bytes > limit:
                break
            state.seen, state.last = state.seen + 1, _identity(document)
            if document:
                _add_document(document, rules or SourceRules(), state, contents, rows)
            if state.bytes - saved_bytes >= CHECKPOINT_BYTES:
                _save_checkpoint(folder, state, contents, rows)
                saved_bytes = state.bytes
        _save_checkpoint(folder, state, contents, rows)
    records = write_sorted(folder / UNSORTED, folder / RECORDS)
    left_out = [json.loads(row) | counts for row, counts in sorted(state.left_out.items())]
    summary = {"dropped": state.dropped, "left_out": left_out, "examples": state.examples}
    write_json(folder / SUMMARY, summary)
    for name in (UNSORTED, CHECKPOINT):
        (folder / name).unlink()
    return Corpus(folder, records, **summary)


def _start_or_resume(open_at: OpenAt, folder: Path) -> tuple[CollectState, Iterator[Document | None]]:
    """Return how far an earlier call came, and the documents from there on.

    The source is opened one document early, at the last that was seen: is it still the same one,
    then so, most likely, are those before it.
    """
    path = folder / CHECKPOINT
    if path.exists():
        state = CollectState(**read_json(path))
        if not state.seen:
            return state, iter(open_at(0))
        documents = iter(open_at(state.seen - 1))
        if _identity(next(documents, None)) == state.last:
            return state, documents
    return CollectState(), iter(open_at(0))


def _identity(document: Document | None) -> list[str] | None:
    if document is None:
        return None
    return [document.package, document.path, hashlib.sha1(document.content or b"").hexdigest()]


def _open_truncated(path: Path, size: int) -> IO[bytes]:
    """Open a file to append after its first ``size`` bytes; what lies behind them is dropped.

    A kill between two checkpoints leaves bytes that no checkpoint knows of.
    """
    file = open_file(path, "ab")
    file.truncate(size)
    return file


def _save_checkpoint(folder: Path, state: CollectState, *files: IO[bytes]) -> None:
    """Write the state after the files that it counts the bytes of, so that it never counts more."""
    for file in files:
        file.flush()
        os.fsync(file.fileno())
    write_json(folder / CHECKPOINT, vars(state))


def _add_document(
    document: Document, rules: SourceRules, state: CollectState, contents: IO[bytes], rows: IO[bytes]
) -> None:
    content = document.content or b""
    names = {name: getattr(document, name) for name in ("package", "version", "license", "path")}
    # What UTF-8 cannot hold (a file name of other bytes) is written as escapes.
    names = {name: value.encode("utf-8", "backslashreplace").decode() for name, value in names.items()}
    document = replace(document, **names)
    if reason := source_rejection(document, rules):
        count_file(state.dropped, reason, len(content))
        add_example(state.examples, reason, document)
        row = {"package": names["package"], "version": names["version"], "license": names["license"], "reason": reason}
        count_file(state.left_out, json.dumps(row), len(content))
        return
    digest, redacted = hashlib.sha256(content).hexdigest(), 0
    if rules.redact:
        content, redacted = redact(content)
    stars, forks, size = document.stars, document.forks, len(content)
    record = Record(
        **names, sha256=digest, offset=state.contents, size=size, stars=stars, forks=forks, redacted=redacted
    )
    state.rows += rows.write(format_row(record))
    state.contents += contents.write(content)
