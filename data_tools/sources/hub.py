"""Data sets of the Hub, streamed row by row, so that memory does not grow with them."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from data_tools.sources.blob_store import open_store
from data_tools.sources.document import Document
from data_tools.sources.retry import NetworkRetries
from data_tools.sources.tables import parquet_rows
from data_tools.sources.the_stack import STACK_COLUMNS, STACK_V2_COLUMNS, Row, stack_documents, stack_v2_documents
from llama_scale.errors import InputError
from llama_scale.text import first_line


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
        yield from stack_documents(dataset_rows(source, language, path, start), license)
        return
    read = open_store(store, limit)
    yield from stack_v2_documents(dataset_rows(source, language, path), read, language, limit, start)


def dataset_rows(source: str, language: str, path: str | None, start: int = 0) -> Iterator[Row]:
    """Yield the rows of a data set of the Hub, or of a local copy, in its order from ``start`` on.

    After a failure of the network it waits, opens the data set again and goes on at the next row.

    Raises:
        InputError: There is no token, its owner has not accepted the terms, there is no such data,
            or the network stays away.
    """
    yield from rows_with_retries(lambda row: _open_dataset(source, language, path, row), source, start)


def rows_with_retries(open_at: Callable[[int], Iterator[Row]], name: str, start: int = 0) -> Iterator[Row]:
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
    from datasets.exceptions import DataFilesNotFoundError, DatasetNotFoundError
    from huggingface_hub import get_token
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError

    name = path or f"bigcode/{source}"
    accept = f"accept the terms at https://huggingface.co/datasets/bigcode/{source}"
    token = get_token()
    if path is None and not token:
        login = "then run `hf auth login` or set HF_TOKEN"
        raise InputError(f"source: {name} needs a Hugging Face token; {accept}, {login}")
    arguments: dict[str, Any] = {"split": "train", "streaming": True, "token": token}
    if not source.startswith("the-stack-v2"):
        folder = language.lower()
        arguments["data_dir"] = folder if source == "starcoderdata" else f"data/{folder}"
    elif not source.endswith("-ids"):
        arguments["name"] = language
    try:
        if path and (files := _local_tables(path, arguments)):
            v2 = source.startswith("the-stack-v2")
            columns, needed = (STACK_V2_COLUMNS, ("blob_id", "files")) if v2 else (STACK_COLUMNS, ("content",))
            yield from (row for _, _, row in parquet_rows(files, columns, needed, start))
        else:
            yield from datasets.load_dataset(name, **arguments).skip(start)
    except InputError:
        raise
    except (GatedRepoError, DatasetNotFoundError) as error:
        if isinstance(error, GatedRepoError) or "gated" in str(error):
            raise InputError(f"source: {name}: your token has no access; {accept}") from None
        raise InputError(f"source: {name}: no such data set ({first_line(error)[:120]})") from None
    except (TypeError, datasets.exceptions.DatasetGenerationError) as error:
        shards = "its shards differ in a column; download them, and give their folder as path: each is read by itself"
        raise InputError(f"source: {name}: {shards} ({first_line(error)[:120]})") from None
    except (FileNotFoundError, NotADirectoryError, DataFilesNotFoundError, ValueError) as error:
        problem = f"no {language} data there ({first_line(error)[:120]})"
        raise InputError(f"source: {name}: {problem}; check path and language") from None
    except HfHubHTTPError as error:
        if error.response is not None and error.response.status_code in (401, 403):
            raise InputError(f"source: {name}: the token was refused; {accept} and log in again") from None
        raise


def _local_tables(path: str, arguments: dict[str, Any]) -> list[Path]:
    """Return the Parquet files of a local copy's training split; none if it is made of other files too.

    They are read here: ``datasets`` takes the types of all from the first, so a column of nulls there, or another
    column in a later shard, would be an error.
    """
    import datasets

    options = {name: value for name, value in arguments.items() if name in ("data_dir", "name")}
    files = datasets.load_dataset_builder(path, **options).config.data_files["train"]
    return [Path(file) for file in files] if all(file.endswith(".parquet") for file in files) else []


def check_on_hub(name: str) -> None:
    """Raise InputError where the Hub cannot be reached or has no data set of this name; its README alone is read."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        snapshot_download(name, repo_type="dataset", allow_patterns=["README.md"])
    except (OSError, HfHubHTTPError, ValueError) as error:
        problem = f"the hub does not give {name} ({first_line(error)})"
        raise InputError(f"path: {problem}; name a copy on this machine") from None
