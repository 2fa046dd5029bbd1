"""The journal of a run: every prompt, program and word, closed before a hidden test is run; then sealed with verdicts.

Every figure is computed from the sealed rows alone (figures.py).
"""

import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evals.benchmarks.rows import shown
from evals.repair.backends.protocol import Message
from evals.repair.split import Split
from evals.sandbox.types import SANDBOX_LOST
from evals.verdicts import Execution
from llama_scale.errors import InputError
from llama_scale.files import atomic_write, read_jsonl, sha256

FORMAT = "llama_scale.repair.v1"
SEALED = "llama_scale.repair-sealed.v1"
Row = dict[str, Any]
HEAD = {"suite": str, "visible": int, "timeout": (int, float), "isolation": str, "journal_sha256": str}
STEP = dict.fromkeys(("arm", "task_id", "program", "reason", "renamed", "critic", "feedback", "refused"), str)
STEP |= dict.fromkeys(("number", "sample", "round", "held", "tests"), int)
STEP |= dict.fromkeys(("parses", "passed", "taken", "solved", "prompt_truncated"), bool)
COUNTS = ("repeat_of", "prompt_tokens", "tokens", "critic_prompt_tokens", "critic_tokens")  # or null


def write_rows(path: Path, head: Row, rows: Sequence[Row]) -> None:
    """Write a head and rows as gzipped JSON lines; equal content gives equal bytes."""
    lines = "".join(f"{json.dumps(row)}\n" for row in (head, *rows))
    with atomic_write(path, "wb") as file:
        file.write(gzip.compress(lines.encode(), mtime=0))


def read_rows(path: Path, kind: str) -> tuple[Row, list[Row]]:
    """Return the head and the rows of a file of this ``kind``; raise InputError if it is none."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; run launch/repair.py first")
    rows = read_jsonl(path, whole=True)
    if not rows or not isinstance(rows[0], dict) or rows[0].get("format") != kind:
        raise InputError(f"{path}: not {kind}; give a file that launch/repair.py wrote")
    if kind == SEALED:
        check_sealed(path, rows[0], rows[1:])
    return rows[0], rows[1:]


def check_sealed(path: Path, head: Row, rows: Sequence[Row]) -> None:
    """Raise InputError where sealed rows lack what figures are computed from."""
    plan = head.get("plan")
    planned = isinstance(plan, dict) and type(plan.get("rounds")) is int and type(head.get("select")) is str
    if not rows or not (head.get("replay_sha256") or planned):
        found = "there are no steps" if not rows else "its head names no plan"
        raise InputError(f"{path}: {found}; give a file that launch/repair.py wrote")
    for line, row in enumerate((head, *rows), 1):
        fields = row if isinstance(row, dict) else {}
        kinds = HEAD if line == 1 else STEP
        wrong = [name for name, kind in kinds.items() if not isinstance(fields.get(name), kind)]
        wrong += [name for name in COUNTS if line > 1 and not isinstance(fields.get(name, ""), int | None)]
        if wrong:
            problem = f"field {wrong[0]!r} is {shown(fields.get(wrong[0], 'missing'))}"
            raise InputError(f"{path}: line {line}: {problem}; give a file that launch/repair.py wrote")


def write_journal(path: Path, about: Row, rows: Sequence[Row]) -> None:
    """Write the steps of a run, before anything hidden was run."""
    write_rows(path, {"format": FORMAT} | about, rows)


def write_prompts(path: Path, prompts: Mapping[str, Sequence[Message]]) -> None:
    """Write the messages of each prompt, by its hash."""
    rows = [
        {"prompt": name, "messages": [{"role": m.role, "content": m.content} for m in sent]}
        for name, sent in sorted(prompts.items())
    ]
    write_rows(path, {"format": f"{FORMAT}.prompts"}, rows)


def seal(journal: Path, sealed: Path, splits: Sequence[Split], execution: Execution, timeout: float) -> None:
    """Judge every program of a closed journal with all tests of its task, and write the rows with what came out.

    Nothing is kept of what programs say meanwhile: they could repeat the tests.

    ``solved`` is the suite's own verdict, ``sealed_reason`` its reason; ``shown_not_solved`` that a program holds the
    visible tests and not all.
    """
    head, rows = read_rows(journal, FORMAT)
    by_number = {split.shown.number: split for split in splits}
    groups = [by_number[row["number"]].hidden(row["program"]) for row in rows]
    programs = [program for group in groups for program in group]
    verdicts = iter(execution.judge(programs, timeout, "hidden tests", silent=True))
    for row, group in zip(rows, groups, strict=True):
        found = [next(verdicts) for _ in group]
        if any(verdict.reason == SANDBOX_LOST for verdict in found):
            raise InputError("sandbox: a program was lost with its sandbox; the same command goes on from here")
        verdict = by_number[row["number"]].combine(found) if found else None
        row["solved"] = bool(verdict and verdict.passed)
        row["sealed_reason"] = verdict.reason if verdict else "no tests"
        row["shown_not_solved"] = row["passed"] and not row["solved"]
    write_rows(sealed, head | {"format": SEALED, "journal_sha256": sha256(journal)}, rows)
