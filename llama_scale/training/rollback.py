"""Batches that a run leaves out, and the documents in them: skipped.jsonl of the run folder.

A row is one rollback, a return to an earlier checkpoint: from_step is that checkpoint's step, or the one where the run
began (0, a branch at its parent's step), and batches are the numbers left out from then on. The order of batches stays
a function of the seed and this list.
"""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from llama_scale.checkpoint import folder as checkpoint
from llama_scale.data.documents import has_documents, read_documents
from llama_scale.data.loader import TokenWindows, batch_number
from llama_scale.errors import TrainingDiverged
from llama_scale.files import atomic_write, read_jsonl, seal, unseal
from llama_scale.training.recipe import Recipe

FILE = "skipped.jsonl"
MAX_ROLLBACKS = 3  # to one step
DocumentsOf = Callable[[list[int]], list[dict[str, Any]] | None]  # batch numbers -> what was in them, if that is known


def read_rollbacks(run: Path) -> list[dict[str, Any]]:
    """Return the rows of a run's skipped.jsonl, oldest first."""
    path = run / FILE
    return (
        [unseal(row, str(path)) for row in read_jsonl(path, required=["from_step", "batches"])] if path.exists() else []
    )


def skipped_batches(rollbacks: list[dict[str, Any]], before: Iterable[int] = ()) -> list[int]:
    """Return the batch numbers left out, ascending, with those left out ``before`` a branch."""
    return sorted({number for row in rollbacks for number in row["batches"]} | set(before))


def is_undone(meta: dict[str, Any], rollbacks: list[dict[str, Any]]) -> bool:
    """Whether a rollback went back behind the checkpoint of ``meta`` after it was written.

    A checkpoint counts the rollbacks before it. One of step 40 that counts none is undone by a first rollback to step
    30; one of step 40 that counts 1 was written on the way up from there.
    """
    later = rollbacks[meta.get("rollbacks", 0) :]
    return any(row["from_step"] < meta["step"] for row in later)


def newest_checkpoint(run: Path, rollbacks: list[dict[str, Any]]) -> Path | None:
    """Return the newest valid checkpoint of a run that no rollback undid, or None."""
    for folder in checkpoint.valid(run):
        if not is_undone(checkpoint.load_meta(folder), rollbacks):
            return folder
    return None


def record_rollback(run: Path, documents: DocumentsOf, recipe: Recipe, first: int, last: int) -> None:
    """Record that steps ``first`` to ``last`` (from 1) were skipped, and undo what followed.

    ``documents`` tells what was in the batches of given numbers.

    The run continues from the newest checkpoint that is as many steps older than ``first`` as were skipped: the weights
    of the steps just before may be spoiled already. skipped.jsonl is replaced in one move; newer checkpoints are
    deleted when the run continues.

    Example: of steps 101 to 104 each was skipped, checkpoints are at 80, 90 and 100 and no batch is left out yet. Step
    s (from 1) read batch s - 1, so batches 100 to 103 are left out. Four steps older than 101 is 97, so the run
    continues from step 90: steps 91 to 100 read batches 90 to 99 once more, and step 101 reads batch 104.
    """
    rollbacks = read_rollbacks(run)
    skipped = skipped_batches(rollbacks, recipe.skipped)
    batches = [batch_number(step, skipped) for step in range(first - 1, last)]
    latest = first - len(batches)
    metas = [checkpoint.load_meta(folder) for folder in checkpoint.valid(run)]
    steps = [meta["step"] for meta in metas if not is_undone(meta, rollbacks)]
    start = max((step for step in steps if step <= latest), default=recipe.first_step)
    row = {"from_step": start, "first_step": first, "last_step": last, "batches": batches}
    row["documents"] = documents(batches)
    with atomic_write(run / FILE) as file:
        file.writelines(json.dumps(seal(item)) + "\n" for item in [*rollbacks, row])


def last_rollback(run: Path) -> dict[str, Any]:
    """Return the row of the last rollback; raise TrainingDiverged if it is one more than MAX_ROLLBACKS to its step."""
    rollbacks = read_rollbacks(run)
    row = rollbacks[-1]
    same = [other for other in rollbacks if other["from_step"] == row["from_step"]]
    if len(same) > MAX_ROLLBACKS:
        count = sum(len(other["batches"]) for other in same)
        raise TrainingDiverged(
            f"{run}: steps {row['first_step']} to {row['last_step']} had to be skipped again after "
            f"going back to step {row['from_step']} {MAX_ROLLBACKS} times; {count} batches are "
            f"left out ({FILE}) and the loss is still not finite or far too high; start another "
            "run with a lower optim.lr, a longer optim.warmup_steps or a lower optim.grad_clip"
        )
    return row


def delete_undone(run: Path) -> None:
    """Delete the checkpoints that a rollback undid."""
    rollbacks = read_rollbacks(run)
    for folder in checkpoint.valid(run) if rollbacks else []:
        if is_undone(checkpoint.load_meta(folder), rollbacks):
            checkpoint.discard(folder)


def documents_in_batches(windows: TokenWindows, batch: int, numbers: list[int]) -> list[dict[str, Any]] | None:
    """Return the documents that the batches of these ``numbers``, of ``batch`` windows each, read from."""
    # Batch n is the samples n * batch to (n + 1) * batch - 1 of the run's order.
    return documents_of(windows, np.concatenate([np.arange(n * batch, (n + 1) * batch) for n in numbers]))


def documents_of(windows: TokenWindows, samples: np.ndarray) -> list[dict[str, Any]] | None:
    """Return the documents that ``samples`` (S,) read from, or None where the build lists none.

    Each is its row number in documents.jsonl.gz with package, path and sha256.
    """
    folder, split = windows.tokens.folder, windows.tokens.split
    if not has_documents(folder):
        return None
    rows = [(i, row) for i, row in enumerate(read_documents(folder)) if row["split"] == split]
    # Position (documents,) of each document's first token in the joined shards
    offsets = [0, *windows.tokens.ends.tolist()]
    starts = np.array([offsets[row["shard"]] + row["start"] for _, row in rows], dtype=np.int64)
    numbers: set[int] = set()
    for start in windows.starts(samples):
        # A window reads tokens start to start + context, both included. With documents that start at 0, 100 and 250,
        # the window 90 to 154 has 1 start at or before its first token and 2 at or before its last: it reads documents
        # 1 - 1 = 0 up to, but without, 2.
        ends = [start, start + windows.context_length]
        first, last = np.searchsorted(starts, ends, side="right")
        numbers.update(range(max(0, first - 1), last))
    found = [rows[i] for i in sorted(numbers)]
    return [{"document": i} | {k: row.get(k) for k in ("package", "path", "sha256")} for i, row in found]
