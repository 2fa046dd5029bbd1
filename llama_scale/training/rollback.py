"""Batches that a run leaves out, and the documents in them: skipped.jsonl of the run folder.

A row is one return to an earlier checkpoint: from_step is that checkpoint's step, or the one where
the run began (0, a branch at its parent's step), and batches are the numbers left out from then
on. The order of batches stays a function of the seed and this list.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from llama_scale.checkpoint import folder as checkpoint
from llama_scale.data.documents import has_documents, read_documents
from llama_scale.data.loader import TokenWindows, batch_number
from llama_scale.data.shards import Tokens
from llama_scale.errors import InputError
from llama_scale.files import atomic_write, read_jsonl
from llama_scale.training.recipe import Recipe

FILE = "skipped.jsonl"
TRIES = 3  # returns to one step


def read_rollbacks(run: Path) -> list[dict[str, Any]]:
    """Return the rows of a run's skipped.jsonl, oldest first."""
    path = run / FILE
    return read_jsonl(path) if path.exists() else []


def left_out(rollbacks: list[dict[str, Any]], before: Iterable[int] = ()) -> list[int]:
    """Return the batch numbers left out, ascending, with those left out ``before`` a branch."""
    return sorted({number for row in rollbacks for number in row["batches"]} | set(before))


def precedes(meta: dict[str, Any], rollbacks: list[dict[str, Any]]) -> bool:
    """Whether the checkpoint of ``meta`` lies on the path that the rollbacks left standing."""
    later = rollbacks[meta.get("rollbacks", 0) :]
    return all(meta["step"] <= row["from_step"] for row in later)


def roll_back(
    run: Path, windows: TokenWindows, recipe: Recipe, first: int, last: int
) -> dict[str, Any]:
    """Record that steps ``first`` to ``last`` (from 1) were skipped, and undo what followed.

    The run continues from the newest checkpoint that is as many steps older than ``first`` as
    were skipped. skipped.jsonl is replaced in one move; newer checkpoints are deleted when the run
    continues. Returns the row.
    """
    rollbacks = read_rollbacks(run)
    skipped = left_out(rollbacks, recipe.skipped)
    batches = [batch_number(step, skipped) for step in range(first - 1, last)]
    limit = first - len(batches)
    steps = [
        checkpoint.load_meta(folder)["step"]
        for folder in checkpoint.valid(run)
        if precedes(checkpoint.load_meta(folder), rollbacks)
    ]
    start = max((step for step in steps if step <= limit), default=recipe.first_step)
    samples = np.concatenate([np.arange(n * recipe.batch, (n + 1) * recipe.batch) for n in batches])
    row = {
        "from_step": start,
        "first_step": first,
        "last_step": last,
        "batches": batches,
        "documents": documents_in(windows, samples),
    }
    with atomic_write(run / FILE) as file:
        for item in [*rollbacks, row]:
            file.write(json.dumps(item) + "\n")
    return row


def check_rollbacks(run: Path) -> None:
    """Raise InputError if the run went back to one step TRIES times and has to go there again."""
    rollbacks = read_rollbacks(run)
    same = [row for row in rollbacks if row["from_step"] == rollbacks[-1]["from_step"]]
    if len(same) > TRIES:
        row, count = rollbacks[-1], sum(len(row["batches"]) for row in same)
        raise InputError(
            f"{run}: steps {row['first_step']} to {row['last_step']} had to be skipped again after "
            f"going back to step {row['from_step']} {TRIES} times; {count} batches are left out "
            "(skipped.jsonl) and the loss is still not finite or far too high; start another --run "
            "with a lower --optim.lr, a longer --optim.warmup_steps or a lower --optim.grad_clip"
        )


def drop_undone(run: Path) -> None:
    """Delete the checkpoints that a rollback left behind."""
    rollbacks = read_rollbacks(run)
    for folder in checkpoint.valid(run) if rollbacks else []:
        if not precedes(checkpoint.load_meta(folder), rollbacks):
            checkpoint.discard(folder)


def documents_in(windows: TokenWindows, samples: np.ndarray) -> list[dict[str, Any]] | None:
    """Return the documents that the samples read from, or None where the build lists none.

    Each is its row number in documents.jsonl.gz with package, path and sha256.
    """
    folder, split = windows.tokens.folder, windows.tokens.split
    if not has_documents(folder):
        return None
    rows = [(i, row) for i, row in enumerate(read_documents(folder)) if row["split"] == split]
    starts = _starts(windows.tokens, [row for _, row in rows])  # (documents,)
    found: set[int] = set()
    for start in windows.starts(samples):
        first, last = np.searchsorted(starts, [start, start + windows.context_length], side="right")
        found.update(range(max(0, first - 1), last))
    return [
        {"document": rows[i][0]} | {k: rows[i][1].get(k) for k in ("package", "path", "sha256")}
        for i in sorted(found)
    ]


def _starts(tokens: Tokens, rows: list[dict[str, Any]]) -> np.ndarray:
    """Return the position of each document's first token in the joined shards."""
    offsets = [0, *tokens.ends.tolist()]
    return np.array([offsets[row["shard"]] + row["start"] for row in rows], dtype=np.int64)
