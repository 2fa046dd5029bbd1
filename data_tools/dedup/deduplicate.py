"""The dedup step: exact duplicates go, then near ones, each counted and named."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from data_tools.corpus.corpus import add_example, count_file
from data_tools.corpus.records import Records
from data_tools.dedup.exact import exact_survivors
from data_tools.dedup.near import near_duplicates
from llama_scale.files import atomic_write

NEAR = "near.jsonl"


def deduplicate(
    records: Records, losses: dict[str, dict], remove_near: bool, work: Path, map_: Callable
) -> tuple[np.ndarray, dict[str, dict]]:
    """Remove exact and, with ``remove_near``, near duplicates from what passed the filters.

    ``work`` is the folder of contents.bin, where near.jsonl goes: what went for a likeness and to what.

    Returns:
        Positions in ``records`` of what is left, and ``losses`` (``dropped`` and ``examples`` so far) with these added.
    """
    survivors = exact_survivors(records)
    unique = records.take(survivors)
    removed = near_duplicates(work, unique, map_) if remove_near else {}
    copies = np.setdiff1d(np.arange(len(records)), survivors, assume_unique=True)
    for record in records.take(copies):
        count_file(losses["dropped"], "duplicate", record.size)
        add_example(losses["examples"], "duplicate", record)
    with atomic_write(work / NEAR) as file:
        for i, row in sorted(removed.items()):
            record, like = unique[i], unique[row["like"]]
            count_file(losses["dropped"], "near_duplicate", record.size)
            add_example(losses["examples"], "near_duplicate", record)
            file.write(json.dumps({
                "package": record.package, "path": record.path,
                "like": f"{like.package}: {like.path}", "jaccard": round(row["jaccard"], 4),
            }) + "\n")  # fmt: skip
    return np.delete(survivors, sorted(removed)), losses
