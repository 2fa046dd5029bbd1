"""Published logs of repair loops as journals: what their programs were worth, judged again."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evals.benchmarks.rows import read_rows
from evals.repair.loop import Step, as_row, first_equal
from evals.repair.outcome import VisibleJudge
from evals.repair.split import Shown
from llama_scale.errors import InputError, nearest
from llama_scale.text import writable

ARM = "log"
REMEDY = "give JSON lines with task_id and implementations, the programs of a task in their order"


def read_log(path: Path, shown: Sequence[Shown]) -> list[tuple[Shown, list[str]]]:
    """Return the programs of each task of a log; raise InputError naming a row or field of another form.

    A task for which nothing was written has one empty program, which solves nothing, and counts as a task.
    """
    known, found = {task.task_id: task for task in shown}, {}
    for row in read_rows(path, "replay", REMEDY):
        name, programs = row.take("task_id", str), row.texts("implementations")
        if name not in known:
            raise row.error("task_id", f"{name!r}", f"a task of the suite{nearest(name, known)}")
        if name in found:
            raise row.error("task_id", f"{name!r} again", "each task once")
        found[name] = (known[name], [writable(program) for program in programs] or [""])
    if not found:
        raise InputError(f"replay: {path} is empty; {REMEDY}")
    return sorted(found.values(), key=lambda item: item[0].number)


def replayed(log: Sequence[tuple[Shown, list[str]]], judge: VisibleJudge) -> list[dict[str, Any]]:
    """Return the steps of a log, every program run on its visible tests; what a model was told is not known."""
    programs = [(shown.number, program) for shown, found in log for program in found]
    outcomes = iter(judge.judge(programs))
    rows = []
    for shown, found in log:
        for number, program in enumerate(found):
            step = Step(
                arm=ARM,
                task_id=shown.task_id,
                number=shown.number,
                sample=0,
                round=number,
                prompt="",
                program=program,
                outcome=next(outcomes),
                repeat_of=first_equal(found[:number], program),
            )
            rows.append(as_row(step))
    return rows
