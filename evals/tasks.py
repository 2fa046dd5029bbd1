"""Programming tasks: sample completions, run them in the sandbox, count what passed."""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from tqdm import tqdm

from evals.execution import Execution, digest_text
from evals.models import Source
from evals.passk import exact_interval, interval, pass_at_k
from evals.sandbox.pool import NOT_MEASURED, Program, Script, Verdict
from llama_scale.errors import UserError
from llama_scale.sampling import SamplingConfig

NO_PROGRAM: list[Script] = []  # of a completion in a language that the task's tests cannot call


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

    n_tasks: int | None = None
    n_samples: int = 1
    gold_tasks: int | None = None
    k: tuple[int, ...] = (1, 10, 100)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    batch_size: int = 64
    timeout: float = 3.0

    def check(self, suite: str, total: int) -> None:
        """Raise UserError on a setting that no task can be run with."""
        for name in ("n_tasks", "gold_tasks"):
            value = getattr(self, name)
            if value is not None and not 1 <= value <= total:
                raise UserError(f"{suite}.{name}: expected 1 to {total}, found {value}")
        for name in ("n_samples", "batch_size", "timeout"):
            if getattr(self, name) <= 0:
                raise UserError(
                    f"{suite}.{name}: expected more than 0, found {getattr(self, name)}"
                )
        if self.n_samples > 1 and self.sampling.temperature == 0:
            raise UserError(
                f"{suite}.n_samples: {self.n_samples} samples at temperature 0 are all equal; "
                "use 1, or a temperature"
            )


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


def spread(count: int | None, total: int) -> list[int]:
    """Return ``count`` numbers evenly spread over 0 to ``total`` - 1; all if it is None."""
    count = total if count is None else min(count, total)
    return [i * total // count for i in range(count)]


def sample(
    source: Source, tasks: Sequence[Task], config: CodeConfig, execution: Execution, suite: str
) -> list[dict[str, Any]]:
    """Draw the completions: rows of task_id, sample, completion, ordered by task and sample.

    Those of a run that was stopped are taken from ``execution``.
    """
    chosen = spread(config.n_tasks, len(tasks))
    key = digest_text([suite, asdict(config), [tasks[i].prompt for i in chosen]])
    rows = execution.completions(suite, key)
    done = Counter(row["task"] for row in rows)
    rows = [row for row in rows if done[row["task"]] == config.n_samples]
    left = [i for i in chosen if done[i] != config.n_samples]
    prompts = [tasks[i].prompt for i in left]
    if left:
        drawn = source.complete(prompts, config.sampling, config.n_samples, config.batch_size, left)
        count = len(left) * config.n_samples
        for row in tqdm(drawn, f"{suite} samples", count, disable=None, leave=False):
            rows.append(row)
            execution.keep_completion(suite, row)
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


def gold(source: Source, tasks: Sequence[Task], config: CodeConfig) -> dict[str, Any]:
    """Score the reference solutions after their prompts, teacher-forced, where it can be done."""
    known = [task for task in tasks if task.reference is not None]
    pairs = [(known[i].prompt, known[i].reference) for i in spread(config.gold_tasks, len(known))]
    references = source.gold(pairs) if pairs else None
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


def score(
    rows: Sequence[dict[str, Any]],
    tasks: Sequence[Task],
    config: CodeConfig,
    execution: Execution,
    suite: str,
) -> tuple[dict[str, Any], list[dict]]:
    """Judge completions (rows of task_id, completion); return the result and a row for each.

    ``parse_rate`` is the share of completions that are not blank and parse after their prompt;
    ``tests_held`` the mean share of a task's assertions or cases that held; ``log_pass_rate`` the
    mean over tasks of ln((c + 1/2) / (n + 1)), finite at no pass. Raises UserError on a task_id
    that the suite does not have.
    """
    known = {task.task_id: task for task in tasks}
    for row in rows:
        if row["task_id"] not in known:
            raise UserError(f"{suite}: no task {row['task_id']!r}; the first is {tasks[0].task_id}")
    groups = [_programs(known[row["task_id"]], row) for row in rows]
    flat = [program for group in groups for program in group]
    verdicts = iter(execution.judge(flat, config.timeout, suite))
    flags = execution.contamination.get(suite, {})
    samples, counts = [], defaultdict(lambda: [0, 0])
    for row, group in zip(rows, groups, strict=True):
        task = known[row["task_id"]]
        ran = [next(verdicts) for _ in group]
        if any(one.reason == NOT_MEASURED for one in ran) or group is NO_PROGRAM:
            verdict = Verdict(False, NOT_MEASURED)
        else:
            verdict = task.grade(ran) if ran else Verdict(False, "no tests")
            counts[task.task_id][0] += 1
            counts[task.task_id][1] += verdict.passed
        samples.append(
            row
            | {
                "passed": verdict.passed,
                "reason": verdict.reason,
                "parses": bool(row["completion"].strip()) and verdict.parses,
                "held": verdict.held,
                "tests": verdict.tests,
                "output": verdict.output[:1000],
            }
            | ({"judged_by": task.label} if task.label else {})
            | ({"contaminated_by": flags[task.task_id]} if task.task_id in flags else {})
        )
    measured = [s for s in samples if s["reason"] != NOT_MEASURED]
    result = rates(counts, config.k) if measured else {"n_tasks": 0, "pass_at_k": {}}
    if measured:
        result |= {
            "parse_rate": float(np.mean([s["parses"] for s in measured])),
            "tests_held": float(np.mean([s["held"] / max(1, s["tests"]) for s in measured])),
        }
    if unknown := len(samples) - len(measured):
        result["not_measured"] = unknown
    result |= {
        "prompts_cut": sum(s.get("prompt_cut", False) and s["sample"] == 0 for s in samples),
        "contaminated": sorted(name for name in counts if name in flags),
        "labelled": sorted({s["task_id"] for s in samples if "judged_by" in s}),
        "isolation": execution.describe(),
    }
    clean = {name: count for name, count in counts.items() if name not in flags}
    if flags and clean:
        result["pass_at_k_clean"] = rates(clean, config.k)["pass_at_k"]
    return result, samples


def _programs(task: Task, row: dict[str, Any]) -> Sequence[Program | Script]:
    """Return the programs of a completion; in another language it is a whole one of its own."""
    programs, language = task.programs(row["completion"]), row.get("language", "python")
    if language == "python":
        return programs
    if not all(isinstance(program, Script) for program in programs):
        return NO_PROGRAM
    return [replace(one, source=row["completion"], language=language) for one in programs]


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
