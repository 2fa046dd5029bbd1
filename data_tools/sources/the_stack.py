"""Rows of The Stack, The Stack v2 and StarCoderData as documents, whatever they were read from."""

import math
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any

from data_tools.sources.blob_store import Read, UnusableContent, git_hash
from data_tools.sources.document import Document
from data_tools.sources.licenses import UNKNOWN

MAX_FETCHES = 32  # contents asked for at a time
Row = dict[str, Any]
# The columns that are read of v1 and of v2, and those that hold the contents or lead to them.
STACK_COLUMNS = (
    "content", "hexsha", "max_stars_repo_name", "max_stars_repo_head_hexsha", "max_stars_repo_path",
    "max_stars_repo_licenses", "max_stars_count", "max_forks_count",
)  # fmt: skip
STACK_V2_COLUMNS = (
    "blob_id", "content_id", "path", "detected_licenses", "license_type", "repo_name", "revision_id",
    "star_events_count", "fork_events_count", "src_encoding", "language", "is_vendor", "is_generated", "length_bytes",
    "files",
)  # fmt: skip


def stack_documents(rows: Iterator[Row], license: str | None) -> Iterator[Document]:
    """Yield the files of The Stack v1 or StarCoderData; ``license`` for rows that state none."""
    for row in rows:
        text, problem = row.get("content"), None
        content = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else None
        digest = git_hash(content or b"")
        if content is None:
            problem = "no_content"
        elif row.get("hexsha") and digest != row["hexsha"]:
            problem = "hash_mismatch"
        name = f"unnamed-{digest[:12]}"
        yield Document(
            package=row.get("max_stars_repo_name") or name,
            version=row.get("max_stars_repo_head_hexsha") or "",
            license=license_expression(row.get("max_stars_repo_licenses")) or license or UNKNOWN,
            path=row.get("max_stars_repo_path") or name,
            content=content,
            problem=problem,
            stars=whole_number(row.get("max_stars_count")),
            forks=whole_number(row.get("max_forks_count")),
        )


def stack_v2_documents(
    rows: Iterator[Row], read: Read, language: str, limit: int, start: int = 0
) -> Iterator[Document]:
    """Yield the files of The Stack v2 in the order of the rows; threads read contents some ahead."""
    # A row of -train-smol-ids is a repository with a list of files, any other row is a file: both become pairs of a
    # file and the row that names its repository. ``start`` counts those pairs, and passing over them fetches nothing.
    entries = ((file, row) for row in rows for file in _files(row, language))
    with ThreadPoolExecutor(MAX_FETCHES) as threads:
        running: deque = deque()
        for file, row in islice(entries, start, None):
            running.append((file, row, threads.submit(_fetch_content, file, read, limit)))
            if len(running) == MAX_FETCHES:
                yield _v2_document(*running.popleft())
        while running:
            yield _v2_document(*running.popleft())


def _files(row: Row, language: str) -> list[Row]:
    if "files" not in row:
        return [row]
    return [file for file in row["files"] or [] if file.get("language") == language]


def _fetch_content(file: Row, read: Read, limit: int) -> tuple[bytes | None, str | None]:
    """Return a file's bytes as UTF-8, or None and why not."""
    if file.get("is_vendor"):
        return None, "vendored"
    if file.get("is_generated"):
        return None, "generated"
    if (file.get("length_bytes") or 0) > limit:
        return None, "too_large"
    if not file.get("blob_id") or not file.get("content_id"):
        return None, "no_content"
    try:
        raw = read(file["blob_id"], file["content_id"])
        return raw.decode(file.get("src_encoding") or "utf-8").encode("utf-8"), None
    except UnusableContent as error:
        return None, error.reason
    except (LookupError, UnicodeError):
        return None, "wrong_encoding"


def _v2_document(file: Row, row: Row, fetched: Future) -> Document:
    content, problem = fetched.result()
    license = license_expression(file.get("detected_licenses")) or UNKNOWN
    if file.get("license_type") == "no_license":
        license = "no_license"
    return Document(
        package=row.get("repo_name") or "unknown",
        version=row.get("revision_id") or "",
        license=license,
        path=(file.get("path") or file.get("blob_id") or "").lstrip("/"),
        content=content,
        problem=problem,
        stars=whole_number(row.get("star_events_count")),
        forks=whole_number(row.get("fork_events_count")),
    )


def whole_number(value: Any) -> int:
    """Return a number of stars or forks; 0 where there is none (missing, NaN, no number)."""
    number = isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))
    return int(value) if number else 0


def license_expression(licenses: Any) -> str:
    """Return a list of SPDX names, or one, as an expression: all of them hold; "" for none."""
    # What is no text stays visible as one, which no license is called.
    names = licenses if isinstance(licenses, list) else [licenses]
    return " AND ".join(sorted({str(name) for name in names if name}))
