"""The map that runs each step's batches on several machines, by datatrove's executors.

The build's folder, which every machine must see, carries tasks and results: rank r of n has the tasks r, r + n ... in a
file and leaves their results in another. They are read in the order of the tasks, so the build is the same as that of
processes on one machine. An interrupted map goes on with the ranks that have not finished.
"""

import functools
import hashlib
import importlib.util
import os
import pickle
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from data_tools.config import PrepareConfig
from data_tools.journal import read_results, write_result
from llama_scale.errors import InputError

ENGINE_FOLDER = "engine"
POLL_SECONDS = 10.0  # between two looks at the queue


def datatrove_map(config: PrepareConfig, work: Path, workers: int) -> Callable:
    """Return an ordered ``map`` over ``workers`` ranks of the engine that ``config`` names.

    Raises:
        InputError: The engine is not installed, or SLURM has no partition to use.
    """
    if importlib.util.find_spec("datatrove") is None:
        raise InputError(f"engine: {config.engine} needs datatrove; pip install -e '.[engine]'")
    if config.engine == "slurm" and not config.partition:
        raise InputError("partition: engine slurm needs the name of a partition")
    run_ranks = _slurm_runner(config) if config.engine == "slurm" else _run_on_this_machine

    def map_(function: Callable, *arguments: Iterable) -> Iterator:
        tasks = zip(*arguments, strict=False)
        return map_over_ranks(work / ENGINE_FOLDER, workers, run_ranks, function, tasks)

    return map_


def map_over_ranks(
    folder: Path, n_ranks: int, run_ranks: Callable, function: Callable, tasks: Iterator[tuple]
) -> Iterator:
    """Yield ``function`` of each task, in order, made by ranks that share ``folder``.

    The tasks are dealt out like cards: with 3 ranks, rank 0 has the tasks 0, 3, 6 ..., so result i
    is the next unread one of rank i % 3. The job's folder is named by a hash of the function and
    its tasks: the same map of an interrupted run is found there with the ranks that it finished.

    Args:
        folder: Where jobs keep tasks and results; every machine must see it.
        n_ranks: Number of ranks.
        run_ranks: Function of (step, ranks, folder of logs) that runs them to their end.
        function: What is done to each task.
        tasks: The arguments of each call.
    """
    new = folder / "new"
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    digest, count = hashlib.sha256(pickle.dumps(function)), 0
    with ExitStack() as stack:
        files = [stack.enter_context(open(new / f"{r}.tasks", "wb")) for r in range(n_ranks)]
        for count, task in enumerate(tasks, 1):
            digest.update(write_result(files[(count - 1) % n_ranks], task))
    job = folder / f"{n_ranks}-{digest.hexdigest()[:16]}"
    if job.exists():
        shutil.rmtree(new)
    else:
        new.rename(job)
    n_ranks = min(n_ranks, count)
    if count:
        run_ranks(functools.partial(run_rank, job.resolve(), function), n_ranks, job / "logs")
    with ExitStack() as stack:
        files = [stack.enter_context(open(job / f"{r}.results", "rb")) for r in range(n_ranks)]
        results = [read_results(file) for file in files]
        for i in range(count):
            yield next(results[i % n_ranks])[0]
    shutil.rmtree(job)


def run_rank(folder: Path, function: Callable, data: Any, rank: int, world_size: int) -> None:
    """Do the tasks of one rank; the last three arguments are what datatrove hands a step."""
    partial = folder / f"{rank}.partial"
    with open(folder / f"{rank}.tasks", "rb") as tasks, open(partial, "wb") as results:
        for task, _ in read_results(tasks):
            write_result(results, function(*task))
    partial.replace(folder / f"{rank}.results")


def _run_on_this_machine(step: Callable, n_ranks: int, logs: Path) -> None:
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.utils.logging import logger

    logger.disable("datatrove")
    LocalPipelineExecutor([step], n_ranks, n_ranks, str(logs), start_method="spawn").run()


def _slurm_runner(config: PrepareConfig) -> Callable:
    def run_ranks(step: Callable, n_ranks: int, logs: Path) -> None:
        from datatrove.executor import SlurmPipelineExecutor

        path = os.pathsep.join(filter(None, map(os.path.abspath, sys.path)))
        programs = Path(sys.executable).parent
        env_command = f'export PYTHONPATH="{path}" PATH="{programs}:$PATH"'
        options: dict[str, Any] = {"env_command": env_command, "mail_type": "NONE"}
        options |= {"job_name": f"prepare-{config.name}", "logging_dir": str(logs.resolve())}
        executor = SlurmPipelineExecutor([step], n_ranks, config.time, config.partition, **options)
        executor.run()
        while unfinished := executor.get_incomplete_ranks():
            time.sleep(POLL_SECONDS)
            if not _is_queued(executor.job_id) and executor.get_incomplete_ranks():
                problem = f"{len(unfinished)} of {n_ranks} tasks ended unfinished, see {logs}"
                raise InputError(f"engine: {problem}; run the same command again for those")

    return run_ranks


def _is_queued(job: int | str | None) -> bool:
    """Whether SLURM still has a job; also where it cannot be asked just now."""
    done = subprocess.run(["squeue", "--noheader", "--jobs", str(job)], capture_output=True, text=True, check=False)
    return bool(done.stdout.strip()) or (done.returncode != 0 and "Invalid job" not in done.stderr)
