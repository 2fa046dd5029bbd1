"""Programming tasks: sample completions, run them in the sandbox, count what passed."""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from tqdm import tqdm

from evals.metrics.pass_at_k import exact_interval, interval, pass_at_k
from evals.models.completion import Request, Source
from evals.sandbox.pool import NOT_MEASURED, Program, Script, Verdict
from evals.verdicts import Execution, digest_text
from llama_scale.errors import InputError
from llama_scale.generation.sampling import SamplingConfig


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
            raise InputError(
                f"{self.suite}.n_samples: {self.n_samples} samples at temperature 0 are all equal; "
                "use 1, or a temperature"
            )

    @property
    def local(self) -> Path | None:
        """The file or folder that the tasks are read from; None if they need no path."""
        return None

    def check(self, name: str, holds: bool, expected: str = "more than 0") -> None:
        """Raise InputError on the setting ``name`` unless what is expected of it ``holds``."""
        if not holds:
            found = getattr(self, name)
            raise InputError(f"{self.suite}.{name}: expected {expected}, found {found}")

    def stopping(self, stops: tuple[str, ...]) -> Self:
        """Return these settings with stop strings where they have none."""
        return replace(self, sampling=replace(self.sampling, stop=self.sampling.stop or stops))


@dataclass(frozen=True)
class Task:
    """One task: what the model continues, and how a completion becomes programs and a verdict.

    ``reference`` is the given solution as a completion of ``prompt``, if there is one. ``label``
    says what is special about how it is judged. ``grade`` makes one verdict of those of
    ``programs(completion)``.
    """

    task_id: str
    prompt: str
    programs: Callable[[str], Sequence[Program | Script]]
    reference: str | None = None
    label: str = ""
    grade: Callable[[Sequence[Verdict]], Verdict] = lambda verdicts: verdicts[0]


@dataclass(frozen=True)
class Suite:
    """Tasks that have been read, and the settings that they are run with.

    ``about`` says in the result how they are asked and judged.
    """

    config: CodeConfig
    tasks: Sequence[Task]
    about: dict[str, Any]

    def __post_init__(self) -> None:
        total = len(self.tasks)
        for name in ("n_tasks", "gold_tasks"):
            self.config.check(name, (getattr(self.config, name) or 1) <= total, f"1 to {total}")

    @property
    def name(self) -> str:
        """The suite's name on the command line."""
        return self.config.suite


def spread(count: int | None, total: int) -> list[int]:
    """Return ``count`` numbers evenly spread over 0 to ``total`` - 1; all if it is None."""
    count = total if count is None else min(count, total)
    return [i * total // count for i in range(count)]


def evaluate(
    suite: Suite, source: Source, execution: Execution
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Score the reference solutions, then draw and judge completions.

    Returns the result and a row for each completion.
    """
    execution.describe()  # a machine without a sandbox says so before anything is drawn
    references = gold(suite, source)
    result, samples = score(sample(suite, source, execution), suite, execution)
    stops = {"stops": list(suite.config.sampling.stop)}
    return suite.about | stops | references | result, samples


def gold(suite: Suite, source: Source) -> dict[str, Any]:
    """Score the reference solutions after their prompts, teacher-forced, where it can be done."""
    known = [task for task in suite.tasks if task.reference is not None]
    chosen = [known[i] for i in spread(suite.config.gold_tasks, len(known))]
    references = source.gold([(t.prompt, t.reference) for t in chosen]) if chosen else None
    if references is None:
        return {}
    total = references.total
    return {
        "gold_bits_per_byte": total.bits_per_byte,
        "gold_bits_per_byte_interval": interval(
            [task.bits_per_byte for task in references.tasks],
            weights=[task.bytes for task in references.tasks],
        ),
        "gold_tasks": len(references.tasks),
        "gold_tokens": total.tokens,
        "gold_bytes": total.bytes,
        "gold_prompts_cut": references.cut,
    }


def sample(suite: Suite, source: Source, execution: Execution) -> list[dict[str, Any]]:
    """Draw the completions: rows of task_id, sample, completion, ordered by task and sample.

    Those of a run that was stopped are taken from ``execution``; a task that it had begun is drawn
    again.
    """
    config, tasks = suite.config, suite.tasks
    prompts = {i: tasks[i].prompt for i in spread(config.n_tasks, len(tasks))}
    key = digest_text([suite.name, asdict(config), list(prompts.values())])
    rows = execution.completions(suite.name, key)
    done = Counter(row["task"] for row in rows)
    rows = [row for row in rows if done[row["task"]] == config.n_samples]
    left = {i: prompt for i, prompt in prompts.items() if done[i] != config.n_samples}
    if left:
        drawn = source.complete(Request(left, config.sampling, config.n_samples, config.batch_size))
        count = len(left) * config.n_samples
        for row in tqdm(drawn, f"{suite.name} samples", count, disable=None, leave=False):
            rows.append(row)
            execution.keep_completion(suite.name, row)
    rows.sort(key=lambda row: (row["task"], row["sample"]))
    return [
        {
            "task_id": tasks[row["task"]].task_id,
            "sample": row["sample"],
            "completion": row["text"],
            **{name: row[name] for name in ("tokens", "ended_by", "prompt_cut")},
        }
        for row in rows
    ]


def score(
    rows: Sequence[dict[str, Any]], suite: Suite, execution: Execution
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Judge completions (rows of task_id, completion); return the result and a row for each.

    The result counts the tasks of the suite and those that have samples, which the scores are of.
    Raises InputError on a task_id that the suite does not have.
    """
    known = {task.task_id: task for task in suite.tasks}
    for row in rows:
        if row["task_id"] not in known:
            first = suite.tasks[0].task_id
            raise InputError(f"{suite.name}: no task {row['task_id']!r}; the first is {first}")
    groups = [_programs(known[row["task_id"]], row) for row in rows]
    flat = [program for group in groups for program in group or ()]
    verdicts = iter(execution.judge(flat, suite.config.timeout, suite.name))
    flags = execution.contamination.get(suite.name, {})
    samples = []
    for row, group in zip(rows, groups, strict=True):
        task = known[row["task_id"]]
        verdict = _grade(task, group and [next(verdicts) for _ in group])
        found = {
            "passed": verdict.passed,
            "reason": verdict.reason,
            "parses": bool(row["completion"].strip()) and verdict.parses,
            "held": verdict.held,
            "tests": verdict.tests,
            "output": verdict.output[:1000],
        }
        found |= {"judged_by": task.label} if task.label else {}
        found |= {"contaminated_by": flags[task.task_id]} if task.task_id in flags else {}
        samples.append(row | found)
    counts = {"tasks_with_samples": len({r["task_id"] for r in rows}), "tasks_of_suite": len(known)}
    result = summarise(samples, suite.config.k, flags) | counts
    return result | {"isolation": execution.describe()}, samples


def _programs(task: Task, row: dict[str, Any]) -> Sequence[Program | Script] | None:
    """Return the programs of a completion; in another language it is a whole one of its own.

    None where the task's tests cannot call that language.
    """
    found, language = task.programs(row["completion"]), row.get("language", "python")
    if language == "python":
        return found
    if not all(isinstance(program, Script) for program in found):
        return None
    return [replace(one, source=row["completion"], language=language) for one in found]


def _grade(task: Task, verdicts: Sequence[Verdict] | None) -> Verdict:
    """Return one verdict on a completion of those on its programs."""
    if verdicts is None or any(verdict.reason == NOT_MEASURED for verdict in verdicts):
        return Verdict(False, NOT_MEASURED)
    return task.grade(verdicts) if verdicts else Verdict(False, "no tests")


def summarise(
    samples: Sequence[dict[str, Any]], ks: Sequence[int], flags: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what judged samples say together; those that were not measured are only counted.

    ``parse_rate`` is the share of completions that are not blank and parse after their prompt;
    ``tests_held`` the mean share of a task's assertions or cases that held; ``log_pass_rate`` the
    mean over tasks of ln((c + 1/2) / (n + 1)), finite at no pass. ``flags`` are the tasks that the
    training data's sources held.
    """
    measured = [s for s in samples if s["reason"] != NOT_MEASURED]
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for one in measured:
        counts[one["task_id"]][0] += 1
        counts[one["task_id"]][1] += one["passed"]
    result = rates(counts, ks) if measured else {"n_tasks": 0, "pass_at_k": {}}
    if measured:
        result["parse_rate"] = float(np.mean([s["parses"] for s in measured]))
        result["tests_held"] = float(np.mean([s["held"] / max(1, s["tests"]) for s in measured]))
    if unknown := len(samples) - len(measured):
        result["not_measured"] = unknown
    result |= {
        "prompts_cut": sum(s.get("prompt_cut", False) and s["sample"] == 0 for s in samples),
        "contaminated": sorted(name for name in counts if name in flags),
        "labelled": sorted({s["task_id"] for s in samples if "judged_by" in s}),
    }
    clean = {name: count for name, count in counts.items() if name not in flags}
    if flags and clean:
        result["pass_at_k_clean"] = rates(clean, ks)["pass_at_k"]
    return result


def rates(counts: dict[str, list[int]], ks: Sequence[int]) -> dict[str, Any]:
    """Return pass@k with its intervals for ``{task: [samples, passes]}``.

    Two intervals, both 95 % over tasks: bootstrapped, which has no width where all tasks agree,
    and Clopper-Pearson's, which stays honest at no pass.
    """
    least = min(n for n, _ in counts.values())
    result: dict[str, Any] = {
        "n_tasks": len(counts),
        "n_samples": least,
        "pass_at_k": {},
        "pass_at_k_interval": {},
        "pass_at_k_exact_interval": {},
    }
    for k in ks:
        if k <= least:
            values = [pass_at_k(n, c, k) for n, c in counts.values()]
            result["pass_at_k"][str(k)] = float(np.mean(values))
            result["pass_at_k_interval"][str(k)] = interval(values)
            result["pass_at_k_exact_interval"][str(k)] = exact_interval(sum(values), len(values))
    logs = [math.log((c + 0.5) / (n + 1)) for n, c in counts.values()]
    return result | {
        "log_pass_rate": float(np.mean(logs)),
        "log_pass_rate_interval": interval(logs),
    }
