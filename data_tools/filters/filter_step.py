"""The filter step: every document judged by its content, by several processes."""

import functools
from array import array
from collections.abc import Callable
from pathlib import Path

import numpy as np

from data_tools.corpus.corpus import Corpus, add_example, count_file, document_sizes, map_batches, read_contents
from data_tools.corpus.line_overlap import LENGTHS, LINES, line_hashes
from data_tools.corpus.records import Record, write_array
from data_tools.filters import rules
from llama_scale.files import open_file

SAMPLED_ABOVE = 1 << 29  # bytes of source above which only some lines are compared


def filter_corpus(collected: Corpus, must_parse: bool, map_: Callable) -> tuple[np.ndarray, dict[str, dict]]:
    """Filter a corpus by content and write the hashes of the kept files' lines beside it.

    Returns:
        Positions in ``collected.records`` of what is kept, (K,) int64; and ``dropped``: reason ->
        {"files", "bytes"} of all that was left out so far, ``examples``: reason -> a few of them.
    """
    dropped = {reason: dict(row) for reason, row in collected.dropped.items()}
    examples = {reason: list(names) for reason, names in collected.examples.items()}
    n_bytes = int(document_sizes(collected.records).sum())
    # Lines are sampled by their hash, so that equal lines are all taken or all left: 1 in 1 up to
    # half a GiB of source, 1 in 2 up to a GiB, 1 in 4 up to 2 GiB, and so on.
    keep_one_in = 1 << max(0, (n_bytes // SAMPLED_ABOVE).bit_length())
    task = functools.partial(filter_batch, collected.folder, must_parse, keep_one_in)
    results = map_batches(task, collected.records, map_, "filtering")
    verdicts = (verdict for rows in results for verdict in rows)
    kept, lengths = array("q"), array("q")
    with open_file(collected.folder / LINES, "wb") as file:
        for i, (record, (reason, lines)) in enumerate(zip(collected.records, verdicts, strict=True)):
            if reason:
                count_file(dropped, reason, record.size)
                add_example(examples, reason, record)
            else:
                kept.append(i)
                lengths.append(len(lines))
                file.write(lines.tobytes())
    write_array(collected.folder / LENGTHS, np.array(lengths, dtype=np.int64))
    return np.array(kept, dtype=np.int64), {"dropped": dropped, "examples": examples}


def filter_batch(
    folder: Path, must_parse: bool, keep_one_in: int, batch: list[Record]
) -> list[tuple[str | None, np.ndarray | None]]:
    """Return for each document why it is left out, or None and the hashes of its lines."""
    rows = []
    for content in read_contents(folder, batch):
        reason, lines = rules.content_rejection(content), None
        if reason is None and must_parse and not rules.parses(content):
            reason = "does_not_parse"
        if reason is None:
            lines = line_hashes(content)
            lines = lines[lines % np.uint32(keep_one_in) == 0]
        rows.append((reason, lines))
    return rows
