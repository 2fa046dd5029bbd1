"""Judging with a memory: verdicts are kept by what was run, so nothing is run twice."""

import builtins
import hashlib
import json
import platform
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from evals.contamination import Contamination
from evals.journal import append_row, journal_rows, read_journal
from evals.models.request import Completion
from evals.sandbox.pool import Sandbox
from evals.sandbox.types import JUDGE_VERSION, NOT_MEASURED, SANDBOX_LOST, Program, Script, Verdict
from evals.sandbox.worker import KEPT, MEMORY_BYTES, OUTPUT_BYTES
from llama_scale.errors import at_least_1, check_fields

OF_THE_MACHINE = (SANDBOX_LOST, NOT_MEASURED)  # not kept: it may have the language another time
ROW_BYTES = 16 << 10  # of a kept verdict: a character of the output takes at most 12; longer rows are of before


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
        check_fields(self, "at least 1", at_least_1, "workers", "execution.")


@dataclass
class Execution:
    """A sandbox, opened when first needed, and the verdicts that it gave.

    ``cache`` is a JSONL file that a row is added to as each program ends: a run that was killed goes on where it was.
    ``folder`` keeps completions in the same way, drawn by the model that ``identity`` stands for. ``contamination`` are
    the tasks that the training data's sources held.
    """

    config: ExecutionConfig = field(default_factory=ExecutionConfig)
    cache: Path | None = None
    folder: Path | None = None
    identity: str = ""
    contamination: Contamination = field(default_factory=dict)
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
        self._sandbox = self._sandbox or Sandbox(self.config.workers, self.config.allow_unsandboxed)
        return self._sandbox

    def judge(
        self, programs: Sequence[Program | Script], timeout: float, title: str, silent: bool = False
    ) -> list[Verdict]:
        """Return the verdict of each program; each distinct one is run once.

        ``silent`` keeps nothing that a program can choose the words of, which may be those of its tests: no output, and
        of an exception that is not built in no name.
        """
        limits = [timeout, MEMORY_BYTES, OUTPUT_BYTES, self.sandbox.level, JUDGE_VERSION, platform.python_version()]
        limits += ["silent"] * silent
        keys = [digest(program, limits) for program in programs]
        verdicts = self._earlier(set(keys))
        new = {key: p for key, p in zip(keys, programs, strict=True) if key not in verdicts}
        new_keys = list(new)
        judged = self.sandbox.run_any(list(new.values()), timeout)
        for number, verdict in tqdm(judged, f"{title} programs", len(new), disable=None, leave=False):
            verdict = silenced(verdict) if silent else replace(verdict, output=verdict.output[:KEPT])
            verdicts[new_keys[number]] = verdict
            if self.cache and verdict.reason not in OF_THE_MACHINE:
                append_row(self.cache, {"key": new_keys[number]} | asdict(verdict))
        return [verdicts[key] for key in keys]

    def _earlier(self, keys: set[str]) -> dict[str, Verdict]:
        """Return the verdicts that are kept of the programs ``keys``."""
        verdicts = {}
        for row in journal_rows(self.cache, ROW_BYTES, keys=keys):
            with suppress(TypeError):  # what is no verdict is passed over
                key = row.pop("key")
                verdicts[key] = Verdict(**row)
        return verdicts

    def _completions_path(self, suite: str) -> Path | None:
        return self.folder / f"{suite}-completions.jsonl" if self.folder else None

    def completions(self, suite: str, key: str) -> list[Completion]:
        """Return what a stopped run drew with ``identity`` and the other settings, ``key``; else begin anew."""
        path, head = self._completions_path(suite), {"settings": digest_text([self.identity, key])}
        rows = read_journal(path)
        if rows[:1] == [head]:
            # A task half drawn when a run was stopped was drawn again: its rows stand twice.
            distinct = {}
            for row in rows[1:]:
                with suppress(TypeError, KeyError):  # what is no completion is passed over
                    distinct[row["task"], row["sample"]] = Completion(**row)
            return list(distinct.values())
        if path:
            path.unlink(missing_ok=True)
            append_row(path, head)
        return []

    def keep_completion(self, suite: str, completion: Completion) -> None:
        """Write down a completion, in case this run is stopped."""
        if path := self._completions_path(suite):
            append_row(path, asdict(completion))

    def finish(self, suite: str) -> None:
        """Forget the completions of a suite whose result is written."""
        if path := self._completions_path(suite):
            path.unlink(missing_ok=True)


def silenced(verdict: Verdict) -> Verdict:
    """Return a verdict without what its program chose the words of."""
    name = verdict.reason.removeprefix("raised ")
    own = name != verdict.reason and not hasattr(builtins, name)
    reason = "raised an exception of its own" if own else verdict.reason
    return replace(verdict, output="", failures=(), reason=reason)


def digest_text(value: Any) -> str:
    """Return the hash of what can be written as JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def digest(program: Program | Script, limits: Sequence[Any]) -> str:
    """Return the hash of a program, its tests and the limits that it runs under."""
    fields = asdict(program)
    for name in ("explain", "methods"):  # without them the hash is that of before
        if not fields.get(name):
            fields.pop(name, None)
    return digest_text([type(program).__name__, fields, list(limits)])
