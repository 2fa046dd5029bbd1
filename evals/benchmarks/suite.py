"""What every programming benchmark is made of: settings, tasks, a suite. Needs no torch, as all beside it."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Self

from evals.sandbox.types import Program, Script, Verdict
from llama_scale.errors import InputError
from llama_scale.generation.config import SamplingConfig


@dataclass(frozen=True)
class CodeConfig:
    """Settings that every suite of programming tasks has.

    Args:
        n_tasks: Tasks that completions are sampled for, evenly spread; null is all.
        n_samples: Completions of each task.
        gold_tasks: Tasks whose reference solution is scored, evenly spread; null is all.
        k: Values of pass@k; those above n_samples are left out.
        sampling: How completions are drawn; no stop strings means those of the profile.
        batch_size: Completions decoded together.
        timeout: CPU seconds of one program.
    """

    suite: ClassVar[str]

    n_tasks: int | None = None
    n_samples: int = 1
    gold_tasks: int | None = None
    k: tuple[int, ...] = (1, 10, 100)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    batch_size: int = 64
    timeout: float = 3.0

    def __post_init__(self) -> None:
        for name in ("n_tasks", "n_samples", "gold_tasks", "batch_size", "timeout"):
            self.check(name, getattr(self, name) is None or getattr(self, name) > 0)
        self.check("k", all(k > 0 for k in self.k))
        if self.n_samples > 1 and self.sampling.temperature == 0:
            found = f"{self.n_samples} samples at temperature 0 are all equal"
            raise InputError(f"{self.suite}.n_samples: {found}; use 1, or a temperature")

    @property
    def local_data(self) -> Path | None:
        """The file or folder that the tasks are read from; None if they need no path."""
        return None

    @property
    def file_name(self) -> str:
        """The stem of result files."""
        return self.suite

    def check(self, name: str, holds: bool, expected: str = "more than 0") -> None:
        """Raise InputError on the setting ``name`` unless what is ``expected`` of it ``holds``."""
        if not holds:
            raise InputError(f"{self.suite}.{name}: expected {expected}, found {getattr(self, name)}")

    def with_stops(self, stops: tuple[str, ...]) -> Self:
        """Return these settings with the stop strings ``stops`` where they have none."""
        return replace(self, sampling=replace(self.sampling, stop=self.sampling.stop or stops))


@dataclass(frozen=True)
class Task:
    """One task: what the model continues, and how a completion becomes programs and a verdict.

    ``programs(completion)`` are run, and ``combine`` makes one verdict of theirs. ``reference`` is the published
    solution as a completion of ``prompt``, if there is one. ``label`` says what is special about its judging.
    ``source(completion)`` is the text that must parse in the ``language``, where a parser of its own is asked.
    ``problem`` is the task as its benchmark published it, all tests included.
    """

    task_id: str
    prompt: str
    programs: Callable[[str], Sequence[Program | Script]]
    reference: str | None = None
    label: str = ""
    combine: Callable[[Sequence[Verdict]], Verdict] = lambda verdicts: verdicts[0]
    language: str = "python"
    source: Callable[[str], str] | None = None
    problem: Any = None


@dataclass(frozen=True)
class Suite:
    """Tasks that have been read, their settings, and what a result says ``about`` how they are asked and judged."""

    config: CodeConfig
    tasks: Sequence[Task]
    about: dict[str, Any]

    def __post_init__(self) -> None:
        counts = Counter(task.task_id for task in self.tasks)
        if twice := [name for name, count in counts.items() if count > 1]:
            found = f"{len(twice)} tasks are there twice, {twice[0]} first"
            raise InputError(f"{self.name}.data: {found}; samples are told apart by the names of tasks: give each once")
        total = len(self.tasks)
        for name in ("n_tasks", "gold_tasks"):
            self.config.check(name, (getattr(self.config, name) or 1) <= total, f"1 to {total}")

    @property
    def name(self) -> str:
        """The suite's name on the command line."""
        return self.config.suite
