"""Adapters against peft's own model on the exported twin, and the counts that are known of published models."""

import json
import shutil

import pytest
import torch

from llama_scale.checkpoint.export import export_checkpoint
from llama_scale.checkpoint.folder import load_model, write_tensors
from llama_scale.config import FinetuneConfig, LoraSettings, ModelConfig, load_size
from llama_scale.errors import InputError
from llama_scale.files import write_json
from llama_scale.model.foreign import ForeignModel
from llama_scale.model.llama import Llama
from llama_scale.model.lora import CONFIG, WEIGHTS, adapt, config_json, file_names, load_adapter, merge
from llama_scale.training.finetune_plan import count_model
from tests.llama_scale.helpers import small, write_model

peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")

SMOLLM2 = {"d_model": 576, "n_layers": 30, "n_heads": 9, "n_kv_heads": 3, "d_ff": 1536, "vocab_size": 49_152}


def on_meta(shape):
    with torch.device("meta"):
        if isinstance(shape, ModelConfig):
            return Llama(shape)
        return ForeignModel(transformers.GPT2LMHeadModel(shape))


@pytest.mark.parametrize(
    ("shape", "targets", "rank", "trainable"),
    [
        (transformers.GPT2Config(), "c_attn", 4, 147_456),
        (transformers.GPT2Config(), "c_attn", 16, 589_824),
        (transformers.GPT2Config(), "c_attn", 64, 2_359_296),
        (transformers.GPT2Config(), "all-linear", 16, 2_359_296),
        (ModelConfig(**SMOLLM2), "all-linear", 16, 4_884_480),
        (ModelConfig(**SMOLLM2), "q_proj,v", 16, 921_600),
        (load_size("M1"), "all-linear", 16, 525_312),
    ],
)
def test_trainable_parameters_of_published_models(shape, targets, rank, trainable):
    model = on_meta(shape)
    config = FinetuneConfig("base", "pairs", lora=LoraSettings(rank=rank, targets=targets))
    assert count_model(model, config).trainable == trainable
    adapt(model, config.lora, seed=0)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == trainable


def test_gpt2_has_its_published_size():
    assert count_model(on_meta(transformers.GPT2Config()), FinetuneConfig("b", "p", method="full")).total == 124_439_808


def adapted(model, settings, seed=1):
    """Give ``model`` adapters whose second factor is not zero."""
    adapt(model, settings, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def write_adapter(model, settings, folder, base="base"):
    folder.mkdir()
    parameters = dict(model.named_parameters())
    write_tensors(folder / WEIGHTS, {theirs: parameters[ours] for ours, theirs in file_names(model).items()})
    write_json(folder / CONFIG, config_json(model, settings, base))
    return folder


@pytest.mark.parametrize(
    "settings",
    [LoraSettings(4), LoraSettings(8, alpha=4, targets="q,down_proj", rslora=True), LoraSettings(2, targets="gate")],
)
def test_peft_opens_ours_on_the_twin_and_we_open_its_own(settings, tiny_data, tmp_path):
    base = write_model(tmp_path / "base", tiny_data, init_std=0.02, n_kv_heads=2)
    export_checkpoint(base, tmp_path / "twin")
    ours = adapted(load_model(base), settings)
    folder = write_adapter(ours, settings, tmp_path / "adapter")
    tokens = torch.randint(0, 512, (2, 40), generator=torch.Generator().manual_seed(0))

    def theirs(path):
        twin = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "twin")
        return peft.PeftModel.from_pretrained(twin, path).eval()

    with torch.no_grad():
        logits = ours(tokens)
        plain = load_model(base)(tokens)
        assert (logits - plain).abs().max() > 1e-2
        torch.testing.assert_close(theirs(folder)(input_ids=tokens).logits, logits, atol=1e-6, rtol=0)
        theirs(folder).save_pretrained(tmp_path / "again")
        again = load_model(base)
        load_adapter(again, tmp_path / "again")
        torch.testing.assert_close(again.eval()(tokens), logits, atol=0, rtol=0)
        merge(again)
        assert set(again.state_dict()) == set(load_model(base).state_dict())
        torch.testing.assert_close(again(tokens), logits, atol=1e-5, rtol=0)


def test_the_same_of_a_transformers_model(tmp_path):
    """GPT-2's matrices are transposed (fan_in_fan_out), and its head is its embedding."""
    shape = {"n_layer": 2, "n_embd": 32, "n_head": 2, "vocab_size": 101, "n_positions": 64}
    torch.manual_seed(0)
    whole = transformers.GPT2LMHeadModel(transformers.GPT2Config(**shape, eos_token_id=0, bos_token_id=0)).eval()
    whole.save_pretrained(tmp_path / "gpt2")

    def fresh():
        return transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "gpt2").eval()

    settings, tokens = LoraSettings(4, targets="c_attn"), torch.arange(30)[None]
    ours = adapted(ForeignModel(fresh()), settings)
    folder = write_adapter(ours, settings, tmp_path / "adapter")
    with torch.no_grad():
        logits = ours(tokens)
        assert (logits - whole(tokens).logits).abs().max() > 1e-3
        theirs = peft.PeftModel.from_pretrained(fresh(), folder).eval()
        torch.testing.assert_close(theirs(input_ids=tokens).logits, logits, atol=1e-6, rtol=0)
        again = ForeignModel(fresh())
        load_adapter(again, folder)
        merge(again)
        torch.testing.assert_close(again.eval()(tokens), logits, atol=1e-5, rtol=0)
    assert json.loads((folder / CONFIG).read_text())["target_modules"] == ["c_attn"]


def test_a_new_adapter_changes_nothing_and_is_a_function_of_its_seed():
    models = [Llama(small()).init_weights(0).eval() for _ in range(3)]
    tokens = torch.arange(20)[None]
    before = models[0](tokens)
    for model, seed in zip(models, (5, 5, 6), strict=True):
        state = torch.get_rng_state()
        adapt(model, LoraSettings(4), seed)
        assert torch.equal(torch.get_rng_state(), state)
        torch.testing.assert_close(model(tokens), before, atol=0, rtol=0)
    first, same, other = ([p for n, p in m.named_parameters() if ".lora_A." in n] for m in models)
    assert all(torch.equal(a, b) for a, b in zip(first, same, strict=True))
    assert not torch.equal(first[0], other[0])
    assert [n for n, p in models[0].named_parameters() if p.requires_grad and ".lora_" not in n] == []


def test_dropout_is_drawn_again_where_a_block_is_recomputed():
    model = Llama(small()).init_weights(0)
    adapt(model, LoraSettings(4, dropout=0.3), 0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(std=0.1)
    gradients = []
    for recompute in (False, True):
        for block in model.blocks:
            block.recompute = recompute
        model.zero_grad()
        torch.manual_seed(3)
        model.loss(torch.randint(0, 101, (2, 33), generator=torch.Generator().manual_seed(0))).backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.requires_grad])
    torch.testing.assert_close(gradients[0], gradients[1])


@pytest.mark.parametrize(
    ("fields", "targets", "message"),
    [
        ({}, "query", r"no layer 'query'.* there are .*q_proj"),
        ({}, "q,head", "head cannot be adapted: token embedding and output head are one matrix"),
        ({}, "lm_head", "are one matrix"),
        ({}, "embed_tokens", "are one matrix"),
        ({"tie_embeddings": False}, "lm_head", "the head takes no adapter"),
    ],
)
def test_targets_that_cannot_be_are_named(fields, targets, message):
    with pytest.raises(InputError, match=message):
        adapt(Llama(small(**fields)), LoraSettings(targets=targets), 0)
    with pytest.raises(InputError, match=r"lora.rank: expected at least 1, found 0"):
        LoraSettings(rank=0)


def test_an_adapter_of_another_base_is_refused(tmp_path):
    settings = LoraSettings(4)
    folder = write_adapter(adapted(Llama(small()), settings), settings, tmp_path / "adapter")
    with pytest.raises(InputError, match=r"is \(4, 64\), not \(4, 32\); it is of another base"):
        load_adapter(Llama(small(d_model=32)), folder)
    with pytest.raises(InputError, match=r"adapts model.layers.2.* which this base lacks"):
        load_adapter(Llama(small(n_layers=2)), folder)
    fields = json.loads((folder / CONFIG).read_text())
    write_json(folder / CONFIG, fields | {"use_dora": True})
    with pytest.raises(InputError, match="use_dora is True; merge such an adapter with peft"):
        load_adapter(Llama(small()), folder)
    write_json(folder / CONFIG, fields)
    (folder / WEIGHTS).write_bytes(b"damaged")
    with pytest.raises(InputError, match="cannot be read"):
        load_adapter(Llama(small()), folder)
    shutil.rmtree(folder)
    with pytest.raises(InputError, match="no such file"):
        load_adapter(Llama(small()), folder)
