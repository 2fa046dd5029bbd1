"""The Stack, The Stack v2 and StarCoderData, row by row: memory does not grow with them."""

import math
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

from data_tools.sources.blob_store import Read, UnusableContent, git_hash, open_store
from data_tools.sources.document import Document
from data_tools.sources.licenses import UNKNOWN
from data_tools.sources.retry import NetworkRetries
from llama_scale.errors import InputError

MAX_FETCHES = 32  # contents asked for at a time
Row = dict[str, Any]


def hub_documents(
    source: str, language: str, path: str | None, store: str | None, license: str | None,
    limit: int, start: int = 0,
) -> Iterator[Document]:  # fmt: skip
    """Yield the files of a data set from the one numbered ``start`` on.

    Args:
        source: Its name, see ``config.SourceName``.
        language: Programming language.
        path: A local copy, or None for the Hub.
        store: Where The Stack v2's contents are.
        license: SPDX name for rows that state none.
        limit: Most bytes of a file.
        start: Documents to pass over; those of v2 are not fetched.

    Raises:
        InputError: See ``dataset_rows`` and ``blob_store.open_store``.
    """
    if not source.startswith("the-stack-v2"):
        rows = dataset_rows(source, language, path, start)
        yield from stack_documents(rows, license)
        return
    read = open_store(store, limit)
    yield from stack_v2_documents(
        dataset_rows(source, language, path), read, language, limit, start
    )


def dataset_rows(source: str, language: str, path: str | None, start: int = 0) -> Iterator[Row]:
    """Yield the rows of a data set of the Hub, or of a local copy, in its order from ``start`` on.

    After a failure of the network it waits, opens the data set again and goes on at the next row.

    Raises:
        InputError: There is no token, its owner has not accepted the terms, there is no such data,
            or the network stays away.
    """
    yield from rows_with_retries(
        lambda row: _open_dataset(source, language, path, row), source, start
    )


def rows_with_retries(
    open_at: Callable[[int], Iterator[Row]], name: str, start: int = 0
) -> Iterator[Row]:
    """Yield what ``open_at(start)`` yields; after a network failure go on at the next row.

    Raises:
        InputError: It failed too often without a row between.
    """
    next_row, retries = start, NetworkRetries()
    while True:
        try:
            for row in open_at(next_row):
                yield row
                next_row += 1
                retries.succeeded()
            return
        except Exception as error:
            if not _is_network_failure(error):
                raise
            retries.failed(f"{name}: row {next_row}", type(error).__name__)


def _is_network_failure(error: Exception) -> bool:
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is not None:
        return status == 429 or status >= 500
    if isinstance(error, ConnectionError | TimeoutError):
        return True
    modules = {kind.__module__.split(".")[0] for kind in type(error).__mro__}
    return bool(modules & {"aiohttp", "httpx", "httpcore", "requests", "urllib3"})


def _open_dataset(source: str, language: str, path: str | None, start: int) -> Iterator[Row]:
    import datasets
    from datasets.exceptions import DatasetNotFoundError
    from huggingface_hub import get_token
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError

    name = path or f"bigcode/{source}"
    page = f"https://huggingface.co/datasets/bigcode/{source}"
    token = get_token()
    if path is None and not token:
        raise InputError(
            f"source: {name} needs a Hugging Face token; accept the terms at {page}, then run "
            "`hf auth login` or set HF_TOKEN"
        )
    arguments: dict[str, Any] = {"split": "train", "streaming": True, "token": token}
    if source.endswith("-ids"):
        positional = [name]
    elif source.startswith("the-stack-v2"):
        positional = [name, language]
    else:
        positional = [name]
        folder = language.lower()
        arguments["data_dir"] = folder if source == "starcoderdata" else f"data/{folder}"
    try:
        rows = iter(datasets.load_dataset(*positional, **arguments).skip(start))
        yield from rows
    except GatedRepoError:
        raise InputError(
            f"source: {name}: your token has no access; accept the terms at {page}"
        ) from None
    except DatasetNotFoundError as error:
        if "gated" in str(error):
            raise InputError(
                f"source: {name}: your token has no access; accept the terms at {page}"
            ) from None
        raise InputError(f"source: {name}: no such data set ({_first_line(error)})") from None
    except (FileNotFoundError, datasets.exceptions.DataFilesNotFoundError, ValueError) as error:
        raise InputError(
            f"source: {name}: no {language} data there ({_first_line(error)}); check path and "
            "language"
        ) from None
    except HfHubHTTPError as error:
        if error.response is not None and error.response.status_code in (401, 403):
            raise InputError(
                f"source: {name}: the token was refused; accept the terms at {page} and log in "
                "again"
            ) from None
        raise


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]


def stack_documents(rows: Iterator[Row], license: str | None) -> Iterator[Document]:
    """Yield the files of The Stack v1 or StarCoderData; ``license`` for rows that state none."""
    for row in rows:
        text, problem = row.get("content"), None
        content = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else None
        if content is None:
            problem = "no_content"
        elif row.get("hexsha") and git_hash(content) != row["hexsha"]:
            problem = "hash_mismatch"
        name = f"unnamed-{git_hash(content or b'')[:12]}"
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
    """Yield the files of The Stack v2: rows are files, or repositories with a list of files.

    Contents are read some ahead by threads and come in the order of the rows.
    """
    entries = ((file, row) for row in rows for file in _files(row, language))
    with ThreadPoolExecutor(MAX_FETCHES) as threads:
        running: deque = deque()
        for file, row in islice(entries, start, None):
            running.append((file, row, threads.submit(_fetch_content, file, read, limit)))
            if len(running) == MAX_FETCHES:
                yield _v2_document(*running.popleft())
        while running:
            yield _v2_document(*running.popleft())


def _files(row: Row, language: str) -> Iterator[Row]:
    if "files" not in row:
        yield row
        return
    for file in row["files"] or []:
        if file.get("language") == language:
            yield file


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


def _v2_document(file: Row, row: Row, content: Any) -> Document:
    data, problem = content.result()
    license = license_expression(file.get("detected_licenses"))
    if file.get("license_type") == "no_license" or not license:
        license = "no_license" if file.get("license_type") == "no_license" else UNKNOWN
    return Document(
        package=row.get("repo_name") or "unknown",
        version=row.get("revision_id") or "",
        license=license,
        path=(file.get("path") or file.get("blob_id") or "").lstrip("/"),
        content=data,
        problem=problem,
        stars=whole_number(row.get("star_events_count")),
        forks=whole_number(row.get("fork_events_count")),
    )


def whole_number(value: Any) -> int:
    """Return a number of stars or forks; 0 where there is none (missing, NaN, no number)."""
    number = isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))
    return int(value) if number else 0


def license_expression(licenses: Any) -> str:
    """Return a list of SPDX names, or one, as an expression: all of them hold; "" for none.

    What is no text stays visible as one, which no license is called.
    """
    names = licenses if isinstance(licenses, list) else [licenses]
    return " AND ".join(sorted({str(name) for name in names if name}))
