"""Texts before the prompts of a suite, as solved tasks that show a model how: few-shot prompting of any suite."""

from dataclasses import replace
from pathlib import Path

from evals.benchmarks.rows import read_rows
from evals.benchmarks.suite import Suite
from llama_scale.errors import InputError

REMEDY = "give JSON lines with the fields id and before"


def put_before(suite: Suite, path: str) -> Suite:
    """Return the suite, each prompt with the text that the file has for its task in front.

    How completions are judged does not change. Tasks that the file does not have are asked as they are, and counted.
    Raises InputError if it has none of them.
    """
    texts = {row.take("id", str): row.take("before", str) for row in read_rows(Path(path), "before", REMEDY)}
    asked = [task for task in suite.tasks if task.task_id in texts]
    if not asked:
        raise InputError(f"before: {path} has none of the {len(suite.tasks):,} tasks of {suite.name}; {REMEDY}")
    tasks = [replace(task, prompt=texts.get(task.task_id, "") + task.prompt) for task in suite.tasks]
    return replace(suite, tasks=tasks, about=suite.about | {"with_text_before": len(asked)})
