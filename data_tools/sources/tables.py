"""Rows of Parquet files, shard by shard: each by its own schema, of which only known columns are read."""

import sys
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from llama_scale.errors import InputError
from llama_scale.files import check_regular

BATCH_ROWS = 256


def parquet_rows(
    files: Sequence[Path], columns: Collection[str], needed: Collection[str], start: int = 0
) -> Iterator[tuple[Path, int, dict[str, Any]]]:
    """Yield file, number in it (from 1) and fields of each row, from the one numbered ``start`` of all on.

    Shards may differ: of each the ``columns`` that it has are read, and a line says which others came or went. A column
    of nulls alone is one of nothing. Each shard must have one of the columns ``needed``.

    Raises:
        InputError: A file is no Parquet or damaged, or lacks what is needed; it names the file and the column.
    """
    import pyarrow
    from pyarrow import parquet

    earlier: set[str] | None = None
    for file in files:
        try:
            check_regular(file)
            table = parquet.ParquetFile(file)
            names = table.schema_arrow.names
            if not {*names} & {*needed}:
                found = f"no column {' or '.join(map(repr, needed))}; it has {', '.join(names[:12])}"
                raise InputError(f"path: {file}: {found}")
            if earlier is not None and (changed := sorted(earlier ^ {*names})):
                which = "lacks" if changed[0] in earlier else "has"
                print(f"{file}: {which} the column {changed[0]!r}, unlike {files[0]}", file=sys.stderr)
            earlier, number = {*names}, 0
            read = [name for name in names if name in columns]
            for batch in table.iter_batches(BATCH_ROWS, columns=read) if start < table.metadata.num_rows else ():
                rows = batch.to_pylist() if number + batch.num_rows > start else [None] * batch.num_rows
                for row in rows:
                    number += 1
                    if number > start and row is not None:
                        yield file, number, row
            start = max(0, start - table.metadata.num_rows)
        except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
            reason = " ".join(str(error).split())[:100]
            raise InputError(f"path: {file}: not a Parquet file, or damaged ({reason})") from None
