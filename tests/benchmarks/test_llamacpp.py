"""The GGUF file read by another reader; llama.cpp itself where its environment is there."""

import copy

import pytest
import torch
import transformers

from benchmarks import generate
from benchmarks.environment import project_folder
from benchmarks.llamacpp import write_gguf
from llama_scale.config import ModelConfig
from llama_scale.model.llama import Llama

BUILT = (project_folder() / ".peers" / "llama_cpp" / "installed").exists()


@torch.no_grad()
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_transformers_reads_the_same_model(tmp_path, tied, dtype):
    shape = {"d_model": 64, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "d_ff": 96, "vocab_size": 128}
    model = Llama(ModelConfig(**shape, context_length=64, tie_embeddings=tied)).init_weights(1).eval()
    for parameter in model.parameters():
        parameter.copy_(parameter.to(dtype))  # a value that both precisions have
    write_gguf(copy.deepcopy(model).to(dtype), tmp_path / "model.gguf")
    load = {"gguf_file": "model.gguf", "local_files_only": True}
    peer = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32, **load).eval()
    tokens = torch.randint(0, 128, (2, 30))
    torch.testing.assert_close(peer(tokens).logits, model(tokens), atol=2e-5, rtol=0)


def test_rows_are_measured_one_number_after_another(monkeypatch):
    seen = []

    def measured(config):
        seen.append((config.n_samples, config.together))
        return {"n": config.n_samples}

    run, model = generate.run, ModelConfig(d_model=32, n_layers=1, n_heads=2, d_ff=64)
    monkeypatch.setattr(generate, "run", measured)
    assert run(generate.GenerateBenchmark(model, rows="1, 16")) == {"rows": [{"n": 1}, {"n": 16}]}
    assert seen == [(1, 1), (16, 1)]


@pytest.mark.parametrize("rows", ["0", "1,", "x", "-1"])
def test_rows_that_are_none_are_named(rows):
    with pytest.raises(generate.InputError, match="rows: expected whole numbers"):
        generate.GenerateBenchmark(ModelConfig(d_model=32, n_layers=1, n_heads=2, d_ff=64), rows=rows)


@pytest.mark.skipif(not BUILT, reason="llama-cpp-python is not built: launch/benchmark.py generate --peers llamacpp")
def test_llama_cpp_draws_beside_ours(tiny_data):
    model = ModelConfig(d_model=64, n_layers=2, n_heads=2, d_ff=64, vocab_size=512, context_length=512)
    settings = {"prompts": 2, "max_new_tokens": 6, "rows": "1,3", "peers": "llamacpp", "device": "cpu"}
    config = generate.GenerateBenchmark(model, tokenizer=str(tiny_data / "tokenizer.model"), **settings)
    one, three = generate.run(config)["rows"]
    assert [row["name"] for row in one["contenders"]] == ["llama_scale", "llama.cpp"]
    assert [row["name"] for row in three["contenders"]][1:] == ["llama.cpp, one cache", "llama.cpp, a cache each"]
    for rows, count in ((one, 1), (three, 3)):
        assert all(2 * 6 * count * 0.7 < row["tokens"] <= 2 * 6 * count for row in rows["contenders"])
    assert generate.table({"rows": [one, three]}).count("llama_scale is (quartiles)") == 2
