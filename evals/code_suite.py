"""Programming tasks: sample completions, run them in the sandbox, count what passed."""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
from tqdm import tqdm

from evals.benchmarks.suite import Suite, Task
from evals.metrics.pass_at_k import interval, pass_at_k
from evals.metrics.syntax import check_syntax
from evals.models.request import Completer, Request
from evals.sandbox.types import NO_TESTS, NOT_MEASURED, Program, Script, Verdict
from evals.verdicts import Execution, digest_text
from llama_scale.comparison import exact_interval
from llama_scale.errors import InputError

Row = dict[str, Any]  # a completion: task_id, sample, completion, ...; with its verdict once it is judged


def evenly_spread(count: int | None, total: int) -> list[int]:
    """Return ``count`` numbers evenly spread over 0 to ``total`` - 1; all if it is None."""
    count = total if count is None else min(count, total)
    return [i * total // count for i in range(count)]


def evaluate(suite: Suite, model: Completer, execution: Execution) -> tuple[dict[str, Any], list[Row]]:
    """Score the reference solutions, draw and judge completions; return the result and a row for each completion."""
    execution.sandbox.describe()  # a machine without a sandbox says so before anything is drawn
    about = suite.about | {"stops": list(suite.config.sampling.stop)} | score_references(suite, model)
    result, samples = score(sample(suite, model, execution), suite, execution)
    return about | result, samples


def score_references(suite: Suite, model: Completer) -> dict[str, Any]:
    """Score the reference solutions after their prompts, teacher-forced; results and settings call them gold."""
    known = [task for task in suite.tasks if task.reference is not None]
    chosen = [known[i] for i in evenly_spread(suite.config.gold_tasks, len(known))]
    pairs = [(task.prompt, task.reference) for task in chosen]
    references = model.score_references(pairs) if pairs else None
    if references is None:
        return {}
    total, tasks = references.total, references.tasks
    rates, sizes = [task.bits_per_byte for task in tasks], [task.bytes for task in tasks]
    return {
        "gold_bits_per_byte": total.bits_per_byte,
        "gold_bits_per_byte_interval": interval(rates, weights=sizes),
        "gold_tasks": len(tasks),
        "gold_tokens": total.tokens,
        "gold_bytes": total.bytes,
        "gold_prompts_truncated": references.truncated,
    }


def sample(suite: Suite, model: Completer, execution: Execution) -> list[Row]:
    """Draw the completions: rows of task_id, sample, completion, ordered by task and sample.

    Those of a run that was stopped are taken from ``execution``; a task that it had begun is drawn again.
    """
    config, tasks = suite.config, suite.tasks
    prompts = {i: tasks[i].prompt for i in evenly_spread(config.n_tasks, len(tasks))}
    key = digest_text([suite.name, asdict(config), list(prompts.values())])
    earlier = execution.completions(suite.name, key)
    counts = Counter(completion.task for completion in earlier)
    drawn = [c for c in earlier if counts[c.task] == config.n_samples]
    left = {i: prompt for i, prompt in prompts.items() if counts[i] != config.n_samples}
    if left:
        drawing = model.complete(Request(left, config.sampling, config.n_samples, config.batch_size))
        total = len(left) * config.n_samples
        for completion in tqdm(drawing, f"{suite.name} samples", total, disable=None, leave=False):
            drawn.append(completion)
            execution.keep_completion(suite.name, completion)
    drawn.sort(key=lambda completion: (completion.task, completion.sample))
    rows = []
    for completion in drawn:
        fields = asdict(completion)
        row = {"task_id": tasks[fields.pop("task")].task_id, "sample": fields.pop("sample")}
        rows.append(row | {"completion": fields.pop("text")} | fields)
    return rows


def score(rows: Sequence[Row], suite: Suite, execution: Execution) -> tuple[dict[str, Any], list[Row]]:
    """Judge completions (rows of task_id, completion); return the result and a row for each.

    The result counts the tasks of the suite and those that have samples, which the scores are of.
    """
    tasks = {task.task_id: task for task in suite.tasks}
    for row in rows:
        if row["task_id"] not in tasks:
            raise InputError(f"{suite.name}: no task {row['task_id']!r}; the first is {suite.tasks[0].task_id}")
    groups = [_programs(tasks[row["task_id"]], row) for row in rows]
    programs = [program for group in groups for program in group or ()]
    verdicts = iter(execution.judge(programs, suite.config.timeout, suite.name))
    contaminated = execution.contamination.get(suite.name, {})
    samples = []
    for row, group in zip(rows, groups, strict=True):
        task = tasks[row["task_id"]]
        judged = asdict(_combined(task, group and [next(verdicts) for _ in group]))
        judged["parses"] &= bool(row["completion"].strip())
        judged["loads"] &= judged["parses"]
        judged["says"] = judged["parses"] and says_something(row["completion"])
        judged["output"] = judged["output"][:1000]
        del judged["seconds"], judged["failures"]  # of one run, not of the program; of visible tests alone
        if task.label:
            judged["judged_by"] = task.label
        if task.task_id in contaminated:
            judged["contaminated_by"] = contaminated[task.task_id]
        samples.append(row | judged)
    _ask_parsers(samples, tasks, execution)
    counts = {"tasks_with_samples": len({r["task_id"] for r in rows}), "tasks_of_suite": len(tasks)}
    result = summarize(samples, suite.config.k, contaminated) | counts
    return result | {"isolation": execution.sandbox.describe()}, samples


def _ask_parsers(samples: Sequence[Row], tasks: Mapping[str, Task], execution: Execution) -> None:
    """Put the word of the language's own parser in the rows of tasks that are not in Python, in place."""
    asked: dict[str, list[tuple[Row, str]]] = defaultdict(list)
    for row in samples:
        task = tasks[row["task_id"]]
        if task.source and task.language != "python":
            asked[task.language].append((row, task.source(row["completion"]) if row["completion"].strip() else ""))
    for language, pairs in asked.items():
        for (row, _), syntax in zip(pairs, check_syntax([text for _, text in pairs], language, execution), strict=True):
            if syntax is None:
                row |= asdict(Verdict(False, NOT_MEASURED, False, False)) | {"output": ""}
                del row["seconds"]
                continue
            row["parses"] = syntax.parses
            row["loads"] &= syntax.parses
            row["says"] = syntax.parses and says_something(row["completion"])
            if syntax.compiles is not None:
                row["compiles"] = syntax.compiles


def _programs(task: Task, row: Row) -> Sequence[Program | Script] | None:
    """Return the programs of a completion (a whole one, if not Python), None where tests cannot call its language."""
    programs, language = task.programs(row["completion"]), row.get("language", "python")
    if language == "python" or (task.source and language == task.language):
        return programs
    if not all(isinstance(program, Script) for program in programs):
        return None
    return [replace(p, source=row["completion"], language=language, preamble="") for p in programs]


def _combined(task: Task, verdicts: Sequence[Verdict] | None) -> Verdict:
    if verdicts is None or any(verdict.reason == NOT_MEASURED for verdict in verdicts):
        return Verdict(False, NOT_MEASURED)
    return task.combine(verdicts) if verdicts else Verdict(False, NO_TESTS)


def says_something(completion: str) -> bool:
    """Whether a line of a completion is code and unlike all others: blank, comment-only, wordless, repeated are not."""
    lines = [line.strip() for line in completion.splitlines()]
    counts = Counter(line for line in lines if re.search(r"\w", line) and not line.startswith(("#", "//")))
    return 1 in counts.values()


def summarize(samples: Sequence[Row], ks: Sequence[int], contaminated: Mapping[str, Any]) -> dict[str, Any]:
    """Return what judged samples say together; those that were not measured are only counted.

    ``parse_rate`` is the share of completions that are not blank and parse after their prompt, and
    ``nontrivial_parse_rate`` that of those which say something, too (``says_something``). Java and JavaScript are asked
    of their own parsers. ``load_rate`` is the share that parses and runs to the end of its text before any test,
    ``compile_rate`` that of Java's files that compile; ``ended_rate`` the share that ended by itself and not at the
    limit: Python cut anywhere often parses, the others hardly ever do. ``assertion_pass_rate`` is the mean share of a
    task's assertions or cases that passed; ``log_pass_rate`` the mean over tasks of ln((c + 1/2) / (n + 1)), finite at
    no pass; without tests there is neither. ``contaminated`` are the tasks that the training data's sources held.
    """
    measured = [s for s in samples if s["reason"] != NOT_MEASURED]
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for row in measured:
        counts[row["task_id"]][0] += 1
        counts[row["task_id"]][1] += row["passed"]
    tested = [s for s in measured if s["reason"] != NO_TESTS]
    result = pass_rates(counts, ks) if tested else {"n_tasks": len(counts), "pass_at_k": {}}
    if measured:
        shares = [s["assertions_passed"] / max(1, s["assertions"]) for s in measured]
        result["parse_rate"] = float(np.mean([s["parses"] for s in measured]))
        result["load_rate"] = float(np.mean([s.get("loads", s["parses"]) for s in measured]))
        if compiled := [s["compiles"] for s in measured if "compiles" in s]:
            result["compile_rate"] = float(np.mean(compiled))
        if ended := [s["finish_reason"] == "stop" for s in measured if "finish_reason" in s]:
            result["ended_rate"] = float(np.mean(ended))
            own = [s["parses"] for s in measured if s.get("finish_reason") == "stop"]
            result["parse_rate_of_ended"] = float(np.mean(own)) if own else None
        result["nontrivial_parse_rate"] = float(np.mean([s.get("says", s["parses"]) for s in measured]))
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

    Both are 95 % over tasks: bootstrapped, of no width where all agree, and Clopper-Pearson's, honest at no pass.
    """
    fewest = min(n for n, _ in counts.values())
    values = {str(k): [pass_at_k(n, c, k) for n, c in counts.values()] for k in ks if k <= fewest}
    logs = [math.log((c + 0.5) / (n + 1)) for n, c in counts.values()]
    return {
        "n_tasks": len(counts),
        "n_samples": fewest,
        "pass_at_k": {k: float(np.mean(v)) for k, v in values.items()},
        "pass_at_k_interval": {k: interval(v) for k, v in values.items()},
        "pass_at_k_exact_interval": {k: exact_interval(sum(v), len(v)) for k, v in values.items()},
        "log_pass_rate": float(np.mean(logs)),
        "log_pass_rate_interval": interval(logs),
    }
