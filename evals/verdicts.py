"""Judging with a memory: verdicts are kept by what was run, so nothing is run twice."""

import hashlib
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from evals.sandbox.pool import MEMORY_BYTES, OUTPUT_BYTES, Program, Sandbox, Script, Verdict
from llama_scale.errors import InputError


@dataclass(frozen=True)
class ExecutionConfig:
    """How programs are run.

    Args:
        workers: Programs run at a time; null is one for each CPU.
        cache: File that verdicts are kept in; null is next to the results.
        allow_unsandboxed: Run programs even where this machine permits no sandbox.
    """

    workers: int | None = None
    cache: str | None = None
    allow_unsandboxed: bool = False

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise InputError(f"execution.workers: expected at least 1, found {self.workers}")


@dataclass
class Execution:
    """A sandbox, opened when first needed, and the verdicts that it gave.

    ``cache`` is a JSONL file that a row is added to as each program ends: a run that was killed
    goes on where it was. ``folder`` keeps completions in the same way, drawn by the model that
    ``identity`` stands for. ``contamination`` is {suite: {task_id: files of the training data}}.
    """

    config: ExecutionConfig = field(default_factory=ExecutionConfig)
    cache: Path | None = None
    folder: Path | None = None
    identity: str = ""
    contamination: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    _sandbox: Sandbox | None = None

    def __enter__(self) -> "Execution":
        return self

    def __exit__(self, *_: object) -> None:
        if self._sandbox:
            self._sandbox.__exit__()
            self._sandbox = None

    @property
    def sandbox(self) -> Sandbox:
        """The sandbox; its self-test has passed."""
        if self._sandbox is None:
            self._sandbox = Sandbox(self.config.workers, self.config.allow_unsandboxed)
        return self._sandbox

    def describe(self) -> dict[str, Any]:
        """Return the level that programs run under and what it holds."""
        return self.sandbox.describe()

    def judge(
        self, programs: Sequence[Program | Script], timeout: float, title: str
    ) -> list[Verdict]:
        """Return the verdict of each program; each distinct one is run once."""
        limits = [timeout, MEMORY_BYTES, OUTPUT_BYTES, self.sandbox.level]
        keys = [digest(program, limits) for program in programs]
        known = self._known()
        queue = {key: p for key, p in zip(keys, programs, strict=True) if key not in known}
        ran, fresh = self.sandbox.run_any(list(queue.values()), timeout), list(queue)
        for number, verdict in tqdm(
            ran, f"{title} programs", len(queue), disable=None, leave=False
        ):
            known[fresh[number]] = verdict
            self._keep(fresh[number], verdict)
        return [known[key] for key in keys]

    def _known(self) -> dict[str, Verdict]:
        """Read the cache."""
        found = {}
        for row in read_rows(self.cache):
            with suppress(TypeError, KeyError):
                key = row.pop("key")
                found[key] = Verdict(**row)
        return found

    def _keep(self, key: str, verdict: Verdict) -> None:
        if self.cache and verdict.reason != "sandbox lost":
            append_row(self.cache, {"key": key} | asdict(verdict))

    def _completions(self, suite: str) -> Path | None:
        return self.folder / f"{suite}-completions.jsonl" if self.folder else None

    def completions(self, suite: str, key: str) -> list[dict[str, Any]]:
        """Return the completions that a stopped run drew with these settings, and begin anew.

        ``key`` stands for the settings beside ``identity``.
        """
        path, head = self._completions(suite), {"settings": digest_text([self.identity, key])}
        rows = read_rows(path)
        if rows[:1] == [head]:
            distinct = {(row["task"], row["sample"]): row for row in rows[1:]}
            return list(distinct.values())
        if path:
            path.unlink(missing_ok=True)
            append_row(path, head)
        return []

    def keep_completion(self, suite: str, row: dict[str, Any]) -> None:
        """Keep a completion, in case this run is stopped."""
        if path := self._completions(suite):
            append_row(path, row)

    def finish(self, suite: str) -> None:
        """Forget the completions of a suite whose result is written."""
        if path := self._completions(suite):
            path.unlink(missing_ok=True)


def read_rows(path: Path | None) -> list[dict[str, Any]]:
    """Read a file of JSON rows, if it is there; rows torn by a kill are left out."""
    rows = []
    if path and path.exists():
        for line in path.read_bytes().splitlines():
            with suppress(ValueError):
                row = json.loads(line)
                rows += [row] if isinstance(row, dict) else []
    return rows


def append_row(path: Path, row: dict[str, Any]) -> None:
    """Add a row at once; a leading line end closes one that was torn."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(handle, f"\n{json.dumps(row)}\n".encode())
    finally:
        os.close(handle)


def digest_text(value: Any) -> str:
    """Return the hash of what can be written as JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def digest(program: Program | Script, limits: Sequence[Any]) -> str:
    """Return the hash of a program, its tests and the limits that it runs under."""
    return digest_text([type(program).__name__, asdict(program), list(limits)])
