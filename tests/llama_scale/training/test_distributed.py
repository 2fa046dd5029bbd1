"""Two processes on a CPU: the same losses as one, and checkpoints that either can continue."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from llama_scale.checkpoint import folder as checkpoint
from llama_scale.checkpoint.folder import load_model
from llama_scale.errors import InputError
from llama_scale.files import read_jsonl
from llama_scale.training.distributed import STARTED_BY, ProcessRank, find_rank
from tests.conftest import ROOT, TINY_MODEL, run_here, run_script

TOLERANCE = 5e-6  # nats, in float32 after 20 steps


def arguments(data: Path, run: Path) -> list[str]:
    fixed = ["--optim.batch_tokens=512", "--val_tokens=2000", "--threads=1", "--device=cpu"]
    saves = ["--checkpoint_every=5", "--keep_last=9", "--log_every=2", "--val_every=10"]
    return [*TINY_MODEL, *fixed, *saves, f"--data={data}", f"--run={run}", "--tokens=10240"]


def cut_back(run: Path, step: int) -> None:
    """Make it as if the run had been killed just after the checkpoint of ``step``."""
    (run / "result.json").unlink()
    for folder in checkpoint.list_checkpoints(run):
        if int(folder.name.removeprefix("step-")) > step:
            checkpoint.discard(folder)


@pytest.fixture(scope="module")
def alone(tiny_data, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("alone") / "run"
    done = run_here("train.py", *arguments(tiny_data, run), cwd=run.parent)
    assert done.returncode == 0, done.stderr
    return run


def check_same(run: Path, alone: Path) -> None:
    ours, theirs = (read_jsonl(folder / "metrics.jsonl") for folder in (run, alone))
    assert [row["step"] for row in ours] == [row["step"] for row in theirs]
    for row, expected in zip(ours, theirs, strict=True):
        for name in ("loss", "grad_norm", "val_loss"):
            if name in expected:
                assert row[name] == pytest.approx(expected[name], abs=TOLERANCE), row["step"]
    assert (run / "result.json").exists()


def stop_under_slurm(run: Path, argv: list[str]) -> list[int]:
    """Start two ranks as srun does, send SIGUSR1 to one of them, return both exit codes."""
    job = {"SLURM_STEP_ID": "0", "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2",
           "SLURM_NNODES": "1", "SLURM_NODEID": "0", "SLURM_NODELIST": "localhost",
           "SLURM_JOB_NAME": "run", "SLURM_JOB_ID": str(10_000 + os.getpid() % 10_000)}  # fmt: skip
    ranks = []
    for rank in "01":
        ids = {"SLURM_PROCID": rank, "SLURM_LOCALID": rank, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, str(ROOT / "launch/train.py"), *argv]
        environment = os.environ | {"OMP_NUM_THREADS": "1"} | job | ids
        ranks.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment))
    log = run / "metrics.jsonl"
    while ranks[1].poll() is None and not (log.exists() and '"step": 2,' in log.read_text()):
        time.sleep(0.002)
    ranks[1].send_signal(signal.SIGUSR1)
    return [rank.wait(120) for rank in ranks]


STOPPED = """
import os, runpy, signal, sys
import torch
from llama_scale.training.callbacks import MetricsLog
from llama_scale.training.trainer import Pretraining
broadcast, forward, write = torch.distributed.broadcast, Pretraining.training_step, MetricsLog.on_step
calls, counting = [], []
def counted(*args, **kwargs):
    calls.extend(counting)
    return broadcast(*args, **kwargs)
def training_step(self, batch, batch_idx):
    counting[:] = [1]
    return forward(self, batch, batch_idx)
def on_step(self, trainer, module, step):
    write(self, trainer, module, step)
    os.write(1, f"broadcasts {len(calls)}\\n".encode())  # whole lines, whoever else writes
    if step == 3 and trainer.global_rank == 1:
        os.kill(os.getpid(), signal.SIGTERM)
torch.distributed.broadcast, Pretraining.training_step, MetricsLog.on_step = counted, training_step, on_step
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_a_signal_to_one_stops_all_without_a_broadcast_each_step(tiny_data, tmp_path):
    run = tmp_path / "run"
    script = tmp_path / "stopped.py"
    script.write_text(STOPPED)
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--", str(script)]
    argv = [str(ROOT / "launch/train.py"), *arguments(tiny_data, run), "--devices=2", "--micro_batch=2"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *command, *argv], env=environment, capture_output=True, text=True)
    assert f"exitcode  : {128 + signal.SIGTERM}" in done.stderr, done.stderr
    # Rank 1 has the signal once the vote of step 3 has begun; both read that of step 4 after step 5.
    assert checkpoint.newest(run).name == "step-00000005"
    assert done.stdout.count("broadcasts 0\n") == done.stdout.count("broadcasts") == 2 * 5, done.stdout


def test_ddp_fsdp_and_one_process_continue_each_other(alone, tiny_data, tmp_path):
    run = tmp_path / "run"
    two = [*arguments(tiny_data, run), "--devices=2"]
    codes = stop_under_slurm(run, [*two, "--strategy=ddp"])
    assert codes in ([128 + signal.SIGUSR1] * 2, [0, 0])
    assert (run / "result.json").exists() == (codes == [0, 0])
    done = run_script("train.py", *two, "--strategy=ddp", "--micro_batch=2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    check_same(run, alone)

    cut_back(run, 5)
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--"]
    script = [str(ROOT / "launch/train.py"), *two, "--strategy=fsdp"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *command, *script], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "continuing from" in done.stdout and "step-00000005" in done.stdout
    check_same(run, alone)

    cut_back(run, 10)
    saved = run / "checkpoints/step-00000010"
    assert len(list(saved.glob("shard-*.safetensors"))) == 2  # a part of each process
    ours, theirs = load_model(saved), load_model(alone / "checkpoints/step-00000010")
    for (name, value), expected in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
        torch.testing.assert_close(value, expected, atol=2e-6, rtol=0, msg=name)
    done = run_here("train.py", *arguments(tiny_data, run), cwd=tmp_path)
    assert done.returncode == 0 and "step-00000010" in done.stdout, done.stderr
    check_same(run, alone)
    files = [p.name for p in (run / "checkpoints/step-00000020").iterdir()]
    assert "model.safetensors" in files and "optimizer.safetensors" in files


def test_fsdp_begins_with_the_weights_of_one_process(alone, tiny_data, tmp_path):
    run = tmp_path / "run"
    argv = [*arguments(tiny_data, run), "--devices=2", "--strategy=fsdp"]
    done = run_script("train.py", *argv, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    check_same(run, alone)
    part = next((run / "checkpoints/step-00000015").glob("shard-00002-*"))
    part.write_bytes(part.read_bytes()[:-1])
    cut_back(run, 15)
    done = run_script("train.py", *argv, cwd=tmp_path)
    assert done.returncode == 0 and "step-00000010" in done.stdout, done.stderr
    assert "shard-00002-model-00001-of-00001.safetensors: " in done.stderr and "bytes, not" in done.stderr
    check_same(run, alone)


TORCHRUN = {"TORCHELASTIC_RUN_ID": "x", "RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}
SLURM = {"SLURM_STEP_ID": "0", "SLURM_PROCID": "3", "SLURM_NTASKS": "8"}


@pytest.mark.parametrize(
    ("devices", "nodes", "environment", "process"),
    [
        (1, 1, {}, ProcessRank("self", 0, 1)),
        (2, 1, {}, ProcessRank("self", 0, 2)),
        (2, 1, {"LOCAL_RANK": "1", STARTED_BY: str(os.getppid())}, ProcessRank("self", 1, 2)),
        (2, 1, {"LOCAL_RANK": "1", STARTED_BY: "1000000"}, ProcessRank("self", 0, 2)),
        (1, 1, {STARTED_BY: str(os.getppid())}, ProcessRank("self", 0, 1)),  # a benchmark's command
        # left over from another launcher
        (1, 1, {"LOCAL_RANK": "1", "RANK": "3", "WORLD_SIZE": "8"}, ProcessRank("self", 0, 1)),
        (1, 1, {"LOCAL_RANK": "", "TORCHELASTIC_RUN_ID": "", "SLURM_STEP_ID": ""}, ProcessRank("self", 0, 1)),
        (4, 2, TORCHRUN, ProcessRank("torchrun", 5, 8)),
        (8, 1, SLURM, ProcessRank("slurm", 3, 8)),
        # an sbatch script or an interactive shell has not started the run's processes
        (1, 1, {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "8"}, ProcessRank("self", 0, 1)),
        (1, 1, {"SLURM_STEP_ID": "0", "SLURM_NTASKS": "1"}, ProcessRank("self", 0, 1)),
        (1, 1, SLURM | {"SLURM_PTY_PORT": "4711"}, ProcessRank("self", 0, 1)),
        (8, 1, SLURM | {"SLURM_JOB_NAME": "bash"}, ProcessRank("self", 0, 8)),
        # srun started this very process in a shell's allocation
        (8, 1, SLURM | {"SLURM_PTY_PORT": "1", "SLURM_TASK_PID": str(os.getpid())}, ProcessRank("slurm", 3, 8)),
    ],
)
def test_launcher_environment(devices, nodes, environment, process):
    assert find_rank(devices, nodes, environment) == process


@pytest.mark.parametrize(
    ("devices", "nodes", "environment", "words"),
    [
        (4, 1, TORCHRUN, ["5 of 8 that torchrun started", "--nproc-per-node 4", "unset TORCHELASTIC_RUN_ID"]),
        (4, 1, SLURM, ["3 of 8 that slurm started", "srun --nodes 1 --ntasks-per-node 4", "unset SLURM_STEP_ID"]),
        (8, 1, TORCHRUN | {"RANK": "8"}, ["process 8 of 8"]),
        (8, 1, TORCHRUN | {"LOCAL_RANK": ""}, ["LOCAL_RANK", "None"]),
        (8, 1, TORCHRUN | {"WORLD_SIZE": "²"}, ["WORLD_SIZE", "'²'"]),
        (8, 2, {}, ["nodes: 2", "torchrun or srun"]),
        (8, 1, TORCHRUN | {"RANK": "one"}, ["RANK", "'one'"]),
        (8, 1, {k: v for k, v in SLURM.items() if k != "SLURM_PROCID"}, ["SLURM_PROCID"]),
    ],
)
def test_a_launcher_that_contradicts_the_run_is_named(devices, nodes, environment, words):
    with pytest.raises(InputError) as error:
        find_rank(devices, nodes, environment)
    assert all(word in str(error.value) for word in words), error.value


@pytest.mark.parametrize("value", ["3", ""])
def test_variables_that_another_launcher_left_change_nothing(alone, tiny_data, tmp_path, value):
    """As rank 0: the same bytes, a lock, a result."""
    names = (
        "LOCAL_RANK",
        "RANK",
        "WORLD_SIZE",
        "NODE_RANK",
        "MASTER_ADDR",
        "MASTER_PORT",
        "SLURM_PROCID",
        "SLURM_LOCALID",
    )
    run, environment = tmp_path / "run", dict.fromkeys(names, value)
    done = run_script("train.py", *arguments(tiny_data, run), cwd=tmp_path, **environment)
    assert done.returncode == 0, done.stderr
    assert (f"LOCAL_RANK={value}" in done.stderr) == bool(value)
    for name in ("model", "optimizer"):
        file = f"checkpoints/step-00000020/{name}.safetensors"
        assert (run / file).read_bytes() == (alone / file).read_bytes()
    assert (run / "result.json").exists()


@pytest.mark.parametrize("script", sorted((ROOT / "launch/slurm").glob("*.sbatch")), ids=str)
def test_sbatch_files_are_shell_that_asks_for_what_it_starts(script):
    text = script.read_text()
    assert subprocess.run(["bash", "-n", str(script)]).returncode == 0
    options = dict(
        line.removeprefix("#SBATCH --").split("=", 1)
        for line in text.splitlines()
        if line.startswith("#SBATCH --") and "=" in line
    )
    assert f"--nodes {options['nodes']}" in text
    assert options["signal"].startswith("USR1@")
    assert "#SBATCH --requeue" in text
