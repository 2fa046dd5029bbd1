"""Training through Lightning: exact resume, exact batches, and what a run leaves on disk."""

import json
import os
import pty
import random
import select
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from evals.validation import Validation
from llama_scale.checkpoint import folder as checkpoint
from llama_scale.cli import parse
from llama_scale.config import TrainConfig
from llama_scale.cost.layout import layout_memory
from llama_scale.data.loader import StepSampler, TokenWindows, build_loader
from llama_scale.data.shards import open_tokens
from llama_scale.errors import InputError
from llama_scale.files import read_json, read_jsonl
from llama_scale.model.llama import Llama
from llama_scale.training.callbacks import StepCallback
from llama_scale.training.optim import build_optimizer, lr_ratio
from llama_scale.training.recipe import resolve
from llama_scale.training.result import write_result
from llama_scale.training.run_plan import describe, plan_run, validation_interval
from llama_scale.training.trainer import Pretraining, fit
from tests.conftest import ROOT, TINY_MODEL, VOCAB, run_here

LR = 0.08 / 32**0.5  # the law's cap at the width of TINY_MODEL
COMMON = [*TINY_MODEL, "--optim.batch_tokens=512", "--val_tokens=2000", "--threads=1", "--val_every=4"]


def arguments(data: Path, run: Path, *more: str, tokens: int = 20_480) -> list[str]:
    return [*COMMON, f"--data={data}", f"--run={run}", f"--tokens={tokens}", *more]


def train(data: Path, run: Path, *more: str, tokens: int = 20_480) -> dict:
    config = parse(TrainConfig, "Train.", arguments(data, run, *more, tokens=tokens))
    planned = plan_run(config)
    validation = Validation(config.data, validation_interval(config, planned.recipe), config.val_tokens)
    assert fit(planned, scorers=[validation]) is None
    return write_result(planned)


def metrics(run: Path) -> list[dict]:
    rows = read_jsonl(run / "metrics.jsonl")
    measured = ("tokens_per_second", "memory", "mfu", "mfu_full")  # of the machine, not of the run
    return [{k: v for k, v in row.items() if k not in measured} for row in rows]


def weights(run: Path) -> bytes:
    return (checkpoint.newest(run) / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def finished(tiny_data, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "whole"
    train(tiny_data, run, "--checkpoint_every=10", "--log_every=3")
    return run


def test_run_folder(finished, tiny_data):
    rows = metrics(finished)
    assert [row["step"] for row in rows] == sorted({*range(3, 41, 3), *range(4, 41, 4)})
    assert rows[-1]["tokens"] == 40 * 512
    assert rows[-1]["loss"] < rows[0]["loss"] - 0.5
    assert all(("val_loss" in row) == (row["step"] % 4 == 0) for row in rows)
    resolved = yaml.safe_load((finished / "config.yaml").read_text())
    assert (resolved["precision"], resolved["optim"]["batch_tokens"]) == ("fp32", 512)
    origin = read_json(finished / "provenance.json")
    assert origin["data_fingerprint"] == open_tokens(tiny_data, "train").fingerprint
    assert origin["torch"] == torch.__version__
    kept = [p.name for p in checkpoint.list_checkpoints(finished)]
    assert kept == ["step-00000030", "step-00000040"]
    assert checkpoint.load_meta(finished / "checkpoints/step-00000040")["tokens"] == 20_480


def test_result_counts_by_hand(finished):
    result = read_json(finished / "result.json")
    matrices, head, norms = 2 * (4 * 32 * 32 + 3 * 32 * 64), 512 * 32, 5 * 32
    assert result["n_params_non_embedding"] == matrices + norms
    assert result["n_params"] == matrices + norms + head
    assert result["n_params_matmul"] == matrices + head
    attention = 2 * 32 * 64  # blocks x width x context: half of the square, forward
    assert result["flops"] == 20_480 * 6 * (matrices + head + attention)
    assert result["flops_full"] == 20_480 * 6 * (matrices + head + 2 * attention)
    assert result["flops_6nd"] == 6 * (matrices + norms) * 20_480
    assert (result["tokens"], result["steps"], result["lr"]) == (20_480, 40, LR)


def test_losses_equal_a_bare_loop(finished, tiny_data):
    """The same batches, AdamW and schedule in eleven lines of PyTorch give the same losses."""
    config = parse(TrainConfig, "Train.", arguments(tiny_data, finished))
    model = Llama(config.model).init_weights(0)
    optimizer = build_optimizer(model, config.optim, LR)
    windows = TokenWindows(open_tokens(tiny_data, "train"), 64, seed=0)
    losses = []
    for step, batch in zip(range(40), build_loader(windows, StepSampler(8, 8)), strict=False):
        for group in optimizer.param_groups:
            group["lr"] = LR * lr_ratio(step, config.optim, warmup_steps=4, steps=40)
        loss = model.loss(batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    previous = 0
    for row in metrics(finished):
        expected = sum(losses[previous : row["step"]]) / (row["step"] - previous)
        assert row["loss"] == pytest.approx(expected, abs=2e-4)
        previous = row["step"]


def test_accumulation_gives_the_same_curve(finished, tiny_data, tmp_path):
    train(tiny_data, tmp_path / "run", "--log_every=3", "--micro_batch=2")
    for split, whole in zip(metrics(tmp_path / "run"), metrics(finished), strict=True):
        assert split["loss"] == pytest.approx(whole["loss"], abs=2e-4)
        assert split["lr"] == whole["lr"]


@pytest.mark.parametrize("micro_batch", [8, 2])
def test_gradients_are_freed_when_the_step_is_taken(tiny_data, tmp_path, monkeypatch, micro_batch):
    """Bytes of gradients at the start of each forward pass, and after each step."""
    forward, step_end = [], []
    training_step = Pretraining.training_step

    def held(module) -> int:
        return sum(p.grad.nbytes for p in module.parameters() if p.grad is not None)

    def watched(self, batch, batch_idx):
        forward.append(held(self))
        return training_step(self, batch, batch_idx)

    class AfterStep(StepCallback):
        def on_step(self, trainer, module, step):
            step_end.append(held(module))

    monkeypatch.setattr(Pretraining, "training_step", watched)
    argv = arguments(tiny_data, tmp_path / "run", f"--micro_batch={micro_batch}", "--device=cpu", tokens=1536)
    planned = plan_run(parse(TrainConfig, "Train.", argv))
    fit(planned, [AfterStep()])
    whole = layout_memory(planned.config, replace(planned.layout, micro_steps=2), False, False, "cpu").gradients
    assert forward == 3 * ([0] + (8 // micro_batch - 1) * [whole])
    assert step_end == [0, 0, 0]


SIGNAL_AT = """
import os, runpy, sys
from llama_scale.training.callbacks import MetricsLog
script, step, number = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
write = MetricsLog.on_step
def on_step(self, trainer, module, now):
    write(self, trainer, module, now)
    if now == step:
        os.kill(os.getpid(), number)
MetricsLog.on_step = on_step
sys.argv = [script, *sys.argv[4:]]
runpy.run_path(script, run_name="__main__")
"""


def run_until(step: int, number: int, *argv: str) -> subprocess.CompletedProcess:
    """Run launch/train.py in a process that gets the signal ``number`` in ``step``."""
    command = [sys.executable, "-c", SIGNAL_AT, str(ROOT / "launch/train.py"), str(step)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run([*command, str(int(number)), *argv], capture_output=True, text=True, env=environment)


def test_killed_runs_end_with_identical_bytes(finished, tiny_data, tmp_path):
    """SIGKILL and SIGTERM of real processes in the middle; the rerun ends like the whole run."""
    run = tmp_path / "run"
    argv = arguments(tiny_data, run, "--checkpoint_every=10", "--log_every=3")
    killed = run_until(12, signal.SIGKILL, *argv)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert [row["step"] for row in metrics(run)] == [3, 4, 6, 8, 9, 12]
    stopped = run_until(24, signal.SIGTERM, *argv)
    assert stopped.returncode == 128 + signal.SIGTERM, stopped.stderr
    assert "saved and stopped; the same command continues" in stopped.stderr
    assert checkpoint.newest(run).name == "step-00000025" and not (run / "result.json").exists()
    train(tiny_data, run, "--checkpoint_every=10", "--log_every=3")
    assert metrics(run) == metrics(finished)
    assert weights(run) == weights(finished)


def check_resumed(data: Path, folder: Path, *flags: str) -> tuple[list, list, bytes, bytes]:
    """Train, then train again from the middle; return rows and weights of both."""
    run = folder / "run"
    train(data, run, "--checkpoint_every=10", "--log_every=1", *flags, tokens=10_240)
    rows, final = metrics(run), weights(run)
    checkpoint.discard(checkpoint.newest(run))
    train(data, run, "--checkpoint_every=10", "--log_every=1", *flags, tokens=10_240)
    return rows, metrics(run), final, weights(run)


def test_the_deterministic_setting_reaches_torch_and_is_recorded(tiny_data, tmp_path, monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    seen, forward = [], Pretraining.training_step

    def watched(self, batch, batch_idx):
        seen.append((torch.are_deterministic_algorithms_enabled(), os.environ.get("CUBLAS_WORKSPACE_CONFIG")))
        return forward(self, batch, batch_idx)

    monkeypatch.setattr(Pretraining, "training_step", watched)
    whole, resumed, *files = check_resumed(tiny_data, tmp_path, "--deterministic=true", "--device=cpu")
    assert set(seen) == {(True, ":4096:8")} and not torch.are_deterministic_algorithms_enabled()
    assert read_json(tmp_path / "run/provenance.json")["deterministic"] is True
    assert resumed == whole and files[0] == files[1]
    argv = arguments(tiny_data, tmp_path / "run", "--device=cpu", tokens=10_240)
    assert ", deterministic)" not in describe(plan_run(parse(TrainConfig, "Train.", argv)))
    assert ", deterministic)" in describe(plan_run(parse(TrainConfig, "Train.", [*argv, "--deterministic=true"])))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("compiled", ["false", "true"])
@pytest.mark.parametrize("deterministic", ["true", "false"])
def test_resume_on_a_gpu_is_exact_if_deterministic_and_close_if_not(tiny_data, tmp_path, deterministic, compiled):
    size = ["--model.d_model=256", "--model.n_heads=4", "--model.d_ff=512", "--model.context_length=512"]
    flags = [*size, "--device=cuda", f"--deterministic={deterministic}", f"--compile={compiled}"]
    whole, resumed, *files = check_resumed(tiny_data, tmp_path, *flags)
    if deterministic == "true":
        assert resumed == whole and files[0] == files[1]
    assert [row["loss"] for row in resumed] == pytest.approx([row["loss"] for row in whole], rel=1e-2)


def test_a_terminal_that_hangs_up_saves_and_stops(finished, tiny_data, tmp_path):
    """The process gets SIGHUP and can show nothing any more; with nohup it goes on to the end."""
    run = tmp_path / "run"
    argv = [sys.executable, str(ROOT / "launch/train.py"), *arguments(tiny_data, run, "--log_every=1", "--device=cpu")]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

    def hang_up(*before: str) -> int:
        log = run / "metrics.jsonl"
        rows = len(read_jsonl(log)) if log.exists() else 0
        child, terminal = pty.fork()
        if child == 0:
            os.chdir(tmp_path)  # where nohup.out goes
            os.execvpe("env", ["env", *before, *argv], environment)
        while not (log.exists() and len(read_jsonl(log)) >= rows + 3):
            with suppress(OSError):
                if select.select([terminal], [], [], 0.01)[0]:
                    os.read(terminal, 1 << 16)
        os.close(terminal)  # the session leader is sent SIGHUP
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    assert hang_up() == 128 + signal.SIGHUP
    saved = checkpoint.newest(run)
    assert saved is not None and 3 <= checkpoint.load_meta(saved)["step"] < 40
    assert hang_up("nohup") == 0
    assert (run / "result.json").exists() and weights(run) == weights(finished)


def test_resume_restores_the_random_generators(tiny_data, tmp_path, monkeypatch):
    """The model draws nothing; a step that does goes on with the numbers that come next."""
    step = Pretraining.training_step

    def noisy(self, batch, batch_idx):
        return step(self, batch, batch_idx) * (torch.rand(()) + random.random() + np.random.rand())

    monkeypatch.setattr(Pretraining, "training_step", noisy)
    run, flags = tmp_path / "run", ["--checkpoint_every=5", "--optim.grad_clip=.inf"]
    train(tiny_data, run, *flags, tokens=5_120)
    whole = weights(run)
    checkpoint.discard(checkpoint.newest(run))
    train(tiny_data, run, *flags, tokens=5_120)
    assert weights(run) == whole


def test_named_steps_are_saved_and_kept(tiny_data, tmp_path):
    flags = ["--checkpoint_every=4", "--keep_last=1", "--keep_steps=[3,7]"]
    train(tiny_data, tmp_path / "run", *flags, tokens=5_120)
    names = [path.name for path in checkpoint.list_checkpoints(tmp_path / "run")]
    assert names == ["step-00000003", "step-00000007", "step-00000010"]


def test_a_setting_of_one_side_alone_is_compared(finished, tiny_data, tmp_path):
    """A config.yaml from before a field existed stands for its default."""
    run = tmp_path / "run"
    run.mkdir()
    shutil.copy(finished / "provenance.json", run)
    past = yaml.safe_load((finished / "config.yaml").read_text())

    def plan(fields: dict, *more: str) -> None:
        (run / "config.yaml").write_text(yaml.safe_dump(fields))
        plan_run(parse(TrainConfig, "Train.", arguments(tiny_data, run, *more)))

    older = {name: value for name, value in past.items() if name != "max_skips"}
    plan(older)
    with pytest.raises(InputError, match=r"max_skips = .* asks for 5"):
        plan(older, "--max_skips=5")
    with pytest.raises(InputError, match=r"dropout = 0\.1, the command asks for None"):
        plan(past | {"dropout": 0.1})


def test_resume_in_the_middle_of_a_logged_interval(finished, tiny_data, tmp_path):
    """A checkpoint between two rows carries the losses since the last one."""
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    shutil.rmtree(run / "checkpoints/step-00000040")
    for name in ("result.json",):
        (run / name).unlink(missing_ok=True)
    settings = yaml.safe_load((run / "config.yaml").read_text()) | {"run": str(run)}
    (run / "config.yaml").write_text(yaml.safe_dump(settings))
    train(tiny_data, run, "--checkpoint_every=10", "--log_every=3")
    assert metrics(run) == metrics(finished)
    assert weights(run) == weights(finished)


def test_finished_run_is_left_alone(finished, tiny_data):
    before = {p: p.stat().st_mtime_ns for p in finished.rglob("*")}
    extra = arguments(tiny_data, finished, "--checkpoint_every=10", "--log_every=3")
    done = run_here("train.py", *extra, cwd=finished.parent)
    assert done.returncode == 0 and "already finished" in done.stdout
    assert {p: p.stat().st_mtime_ns for p in finished.rglob("*")} == before


def test_a_failed_checkpoint_is_reported_and_training_goes_on(tiny_data, tmp_path, monkeypatch, capsys):
    real = checkpoint.save

    def full(folder, *rest):
        if folder.name == "step-00000010":
            raise OSError(28, "No space left on device")
        real(folder, *rest)

    monkeypatch.setattr(checkpoint, "save", full)
    result = train(tiny_data, tmp_path / "run", "--checkpoint_every=10")
    assert "step 10: checkpoint not saved" in capsys.readouterr().err
    assert result["steps"] == 40


@pytest.mark.parametrize(
    ("more", "words"),
    [(["--seed=1"], ["seed = 0", "asks for 1", "choose another run"]), (["--optim.lr=0.001"], ["optim", "0.001"])],
)
def test_another_configuration_is_refused(finished, tiny_data, more, words):
    with pytest.raises(InputError) as error:
        train(tiny_data, finished, *more)
    assert all(word in str(error.value) for word in words), error.value


def test_wrong_vocabulary_is_named(tiny_data, tmp_path):
    with pytest.raises(InputError, match=f"set model.vocab_size to {VOCAB}"):
        train(tiny_data, tmp_path / "run", "--model.vocab_size=1000")


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--size=M1", "--data=absent"], ["absent", "launch/prepare.py"]),
        (["--size=M9"], ["M9", "known"]),
        (["--size=M1", "--device=cuda"], ["cuda"]),
    ],
)
def test_bad_input_from_the_command_line(tmp_path, argv, words):
    if "--device=cuda" in argv and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    done = run_here("train.py", *argv, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert all(word in done.stderr for word in words), done.stderr
    assert os.listdir(tmp_path) == []


def test_a_model_that_the_device_cannot_hold_is_refused(tiny_data, tmp_path, monkeypatch):
    monkeypatch.setattr("llama_scale.device.device_memory", lambda device: 24 * 2**30)
    config = parse(TrainConfig, "Train.", ["--size=M4", f"--data={tiny_data}"])
    with pytest.raises(InputError, match=r"size M4: training needs 5\d\.\d GiB .* 21.6 GiB"):
        plan_run(config)


def test_damaged_shard_is_named_before_anything_is_written(tiny_data, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(tiny_data, broken)
    shard = broken / "train-00000.bin"
    data = bytearray(shard.read_bytes())
    data[100] ^= 1
    shard.write_bytes(data)
    with pytest.raises(InputError, match=r"train-00000.bin: checksum"):
        train(broken, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_config_yaml_of_a_run_repeats_it(finished, tiny_data, tmp_path):
    config = f"--config={finished}/config.yaml"
    again = parse(TrainConfig, "Train.", [config, f"--run={tmp_path}/again"])
    planned = plan_run(again)
    fit(planned, scorers=[Validation(again.data, 4, again.val_tokens)])
    assert weights(tmp_path / "again") == weights(finished)


def test_constant_schedule_is_marked_as_not_annealed(tiny_data, tmp_path):
    result = train(tiny_data, tmp_path / "run", "--optim.schedule=constant", tokens=5_120)
    assert result["annealed"] is False
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").open()]
    assert rows[-1]["lr"] == LR


@pytest.mark.parametrize(
    ("setting", "tokens", "interval"),
    [("auto", 10_240_000, 2_000), ("auto", 51_200, 33), ("auto", 5_120, 10), (7, 51_200, 7), (0, 51_200, 100)],
)
def test_validation_costs_at_most_a_tenth(tiny_data, tmp_path, setting, tokens, interval):
    """A run of 100 steps of 512 tokens affords 3 x 10 % x 51,200 / 5,000 = 3 validations."""
    flags = [f"--val_every={setting}", "--val_tokens=5000"]
    config = parse(TrainConfig, "Train.", arguments(tiny_data, tmp_path, *flags, tokens=tokens))
    assert validation_interval(config, resolve(config)) == interval
