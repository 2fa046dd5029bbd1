"""Adapters beside all weights and peft: the same losses, a ratio for each."""

import pytest

from benchmarks.training.finetune import FinetuneBenchmark, run, table
from benchmarks.training.finetune_worker import FinetuneJob, build_contender, draw_batch, to_examples
from llama_scale.config import ModelConfig
from llama_scale.errors import InputError

pytest.importorskip("peft")
SHAPE = {"d_model": 32, "n_layers": 2, "n_heads": 2, "d_ff": 64, "vocab_size": 101, "context_length": 64}


def job(peer, method):
    return FinetuneJob(peer, method, SHAPE, micro_batch=3, length=32, rank=4)


def test_all_contenders_have_one_loss_and_adapters_one_gradient():
    batch = draw_batch(job("llama_scale", "lora"), 5)
    found = {}
    for peer, method in (("llama_scale", "lora"), ("llama_scale", "full"), ("peft", "lora")):
        model, loss = build_contender(job(peer, method))
        value = loss(batch)
        value.backward()
        gradients = [p.grad.norm().item() for n, p in model.named_parameters() if ".lora_B." in n]
        found[peer, method] = value.item(), sorted(gradients)
    values = [value for value, _ in found.values()]
    assert values == pytest.approx([values[0]] * 3, rel=1e-5)
    assert found["peft", "lora"][1] == pytest.approx(found["llama_scale", "lora"][1], rel=1e-4)
    assert len(found["peft", "lora"][1]) == 14


def test_examples_have_targets_at_their_ends_and_padding_has_none():
    batch = draw_batch(job("llama_scale", "lora"), 1)
    examples = to_examples(batch)
    assert len(examples.targets) == int(batch.target.sum())
    assert not (batch.target & ~batch.present).any()
    assert (examples.targets >= 3).all()


def test_the_benchmark_times_all_in_turn():
    config = FinetuneBenchmark(ModelConfig(**SHAPE), batch=2, length=32, steps=2, warmup=1, device="cpu", threads=1)
    result = run(config)
    assert [row["name"] for row in result["contenders"]] == ["adapters", "full", "peft"]
    assert all(row["peak_memory"] > 0 and len(row["seconds"]) == 2 for row in result["contenders"])
    assert "adapters are" in table(result)
    with pytest.raises(InputError, match="length: expected 8 to the context of 64, found 65"):
        FinetuneBenchmark(ModelConfig(**SHAPE), length=65)
    with pytest.raises(InputError, match="unknown 'litgpt'"):
        FinetuneBenchmark(ModelConfig(**SHAPE), length=32, peers="litgpt")
