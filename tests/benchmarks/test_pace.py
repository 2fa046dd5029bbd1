"""The sampling and overhead modes of the benchmark."""

import json

import pytest
import torch

from benchmarks import generate
from benchmarks.training import overhead
from benchmarks.training.bare_loop import Turns
from llama_scale.config import ModelConfig, OptimConfig, TrainConfig, load_size
from llama_scale.data.tokenizer import Tokenizer
from llama_scale.errors import InputError
from llama_scale.model.llama import Llama
from llama_scale.training.callbacks import StepCallback
from llama_scale.training.run_plan import plan_run
from llama_scale.training.trainer import fit
from tests.conftest import run_script


def config(tiny_data, **changes) -> generate.GenerateBenchmark:
    model = ModelConfig(
        d_model=32, n_layers=2, n_heads=2, d_ff=64, vocab_size=512, context_length=512
    )
    settings = {
        "model": model, "tokenizer": str(tiny_data / "tokenizer.model"), "prompts": 4,
        "n_samples": 3, "max_new_tokens": 6, "together": 2, "device": "cpu",
    }  # fmt: skip
    return generate.GenerateBenchmark(**settings | changes)


def test_generate_mode(tiny_data):
    result = generate.run(config(tiny_data, peers="single,together,static"))
    ours, *peers = result["contenders"]
    assert [row["name"] for row in peers] == [
        "transformers, a prompt at a time",
        "transformers, prompts together",
        "transformers, static cache",
    ]
    assert ours["ratio"] == 1
    for row in result["contenders"]:
        assert 4 * 3 * 6 * 0.8 < row["tokens"] <= 4 * 3 * 6
        assert row["ratio"] > 0 and row["tokens_per_second"] > 0
    assert "transformers, static cache" in generate.table(result)


def test_weights_that_differ_are_not_compared(tiny_data):
    tokenizer = Tokenizer(tiny_data / "tokenizer.model")
    model = Llama(config(tiny_data).model).init_weights(0).eval()
    other = generate.transformers_model(Llama(model.config).init_weights(1))
    generate.check_logits(model, generate.transformers_model(model), tokenizer, ["def f(x):"])
    with pytest.raises(InputError, match="logits differ from ours"):
        generate.check_logits(model, other, tokenizer, ["def f(x):"])


def test_settings_that_do_not_fit_are_named(tiny_data, tmp_path):
    small = ModelConfig(d_model=32, n_layers=1, n_heads=2, d_ff=64, vocab_size=100)
    with pytest.raises(InputError, match=r"pass --model.vocab_size 512"):
        generate.run(config(tiny_data, model=small))


def test_padding_does_not_count_as_tokens(tiny_data):
    class Peer:
        device = torch.device("cpu")

        def generate(self, tokens, attention_mask, **_):
            assert tokens.tolist() == [[0, 5, 6], [7, 8, 9]]
            assert attention_mask.tolist() == [[0, 1, 1], [1, 1, 1]]
            new = torch.tensor([[4, 2, 0], [4, 4, 4]])  # 2 ends a document, then padding
            return torch.cat([tokens, new], dim=1)

    rows = generate.complete(Peer(), [[5, 6], [7, 8, 9]], eos=2, max_new_tokens=3)
    assert rows == [[4], [4, 4, 4]]


def test_overhead_mode(tiny_data, tmp_path):
    out = tmp_path / "out.json"
    done = run_script(
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
    turns, kept = Turns(planned, warmup=2, block=1), []

    class Keep(StepCallback):
        def on_step(self, trainer, module, step):
            kept.append({k: v.clone() for k, v in module.model.state_dict().items()})

    fit(planned, [turns, Keep()])
    assert len(turns.trainer) == len(turns.bare) == 4
    for name, value in turns.model.state_dict().items():
        torch.testing.assert_close(kept[-1][name], value, atol=0, rtol=0)


def test_overhead_settings():
    with pytest.raises(InputError, match="steps: expected at least 1"):
        overhead.OverheadBenchmark(model=None, steps=0)
