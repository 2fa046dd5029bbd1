"""Step 2: is what the GPU computes right? Everything here runs at once, since nothing is timed."""

import json
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict
from importlib.util import find_spec

import torch

from benchmarks.environment import ROOT, child_environment, module_command
from benchmarks.gpu.numerics import BOUNDS, deviation, loss_and_gradients
from benchmarks.gpu.plan import Plan, plan_for
from benchmarks.gpu.record import Record
from benchmarks.gpu.settings import StepJob
from benchmarks.gpu.tokens import token_folder
from benchmarks.gpu.trainer_runs import compare_runs
from benchmarks.training.table import TableRow
from llama_scale.config import load_size
from llama_scale.errors import InputError


def run(job: StepJob, record: Record) -> None:
    """Compare losses and gradients, compile the blocks of the speed table, run the gpu tests, stop and resume a run."""
    plan = plan_for(job.device, job.peers)
    failed: list[str] = []

    def guarded(name: str, work: Callable[[], None]) -> None:
        try:
            work()
        except (InputError, RuntimeError, OSError) as error:
            failed.append(name)
            record.check(name, f"{type(error).__name__}: {' '.join(str(error).split())[:300]}", False)

    tasks: dict[str, Callable[[], None]] = {
        "gpu tests": lambda: run_gpu_tests(record),
        "stopped and resumed": lambda: compare_runs(job, plan, token_folder(job, plan.data), record),
    }
    for speed in plan.speed:
        if plan.compile and torch.cuda.get_device_properties(0).total_memory >= speed.least_memory:
            name = f"compiled block of {speed.row.size}"
            tasks[name] = lambda speed=speed, name=name: compare_blocks(name, speed.row, job, record)
    threads = [threading.Thread(target=guarded, args=item) for item in tasks.items()]
    for thread in threads:
        thread.start()
    guarded("losses and gradients", lambda: compare_losses(job, plan, record))
    for thread in threads:
        thread.join()
    if failed:
        raise InputError(f"could not be checked: {', '.join(failed)}")


def compare_losses(job: StepJob, plan: Plan, record: Record) -> None:
    """Record losses and gradients on the device beside those of eager float32 on the CPU."""
    config = load_size(plan.size, **plan.model)
    shape = (plan.batch, config.context_length + 1)
    tokens = torch.randint(0, config.vocab_size, shape, generator=torch.Generator().manual_seed(0))  # (B, T + 1)
    reference = loss_and_gradients(config, tokens, "cpu", bf16=False, compiled=False)
    record.check(f"{plan.size} on the CPU, fp32 eager", f"loss {reference[0]:.6f}")
    for compiled in [False, True] if plan.compile else [False]:
        for bf16 in (False, True):
            found = loss_and_gradients(config, tokens, job.device, bf16, compiled)
            far = deviation(found, reference)
            loss_bound, gradient_bound = BOUNDS[bf16]
            name = f"{plan.size} on {job.device}, {'bf16' if bf16 else 'fp32'} {'compiled' if compiled else 'eager'}"
            record.check(
                name,
                f"loss {far.loss:.1e} (bound {loss_bound:.0e}), gradients {far.gradient:.1e} "
                f"(bound {gradient_bound:.0e}); worst {far.worst} {far.worst_gradient:.1e}",
                far.loss <= loss_bound and far.gradient <= gradient_bound,
                **asdict(far),
            )


def compare_blocks(name: str, row: TableRow, job: StepJob, record: Record) -> None:
    """Record how far a compiled block of the speed table is from an eager one; its code is then at hand."""
    settings = {
        "sizes": {row.size: (asdict(row.model_config), row.micro_batches[0])},
        "device": job.device,
        "bf16": job.device == "cuda",
    }
    command = module_command("benchmarks.training.gradients", json.dumps(settings))
    done = subprocess.run(command, env=child_environment(), capture_output=True, text=True)
    print(done.stderr, flush=True)
    lines = done.stdout.splitlines()
    found = json.loads(lines[-1]) if lines else {"error": (done.stderr.strip().splitlines() or ["no answer"])[-1][:300]}
    if "error" in found:
        raise InputError(found["error"])
    detail = f"{found['compiled']:.1e} from eager; eager is {found['eager']:.1e} from float32"
    record.check(name, detail, found["agree"], **found)


def run_gpu_tests(record: Record) -> None:
    """Run the tests that are marked gpu and record each; without a GPU they are skipped."""
    files = [path for path in sorted((ROOT / "tests").rglob("test_*.py")) if "pytest.mark.gpu" in path.read_text()]
    if find_spec("pytest") is None or not files:
        why = "pytest is not installed" if files else "there are no tests beside the package"
        record.check("gpu tests", f"not run: {why}")
        return
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-v", "-p", "no:cacheprovider", *map(str, files)]
    process = subprocess.Popen(
        command, env=child_environment(), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    found, last = 0, ""
    for line in process.stdout:  # each test as it ends
        print(line, end="", flush=True)
        last = line.strip() or last
        if outcome := re.match(r"(\S+::\S+) (PASSED|FAILED|ERROR|SKIPPED)", line):
            found += 1
            verdict = None if outcome[2] == "SKIPPED" else outcome[2] == "PASSED"
            record.check(outcome[1].rpartition("/")[2], outcome[2].lower(), verdict)
        elif reason := re.match(r"(?:FAILED|ERROR) (\S+::\S+) - (.*)", line):
            record.check(reason[1].rpartition("/")[2], reason[2][:300], False)
    if process.wait() and not found:
        raise InputError(f"pytest ended with {process.returncode}: {last[:200]}")
