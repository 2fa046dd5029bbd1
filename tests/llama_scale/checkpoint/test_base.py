"""Bases of the families that people tune, each with the files of its own repositories and small random weights."""

import os
import shutil
from fnmatch import fnmatch
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from launch import finetune
from llama_scale.checkpoint import folder as folders
from llama_scale.checkpoint.base import find_base
from llama_scale.checkpoint.export import export_checkpoint
from llama_scale.checkpoint.opened import open_model
from llama_scale.errors import InputError
from llama_scale.files import read_json
from tests.llama_scale.helpers import write_model, write_pairs

peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")

ENDS = {"vocab_size": 512, "bos_token_id": 2, "eos_token_id": 2}
GPT = {"n_layer": 2, "n_embd": 32, "n_head": 4, "n_positions": 128, **ENDS}
# Of each family its configuration, the layers that peft adapts in it unless told otherwise, and their shapes.
FAMILIES = {
    "gpt2": (transformers.GPT2Config(**GPT), "c_attn", (32, 96)),
    "codegen": (transformers.CodeGenConfig(**GPT, n_ctx=128, rotary_dim=4, tie_word_embeddings=False),
                "qkv_proj", (32, 96)),
    "gpt_bigcode": (transformers.GPTBigCodeConfig(**GPT, multi_query=True), "c_attn", (32, 48)),
    "qwen2": (transformers.Qwen2Config(hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
                                       num_key_value_heads=2, intermediate_size=64, max_position_embeddings=128,
                                       tie_word_embeddings=True, **ENDS), "q_proj", (32, 32)),
    "llama": (transformers.LlamaConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
                                       num_key_value_heads=2, intermediate_size=64, max_position_embeddings=128,
                                       **ENDS), "q_proj", (32, 32)),
}  # fmt: skip
TOKENS = torch.arange(3, 43)[None]


@pytest.fixture(scope="module")
def here(tiny_data, tmp_path_factory):
    """A folder with each base and pairs; the working directory."""
    folder, before = tmp_path_factory.mktemp("families"), os.getcwd()
    os.chdir(folder)
    write_model(Path("ours"), tiny_data)
    export_checkpoint(Path("ours"), Path("twin"))
    write_pairs(Path("train.jsonl"), 8)
    for name, (config, _, _) in FAMILIES.items():
        torch.manual_seed(0)
        transformers.AutoModelForCausalLM.from_config(config).save_pretrained(name)
        for file in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copyfile(Path("twin", file), Path(name, file))
    yield folder
    os.chdir(before)


def of_transformers(folder):
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_is_tuned_opened_by_peft_merged_and_written(here, name):
    _, target, shape = FAMILIES[name]
    base = find_base(name)
    assert base.kind == ("llama" if name == "llama" else "transformers")
    run = f"tuned-{name}"
    finetune.main([f"--base={name}", "--train=train.jsonl", f"--run={run}", f"--lora.targets={target}", "--steps=2",
                   "--lora.rank=2", "--optim.lr=0.05", "--batch=4", "--device=cpu", "--precision=fp32"])  # fmt: skip
    result = read_json(f"{run}/result.json")
    assert result["model_type"] == name and result["trainable_params"] == 2 * 2 * sum(shape)
    with torch.no_grad():
        before = of_transformers(name)(TOKENS).logits
        adapted = open_model(run, merged=False)(TOKENS)
        assert (adapted - before).abs().max() > 1e-3
        theirs = peft.PeftModel.from_pretrained(of_transformers(name), folders.resolve(run)).eval()
        torch.testing.assert_close(theirs(TOKENS).logits, adapted, atol=1e-6, rtol=0)
        torch.testing.assert_close(open_model(run)(TOKENS), adapted, atol=1e-5, rtol=0)
        export_checkpoint(run, f"merged-{name}")
        torch.testing.assert_close(of_transformers(f"merged-{name}")(TOKENS).logits, adapted, atol=1e-5, rtol=0)
    merged = find_base(f"merged-{name}")  # which can be tuned in its turn
    text = "def f(x):\n    return x\n"
    assert merged.kind == base.kind and merged.tokenizer().encode(text) == base.tokenizer().encode(text)


@pytest.mark.parametrize("pickled", [False, True])
def test_a_model_of_the_hub_is_fetched_with_the_weights_that_it_has(here, monkeypatch, pickled):
    """As CodeGen, a repository may have pickled weights alone; safe ones are taken where both are there."""
    import huggingface_hub

    repository, cache = Path(f"hub-{pickled}"), Path(f"cache-{pickled}")
    shutil.copytree("codegen", repository)
    (repository / "README.md").write_text("no part of it\n")
    torch.save(of_transformers("codegen").state_dict(), repository / "pytorch_model.bin")
    if pickled:
        (repository / "model.safetensors").unlink()

    def snapshot_download(name, allow_patterns):
        assert name == "Salesforce/codegen-350M-mono"
        cache.mkdir(exist_ok=True)
        for file in repository.iterdir():
            if any(fnmatch(file.name, pattern) for pattern in allow_patterns):
                shutil.copyfile(file, cache / file.name)
        return str(cache)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    base = find_base("Salesforce/codegen-350M-mono")
    weights = "pytorch_model.bin" if pickled else "model.safetensors"
    assert {file.name for file in cache.iterdir()} == {
        "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", weights
    }  # fmt: skip
    assert base.from_hub and base.meta["name"] == "Salesforce/codegen-350M-mono"
    with torch.no_grad():
        torch.testing.assert_close(base.load().eval()(TOKENS), of_transformers("codegen")(TOKENS).logits)


def test_weights_that_run_code_are_refused(here):
    class Runs:
        def __reduce__(self):
            return os.mkdir, ("was-run",)

    shutil.copytree("codegen", "evil")
    Path("evil/model.safetensors").unlink()
    torch.save({"lm_head.weight": Runs()}, "evil/pytorch_model.bin")
    with pytest.raises(InputError, match=r"pytorch_model\.bin: damaged, or it holds more than tensors"):
        find_base("evil")
    assert not Path("was-run").exists()
    Path("evil/pytorch_model.bin").write_bytes(b"PK\3\4 cut short")
    with pytest.raises(InputError, match=r"pytorch_model\.bin: damaged"):
        find_base("evil")


@pytest.mark.parametrize("zipped", [True, False])
def test_pickled_weights_of_both_kinds_of_files_are_read(here, zipped):
    """torch.save wrote plain pickles before version 1.6, as repositories of that time have them."""
    folder = Path(f"pickled-{zipped}")
    shutil.copytree("codegen", folder)
    torch.save(
        load_file(folder / "model.safetensors"), folder / "pytorch_model.bin", _use_new_zipfile_serialization=zipped
    )
    (folder / "model.safetensors").unlink()
    with torch.no_grad():
        torch.testing.assert_close(
            find_base(str(folder)).load().eval()(TOKENS), of_transformers("codegen")(TOKENS).logits
        )


def huge(path):
    """Make a file of 4 TiB that takes no room: to read it whole takes hours."""
    with open(path, "wb") as file:
        file.truncate(1 << 42)
    return path


def test_a_gguf_file_is_looked_at_before_it_is_read(tmp_path):
    with pytest.raises(InputError, match="not a GGUF file"):
        find_base(str(huge(tmp_path / "a.gguf")), tmp_path / "bases")


def test_weights_are_looked_at_before_they_are_read(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    huge(tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=r"model\.safetensors: not a safetensors file"):
        find_base(str(tmp_path))
