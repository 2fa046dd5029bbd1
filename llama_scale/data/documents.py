"""documents.jsonl.gz of a build: which document each stretch of its shards holds."""

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llama_scale.errors import InputError

DOCUMENTS = "documents.jsonl.gz"


def has_documents(folder: str | Path) -> bool:
    """Whether the build says where its documents are."""
    return (Path(folder) / DOCUMENTS).is_file()


def read_documents(folder: str | Path) -> Iterator[dict[str, Any]]:
    """Yield the documents of a build in the order of its tokens, one dictionary each.

    A document is ``tokens`` tokens from position ``start`` of shard number ``shard`` of ``split``; the rest says where
    it came from: package, path, license, sha256, bytes. One that packing cut has a row for each piece. Raises
    InputError if the file is missing or damaged; what comes before the damage is yielded first.
    """
    path = Path(folder) / DOCUMENTS
    if not path.is_file():
        raise InputError(f"{path}: no such file; run launch/prepare.py again")
    try:
        with gzip.open(path, "rb") as file:
            for line in file:
                yield json.loads(line)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise InputError(f"{path}: damaged ({error}); delete the folder and run launch/prepare.py again") from None
