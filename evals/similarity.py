"""What judged samples look like beside their references: similarity, complexity, and completions that say nothing.

No similarity is a verdict. Beside each stands how well it predicts passing within a task (.5: not at all), and beside
the parse rate that of completions which need no model.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from tqdm import tqdm

from evals.benchmarks.suite import Suite, Task
from evals.metrics.agreement import area_within_tasks
from evals.metrics.alignment import edit_similarity, rouge_l
from evals.metrics.bleu import bleu
from evals.metrics.chrf import chrf
from evals.metrics.codebleu import codebleu
from evals.metrics.complexity import complexity
from evals.metrics.degenerate import degenerate, repetition, trivial_baselines
from evals.metrics.language_tokens import language_tokens
from evals.metrics.pass_at_k import interval
from evals.metrics.syntax import check_syntax
from evals.metrics.syntax_tree import parse
from evals.sandbox.types import NOT_MEASURED
from evals.verdicts import Execution

Row = dict[str, Any]
SIGNATURE = "language tokens, comments out, orders 1-4, +1 above order 1; chrF6 with white space; F2, F1"
LONGEST = 2000  # tokens that are aligned: the work is their product


def source_of(task: Task, completion: str) -> str:
    """Return the text that must parse for a completion: with its prompt, where it continues one."""
    if task.source:
        return task.source(completion)
    programs = task.programs(completion)
    return programs[0].source if programs else completion


def similarities(reference: str, candidate: str, language: str) -> dict[str, float]:
    """Return each similarity of a completion to the reference, from 0 to 1."""
    wanted, found = language_tokens(reference, language), language_tokens(candidate, language)
    return {
        "bleu": bleu([wanted], [found]),
        "rouge_l": rouge_l(wanted[:LONGEST], found[:LONGEST]),
        "chrf": chrf([reference], [candidate]),
        "codebleu": codebleu(reference, candidate, language).score,
        "edit_similarity": edit_similarity(wanted[:LONGEST], found[:LONGEST]),
        "exact_match": float(wanted == found),
    }


def describe(samples: Sequence[Row], suite: Suite, execution: Execution) -> tuple[Row, list[Row]]:
    """Return what samples look like together, and each with its own figures.

    Raises InputError where tree-sitter is missing. Tasks without a reference have no similarity.
    """
    tasks = {task.task_id: task for task in suite.tasks}
    for language in {task.language for task in tasks.values()}:
        parse("", language)
    rows = []
    for sample in tqdm(samples, f"{suite.name} similarity", disable=None, leave=False):
        task = tasks[sample["task_id"]]
        text, language = sample["completion"], sample.get("language", task.language)
        row = {
            "degenerate": degenerate(text, task.prompt, language),
            "repetition": repetition(text),
            "complexity": complexity(source_of(task, text) if language == task.language else text, language),
        }
        if task.reference is not None and language == task.language:
            row["similarity"] = similarities(task.reference, text, language)
        rows.append(sample | row)
    baselines = baseline_parse_rates([task for task in suite.tasks if task.reference], execution)
    return summarize(rows) | {"baseline_parse_rates": baselines}, rows


def summarize(rows: Sequence[Row]) -> dict[str, Any]:
    """Return means over samples with 95 % intervals over tasks, and the area of each similarity for passing."""
    scored = [row for row in rows if "similarity" in row]
    names = scored[0]["similarity"] if scored else ()
    result: dict[str, Any] = {"similarity": {}, "similarity_interval": {}, "similarity_signature": SIGNATURE}
    judged = [row for row in scored if row["reason"] != NOT_MEASURED]
    passed, ids = [row["passed"] for row in judged], [row["task_id"] for row in judged]
    result["area_for_passing"] = {}
    for name in names:
        by_task: dict[str, list[float]] = {}
        for row in scored:
            by_task.setdefault(row["task_id"], []).append(row["similarity"][name])
        means = [float(np.mean(values)) for values in by_task.values()]
        result["similarity"][name] = float(np.mean(means))
        result["similarity_interval"][name] = interval(means)
        result["area_for_passing"][name] = asdict(
            area_within_tasks([row["similarity"][name] for row in judged], passed, ids)
        )
    counts = Counter(row["degenerate"] for row in rows if row["degenerate"])
    result["degenerate_rates"] = {kind: n / len(rows) for kind, n in sorted(counts.items())}
    result["repetition"] = float(np.mean([row["repetition"] for row in rows]))
    result["complexity"] = float(np.mean([row["complexity"] for row in rows]))
    return result


def baseline_parse_rates(tasks: Sequence[Task], execution: Execution) -> dict[str, float | None]:
    """Return the parse rate of completions that need no model, None where it is not measured."""
    if len(tasks) < 2:
        return {}
    rates: dict[str, float | None] = {}
    for name, completions in trivial_baselines([task.reference or "" for task in tasks]).items():
        pairs = list(zip(tasks, completions, strict=True))
        texts = [source_of(task, completion) if completion.strip() else "" for task, completion in pairs]
        found = check_syntax(texts, tasks[0].language, execution)
        known = [syntax.parses for syntax in found if syntax is not None]
        rates[name] = float(np.mean(known)) if len(known) == len(found) else None
    return rates
