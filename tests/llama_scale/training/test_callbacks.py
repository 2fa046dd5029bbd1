"""What the metrics log writes, with a clock of the test's own."""

import json
import signal
from types import SimpleNamespace

import pytest
import torch

from llama_scale.training import callbacks
from llama_scale.training.callbacks import MetricsLog, Progress, SlowSteps, StepCost, StepMetrics, StopOnSignal


def test_scoring_does_not_count_as_training_time(tmp_path, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(callbacks.time, "perf_counter", lambda: clock[0])
    measured = StepMetrics(
        loss=torch.tensor(2.0), grad_norm=torch.tensor(1.0), lr=0.1,
        skips=torch.tensor(0), skips_in_row=torch.tensor(0),
    )  # fmt: skip

    def score(trainer, module, step):
        if step != 2:
            return {}
        clock[0] += 4.0
        return {"val_loss": 3.0}

    module = SimpleNamespace(device=torch.device("cpu"))
    trainer = SimpleNamespace(global_step=0, max_steps=3, should_stop=False, is_global_zero=True)
    cost = StepCost(tokens=500, flops_per_token=10, flops_per_token_full=20, peak_flops=1e5)
    log = MetricsLog(tmp_path / "metrics.jsonl", every=2, cost=cost, scorers=[score])
    log.on_train_start(trainer, module)
    for step, seconds in ((1, 1.0), (2, 1.0), (3, 4.0)):
        clock[0] += seconds
        log.take(measured)
        log.on_step(trainer, module, step)
    first, last = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
    # 1,000 tokens in 6 s, 4 of them spent on scoring; then 500 tokens in 4 s
    assert (first["tokens_per_second"], first["val_loss"]) == (500, 3.0)
    assert (first["mfu"], first["mfu_full"], first["peak_flops"]) == (0.05, 0.1, 1e5)
    assert last["tokens_per_second"] == 125 and "val_loss" not in last


def test_plain_lines_have_loss_speed_mfu_and_time_left(capsys):
    trainer = SimpleNamespace(global_step=0, is_global_zero=False)
    progress = Progress(20, "run")
    progress.on_train_start(trainer, None)
    progress.listen({"loss": 2.5, "tokens_per_second": 1234.0, "mfu": 0.512})
    progress.on_step(trainer, None, 1)
    progress.on_step(trainer, None, 2)
    progress.listen({"loss": 2.5, "tokens_per_second": 1234.0})
    progress.on_step(trainer, None, 4)
    progress.on_train_end(trainer, None)
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("run: step 2/20 loss 2.5000 1,234 tokens/s, MFU 51.2%, ")
    assert first.endswith(" s left") and "MFU" not in second


def test_steps_that_become_far_slower_are_told_of_once(capsys):
    watch = SlowSteps(tokens=100, step=40)
    seconds = [1.0, 0.9, 1.1, 1.0, 1.2, 1.0, 0.8, 1.0, 1.9, 2.5, 6.0, 1.0, 4.0]
    for number, each in enumerate(seconds, start=1):
        watch.listen({"step": 40 + 10 * number, "tokens_per_second": 100 / each})
    told = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in told] == ["step 140", "step 170"]
    assert "steps take 2.5 times their median of 1 s; is other work running here (load " in told[0]


def test_fast_steps_that_lose_no_second_are_not_told_of(capsys):
    watch = SlowSteps(tokens=100, step=0)
    for number, each in enumerate([0.01] * 10 + [0.09], start=1):
        watch.listen({"step": 10 * number, "tokens_per_second": 100 / each})
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGINT])
def test_a_signal_that_was_ignored_stays_ignored(number, monkeypatch):
    trainer = SimpleNamespace(global_step=0, world_size=1)
    before = signal.signal(number, signal.SIG_IGN)
    try:
        stop = StopOnSignal()
        stop.on_train_start(trainer, None)
        assert signal.getsignal(number) == signal.SIG_IGN
        others = [each for each in stop.SIGNALS if each != number]
        assert all(signal.getsignal(each) == stop._handle for each in others)
        stop.on_train_end(trainer, None)
        assert signal.getsignal(number) == signal.SIG_IGN
    finally:
        signal.signal(number, before)
