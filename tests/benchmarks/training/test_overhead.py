"""The trainer beside a bare loop."""

import json

import pytest
import torch

from benchmarks.training import overhead
from benchmarks.training.bare_loop import BareLoop
from llama_scale.config import OptimConfig, TrainConfig, load_size
from llama_scale.errors import InputError
from llama_scale.training.callbacks import StepCallback
from llama_scale.training.run_plan import plan_run
from llama_scale.training.trainer import fit
from tests.conftest import run_here


def test_overhead_mode(tiny_data, tmp_path):
    out = tmp_path / "out.json"
    done = run_here(
        "benchmark.py", "overhead", "--size=Q1", "--model.vocab_size=512",
        "--model.context_length=256", f"--data={tiny_data}", "--steps=6", "--warmup=2",
        "--threads=1", "--device=cpu", f"--out={out}", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads(out.read_text())
    assert result["tokens_per_step"] == 256
    assert result["trainer_ms"] > 0 and result["bare_ms"] > 0
    assert 0 < result["seconds_to_first_step"] < 300
    assert "first step" in done.stdout
    assert not (tmp_path / "runs").exists()


def test_both_loops_learn_alike(tiny_data, tmp_path):
    """The bare loop does the trainer's work: after the same steps it has the same weights."""
    planned = plan_run(
        TrainConfig(
            model=load_size("Q2", vocab_size=512, context_length=128),
            data=str(tiny_data), run=str(tmp_path / "run"), tokens=128 * 2 * 6,
            optim=OptimConfig(batch_tokens=256, schedule="constant", warmup_steps=0),
            device="cpu", micro_batch=2, threads=1, val_every=0, compile=False,
        )
    )  # fmt: skip
    bare_loop, weights = BareLoop(planned, warmup=2, block=1), []

    class RecordWeights(StepCallback):
        def on_step(self, trainer, module, step):
            weights.append({k: v.clone() for k, v in module.model.state_dict().items()})

    fit(planned, [bare_loop, RecordWeights()])
    assert len(bare_loop.trainer_seconds) == len(bare_loop.bare_seconds) == 4
    for name, value in bare_loop.model.state_dict().items():
        torch.testing.assert_close(weights[-1][name], value, atol=0, rtol=0)


def test_too_few_steps_for_a_turn_are_one_line(tiny_data):
    model = load_size("Q1", vocab_size=512, context_length=64)
    config = overhead.OverheadBenchmark(
        model=model, data=str(tiny_data), steps=2, warmup=1, block=4, device="cpu", threads=1
    )
    with pytest.raises(InputError, match="steps: 2 are too few for turns of 4"):
        overhead.run(config)


def test_overhead_settings():
    with pytest.raises(InputError, match="steps: expected at least 1"):
        overhead.OverheadBenchmark(model=None, steps=0)


def test_table():
    result = {
        "size": "M1", "tokens_per_step": 2048, "precision": "fp32", "compile": True,
        "device": "cpu", "trainer_ms": 1057.08, "bare_ms": 1051.85, "overhead": 0.00168,
        "overhead_quartiles": [-0.0141, 0.0207], "seconds_to_first_step": 6.15,
    }  # fmt: skip
    assert overhead.table(result).splitlines() == [
        "M1, 2,048 tokens a step, fp32, compiled, cpu",
        "loop       ms/step  over the bare loop (quartiles)",
        "trainer     1057.1       +0.17% (-1.41% to +2.07%)",
        "bare loop   1051.8                               -",
        "",
        "first step of launch/train.py after 6.2 s",
    ]
