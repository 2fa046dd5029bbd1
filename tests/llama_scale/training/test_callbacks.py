"""What the metrics log writes, with a clock of the test's own."""

import json
from types import SimpleNamespace

import torch

from llama_scale.training import callbacks
from llama_scale.training.callbacks import MetricsLog, Progress


def test_scoring_does_not_count_as_training_time(tmp_path, monkeypatch):
    clock = iter([100.0, 106.0, 110.0])
    monkeypatch.setattr(callbacks.time, "perf_counter", lambda: next(clock))
    module = SimpleNamespace(
        device=torch.device("cpu"), step_loss=torch.tensor(2.0), grad_norm=torch.tensor(1.0),
        recipe=SimpleNamespace(batch_tokens=500), flops_per_token=10, flops_per_token_full=20,
        guard=SimpleNamespace(skipped=0), lr_at=lambda step: 0.1, scores={}, seconds_scoring=0.0,
        peak_flops=1e5,
    )  # fmt: skip
    trainer = SimpleNamespace(global_step=0, max_steps=3, is_global_zero=True)
    log = MetricsLog(tmp_path / "metrics.jsonl", every=2)
    log.on_train_start(trainer, module)
    log.on_step(trainer, module, 1)
    module.scores, module.seconds_scoring = {"val_loss": 3.0}, 4.0
    log.on_step(trainer, module, 2)  # 1,000 tokens in 6 s, 4 of them spent on scoring
    log.on_step(trainer, module, 3)  # 500 tokens in 4 s
    first, last = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
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
