"""Programming tasks: sample completions, run them in the sandbox, count what passed."""

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
from tqdm import tqdm

from evals.benchmarks.suite import Suite, Task
from evals.metrics.pass_at_k import exact_interval, interval, pass_at_k
from evals.models.request import Completer, Request
from evals.sandbox.types import NOT_MEASURED, Program, Script, Verdict
from evals.verdicts import Execution, digest_text
from llama_scale.errors import InputError


def evenly_spread(count: int | None, total: int) -> list[int]:
    """Return ``count`` numbers evenly spread over 0 to ``total`` - 1; all if it is None."""
    count = total if count is None else min(count, total)
    return [i * total // count for i in range(count)]


def evaluate(suite: Suite, model: Completer, execution: Execution) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Score the reference solutions, then draw and judge completions.

    Returns the result and a row for each completion.
    """
    execution.describe()  # a machine without a sandbox says so before anything is drawn
    references = score_references(suite, model)
    result, samples = score(sample(suite, model, execution), suite, execution)
    stops = {"stops": list(suite.config.sampling.stop)}
    return suite.about | stops | references | result, samples


def score_references(suite: Suite, model: Completer) -> dict[str, Any]:
    """Score the reference solutions after their prompts, teacher-forced, where it can be done.

    In a result they are called gold, as in its settings.
    """
    known = [task for task in suite.tasks if task.reference is not None]
    chosen = [known[i] for i in evenly_spread(suite.config.gold_tasks, len(known))]
    pairs = [(task.prompt, task.reference) for task in chosen]
    references = model.score_references(pairs) if pairs else None
    if references is None:
        return {}
    total = references.total
    return {
        "gold_bits_per_byte": total.bits_per_byte,
        "gold_bits_per_byte_interval": interval(
            [task.bits_per_byte for task in references.tasks], weights=[task.bytes for task in references.tasks]
        ),
        "gold_tasks": len(references.tasks),
        "gold_tokens": total.tokens,
        "gold_bytes": total.bytes,
        "gold_prompts_truncated": references.truncated,
    }


def sample(suite: Suite, model: Completer, execution: Execution) -> list[dict[str, Any]]:
    """Draw the completions: rows of task_id, sample, completion, ordered by task and sample.

    Those of a run that was stopped are taken from ``execution``; a task that it had begun is drawn
    again.
    """
    config, tasks = suite.config, suite.tasks
    prompts = {i: tasks[i].prompt for i in evenly_spread(config.n_tasks, len(tasks))}
    key = digest_text([suite.name, asdict(config), list(prompts.values())])
    earlier = execution.completions(suite.name, key)
    counts = Counter(completion.task for completion in earlier)
    drawn = [c for c in earlier if counts[c.task] == config.n_samples]
    left = {i: prompt for i, prompt in prompts.items() if counts[i] != config.n_samples}
    if left:
        request = Request(left, config.sampling, config.n_samples, config.batch_size)
        for completion in tqdm(
            model.complete(request), f"{suite.name} samples", len(left) * config.n_samples, disable=None, leave=False
        ):
            drawn.append(completion)
            execution.keep_completion(suite.name, completion)
    drawn.sort(key=lambda completion: (completion.task, completion.sample))
    return [
        {
            "task_id": tasks[completion.task].task_id,
            "sample": completion.sample,
            "completion": completion.text,
            "tokens": completion.tokens,
            "finish_reason": completion.finish_reason,
            "prompt_truncated": completion.prompt_truncated,
        }
        for completion in drawn
    ]


def score(
    rows: Sequence[dict[str, Any]], suite: Suite, execution: Execution
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Judge completions (rows of task_id, completion); return the result and a row for each.

    The result counts the tasks of the suite and those that have samples, which the scores are of.
    Raises InputError on a task_id that the suite does not have.
    """
    tasks = {task.task_id: task for task in suite.tasks}
    for row in rows:
        if row["task_id"] not in tasks:
            first = suite.tasks[0].task_id
            raise InputError(f"{suite.name}: no task {row['task_id']!r}; the first is {first}")
    groups = [_programs(tasks[row["task_id"]], row) for row in rows]
    programs = [program for group in groups for program in group or ()]
    verdicts = iter(execution.judge(programs, suite.config.timeout, suite.name))
    contaminated = execution.contamination.get(suite.name, {})
    samples = []
    for row, group in zip(rows, groups, strict=True):
        task = tasks[row["task_id"]]
        verdict = _combined(task, group and [next(verdicts) for _ in group])
        judged = {
            "passed": verdict.passed,
            "reason": verdict.reason,
            "parses": bool(row["completion"].strip()) and verdict.parses,
            "assertions_passed": verdict.assertions_passed,
            "assertions": verdict.assertions,
            "output": verdict.output[:1000],
        }
        if task.label:
            judged["judged_by"] = task.label
        if task.task_id in contaminated:
            judged["contaminated_by"] = contaminated[task.task_id]
        samples.append(row | judged)
    counts = {"tasks_with_samples": len({r["task_id"] for r in rows}), "tasks_of_suite": len(tasks)}
    result = summarize(samples, suite.config.k, contaminated) | counts
    return result | {"isolation": execution.describe()}, samples


def _programs(task: Task, row: dict[str, Any]) -> Sequence[Program | Script] | None:
    """Return the programs of a completion; in another language it is a whole one of its own.

    None where the task's tests cannot call that language.
    """
    programs, language = task.programs(row["completion"]), row.get("language", "python")
    if language == "python":
        return programs
    if not all(isinstance(program, Script) for program in programs):
        return None
    return [replace(p, source=row["completion"], language=language) for p in programs]


def _combined(task: Task, verdicts: Sequence[Verdict] | None) -> Verdict:
    """Return one verdict on a completion of those on its programs."""
    if verdicts is None or any(verdict.reason == NOT_MEASURED for verdict in verdicts):
        return Verdict(False, NOT_MEASURED)
    return task.combine(verdicts) if verdicts else Verdict(False, "no tests")


def summarize(samples: Sequence[dict[str, Any]], ks: Sequence[int], contaminated: Mapping[str, Any]) -> dict[str, Any]:
    """Return what judged samples say together; those that were not measured are only counted.

    ``parse_rate`` is the share of completions that are not blank and parse after their prompt;
    ``assertion_pass_rate`` the mean share of a task's assertions or cases that passed;
    ``log_pass_rate`` the mean over tasks of ln((c + 1/2) / (n + 1)), finite at no pass.
    ``contaminated`` are the tasks that the training data's sources held.
    """
    measured = [s for s in samples if s["reason"] != NOT_MEASURED]
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for row in measured:
        counts[row["task_id"]][0] += 1
        counts[row["task_id"]][1] += row["passed"]
    result = pass_rates(counts, ks) if measured else {"n_tasks": 0, "pass_at_k": {}}
    if measured:
        shares = [s["assertions_passed"] / max(1, s["assertions"]) for s in measured]
        result["parse_rate"] = float(np.mean([s["parses"] for s in measured]))
        result["assertion_pass_rate"] = float(np.mean(shares))
    if len(measured) < len(samples):
        result["not_measured"] = len(samples) - len(measured)
    result |= {
        "prompts_truncated": sum(s.get("prompt_truncated", False) and s["sample"] == 0 for s in samples),
        "contaminated": sorted(name for name in counts if name in contaminated),
        "labeled": sorted({s["task_id"] for s in samples if "judged_by" in s}),
    }
    clean = {name: count for name, count in counts.items() if name not in contaminated}
    if contaminated and clean:
        result["pass_at_k_clean"] = pass_rates(clean, ks)["pass_at_k"]
    return result


def pass_rates(counts: dict[str, list[int]], ks: Sequence[int]) -> dict[str, Any]:
    """Return pass@k with its intervals for ``{task: [samples, passes]}``.

    Two intervals, both 95 % over tasks: bootstrapped, which has no width where all tasks agree,
    and Clopper-Pearson's, which stays honest at no pass.
    """
    fewest = min(n for n, _ in counts.values())
    result: dict[str, Any] = {
        "n_tasks": len(counts),
        "n_samples": fewest,
        "pass_at_k": {},
        "pass_at_k_interval": {},
        "pass_at_k_exact_interval": {},
    }
    for k in ks:
        if k <= fewest:
            values = [pass_at_k(n, c, k) for n, c in counts.values()]
            result["pass_at_k"][str(k)] = float(np.mean(values))
            result["pass_at_k_interval"][str(k)] = interval(values)
            result["pass_at_k_exact_interval"][str(k)] = exact_interval(sum(values), len(values))
    logs = [math.log((c + 0.5) / (n + 1)) for n, c in counts.values()]
    return result | {"log_pass_rate": float(np.mean(logs)), "log_pass_rate_interval": interval(logs)}
