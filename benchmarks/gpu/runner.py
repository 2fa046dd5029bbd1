"""Runs the steps one after another, each in a process group of its own that ends at its limit."""

import json
import os
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil

from benchmarks.environment import child_environment, module_command
from benchmarks.gpu.settings import GpuBenchmark, StepJob, step_ends
from benchmarks.gpu.summary import markdown, table
from benchmarks.hardware import processor_name, provenance
from llama_scale.data.shards import read_manifest
from llama_scale.device import pick_device
from llama_scale.errors import prefix_errors
from llama_scale.files import atomic_write, read_json, write_json

__all__ = ["GpuBenchmark", "run", "table"]
GRACE = 3.0  # seconds that a step has to end after it was told to
POLL = 0.2
LEAST = 30.0  # seconds that a step gets at least while there is time: the first waits for cold disks
LOG_LINES = 40  # of a step that failed, kept with its result
LOGGED = ("logs", "records", "studies")  # in the work folder; metrics of runs beside them


def run(config: GpuBenchmark) -> dict[str, Any]:
    """Run the steps; write gpu.json and summary.md as rows come in, logs.tar.gz after each step; return the result.

    Raises InputError where there is no such device or no such folder of tokens.
    """
    start = time.time()
    device = pick_device(config.device)
    if config.tokens:
        with prefix_errors("tokens"):
            read_manifest(Path(config.tokens))
    out, work = Path(config.out).resolve(), Path(tempfile.mkdtemp(prefix="llama-scale-gpu-"))
    out.mkdir(parents=True, exist_ok=True)
    for name in ("logs", "records"):
        (work / name).mkdir()
    result = {
        "device": processor_name(device),
        **provenance(),
        "minutes": config.minutes,
        "work": str(work),
        "steps": {name: {"status": "not reached", "rows": []} for name in config.steps},
    }
    with ending_on_sigterm():
        try:
            for number, (name, end) in enumerate(step_ends(config.steps, 60 * config.minutes, device).items(), 1):
                job = StepJob(
                    name=name,
                    device=device,
                    work=str(work),
                    record=str(work / "records" / f"{name}.json"),
                    end=min(start + 60 * config.minutes, max(start + end, time.time() + LEAST)),
                    tokens=config.tokens and str(Path(config.tokens).resolve()),
                    peers=config.peer_names,
                )
                say(f"[{number}/{len(config.steps)}] {name}: up to {job.seconds_left:.0f} s")
                run_step(job, result, out)
                step = result["steps"][name]
                left = start + 60 * config.minutes - time.time()
                say(f"      {step['status']} in {step['seconds']:.0f} s, {len(step['rows'])} rows; {left:.0f} s left")
        finally:
            result["seconds"] = time.time() - start
            write_result(result, out)
            pack_logs(work, out / "logs.tar.gz")
    return result


def say(line: str) -> None:
    """Print a line of progress."""
    print(line, file=sys.stderr, flush=True)


def run_step(job: StepJob, result: dict[str, Any], out: Path) -> None:
    """Run a step until it ends or its time is over; its result is in ``result`` and the files of ``out``."""
    start, log = time.time(), Path(job.work) / "logs" / f"{job.name}.log"
    step = result["steps"][job.name] = {"status": "running", "limit": job.seconds_left, "rows": []}
    with open(log, "w", encoding="utf-8") as file:
        process = subprocess.Popen(
            module_command("benchmarks.gpu.step", json.dumps(asdict(job))),
            env=step_environment(),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    seen = 0.0
    try:
        while process.poll() is None and time.time() < job.end:
            time.sleep(POLL)
            changed = modified(Path(job.record))
            if changed != seen:
                seen = changed
                step |= read_json(job.record) | {"seconds": time.time() - start}
                write_result(result, out)
        step["status"] = "stopped at its limit" if process.poll() is None else "done"
    finally:
        if step["status"] == "running":
            step["status"] = "interrupted"
        stop_group(process)
        if step["status"] == "done" and process.returncode:
            step["status"] = f"failed ({process.returncode})"
        step |= {"seconds": time.time() - start} | (read_json(job.record) if modified(Path(job.record)) else {})
        if step["status"] != "done":
            step["log"] = log.read_text(errors="replace").splitlines()[-LOG_LINES:]
            if step["status"].startswith("failed"):
                say(f"      {(step['log'] or ['without a word'])[-1][:300]}")
        write_result(result, out)
        pack_logs(Path(job.work), out / "logs.tar.gz")


def step_environment() -> dict[str, str]:
    """Return the variables of a step: ours, and one place for compiled code, which all steps share."""
    cache = Path(tempfile.gettempdir()) / f"llama-scale-compiled-{os.getuid()}"
    ours = {"TORCHINDUCTOR_CACHE_DIR": str(cache), "TORCHINDUCTOR_COMPILE_THREADS": "4", "PYTHONUNBUFFERED": "1"}
    return ours | child_environment()


def modified(path: Path) -> float:
    """Return when a file was written last; 0 where there is none."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def stop_group(process: subprocess.Popen) -> None:
    """End what still runs of a step: its process group, and processes below it that made groups of their own."""
    try:
        others = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        others = []
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        if number == signal.SIGTERM:
            with suppress(subprocess.TimeoutExpired):
                process.wait(GRACE)
    for other in others:
        with suppress(psutil.NoSuchProcess):
            other.kill()
    process.wait()


@contextmanager
def ending_on_sigterm() -> Iterator[None]:
    """Turn SIGTERM into SystemExit, so that what was measured is written and no process stays."""

    def leave(number: int, frame: Any) -> None:
        sys.exit(128 + number)

    previous = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def write_result(result: dict[str, Any], out: Path) -> None:
    """Write gpu.json and summary.md."""
    write_json(out / "gpu.json", result)
    with atomic_write(out / "summary.md") as file:
        file.write(markdown(result))


def pack_logs(work: Path, path: Path) -> None:
    """Write what the steps said and made, without weights and tokens, as one archive."""
    kept = [work / name for name in LOGGED if (work / name).exists()]
    kept += [*work.glob("runs/*/*/*.jsonl"), *work.glob("runs/*/*/*.json"), *work.glob("runs/*/*/config.yaml")]
    with atomic_write(path, "wb") as file, tarfile.open(fileobj=file, mode="w:gz") as archive:
        for item in kept:
            archive.add(item, item.relative_to(work))
