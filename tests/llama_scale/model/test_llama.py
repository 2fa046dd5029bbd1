"""The model against transformers' LLaMA and the published parameter counts."""

import dataclasses
import math
from functools import partial
from itertools import pairwise

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from llama_scale.config import ModelConfig, load_size
from llama_scale.model.hf import from_hf, hf_config, to_hf
from llama_scale.model.llama import EOS, Llama
from tests.llama_scale.helpers import SHAPES, small


@pytest.fixture(params=SHAPES.values(), ids=SHAPES)
def config(request) -> ModelConfig:
    return small(**request.param)


def reference(config: ModelConfig):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(7)
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**hf_config(config))).eval()


@torch.no_grad()
def test_logits_equal_transformers_with_our_weights(config):
    ours, theirs = Llama(config).init_weights(3).eval(), reference(config)
    for parameter in ours.parameters():  # leave the initial scale, where every logit is near 0
        parameter.mul_(1.5)
    theirs.load_state_dict(to_hf(ours.state_dict()))
    tokens = torch.randint(0, config.vocab_size, (2, 80))
    logits = ours(tokens)  # (2, 80, V)
    assert (logits - theirs(tokens).logits).abs().max() < 1e-5 * max(1, logits.std())


@torch.no_grad()
def test_logits_equal_transformers_with_their_weights(config):
    ours, theirs = Llama(config).eval(), reference(config)
    ours.load_state_dict(from_hf(theirs.state_dict(), list(ours.state_dict())))
    tokens = torch.randint(0, config.vocab_size, (2, 80))
    assert (ours(tokens) - theirs(tokens).logits).abs().max() < 1e-5


def test_loss_and_gradients_equal_transformers():
    config = small()
    ours, theirs = Llama(config).init_weights(0), reference(config)
    theirs.load_state_dict(to_hf(ours.state_dict()))
    tokens = torch.randint(0, config.vocab_size, (2, 65))
    loss = ours.loss(tokens)
    loss.backward()
    # transformers shifts inside: the labels of the last position have no logits.
    expected = theirs(tokens, labels=tokens).loss
    expected.backward()
    torch.testing.assert_close(loss, expected, atol=1e-6, rtol=0)
    gradients = to_hf({name: p.grad for name, p in ours.named_parameters()})
    for name, parameter in theirs.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, atol=1e-6, rtol=1e-4)


def test_no_position_sees_the_future():
    model = Llama(small()).init_weights(0).eval()
    tokens = torch.randint(0, 101, (1, 30))
    changed = tokens.clone()
    changed[0, 20:] = (changed[0, 20:] + 1) % 101
    before, after = model(tokens), model(changed)
    torch.testing.assert_close(before[:, :20], after[:, :20], atol=0, rtol=0)
    assert (before[:, 20:] - after[:, 20:]).abs().min(dim=-1).values.max() > 0


@pytest.mark.parametrize("tie", [True, False])
def test_an_empty_model_is_a_whole_one(tie):
    config = small(tie_embeddings=tie)
    empty, usual = Llama.empty_model(config).init_weights(3), Llama(config).init_weights(3)
    assert all(torch.equal(a, b) for a, b in zip(empty.parameters(), usual.parameters(), strict=1))
    assert (empty.head.weight is empty.embedding.weight) == tie
    tokens = torch.randint(0, config.vocab_size, (2, 9))
    assert torch.equal(empty(tokens), usual(tokens))


def test_initial_weights():
    config = small(d_model=256, n_heads=4, d_ff=512, n_layers=8)
    model = Llama(config).init_weights(0)
    std = math.sqrt(2 / (5 * 256))
    deviations = {name: p.std().item() for name, p in model.named_parameters() if p.dim() == 2}
    for name, deviation in deviations.items():
        residual = name.endswith(("attention.o.weight", "ffn.down.weight"))
        assert deviation == pytest.approx(std / 4 if residual else std, rel=0.03), name
    assert all((p == 1).all() for p in model.parameters() if p.dim() == 1)
    again = Llama(config).init_weights(0)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=1))
    other = Llama(config).init_weights(1)
    assert not torch.equal(model.embedding.weight, other.embedding.weight)


@pytest.mark.parametrize(
    ("name", "d_model", "n_layers", "d_ff", "head_dim", "total"),
    [
        ("M1", 192, 9, 512, 64, 10_128_960),
        ("M2", 640, 15, 1792, 64, 96_685_440),
        ("M3", 1408, 19, 3840, 128, 503_961_216),
        ("M4", 3072, 26, 8192, 128, 3_042_868_224),
        ("M5", 4352, 30, 11648, 128, 6_974_606_592),
        ("S1", 64, 6, 256, 64, None),
        ("S2", 128, 8, 384, 64, None),
        ("S3", 192, 9, 512, 64, 10_128_960),
        ("S4", 256, 10, 768, 64, None),
        ("S5", 320, 11, 896, 64, None),
        ("S6", 384, 12, 1024, 64, None),
        ("S7", 512, 13, 1408, 64, None),
        ("S8", 640, 15, 1792, 64, 96_685_440),
    ],
)
def test_ladder(name, d_model, n_layers, d_ff, head_dim, total):
    config = load_size(name)
    assert (config.d_model, config.n_layers, config.d_ff) == (d_model, n_layers, d_ff)
    assert config.head_dim == head_dim
    assert n_layers == round(1.33 * d_model**0.37)
    assert d_ff == 128 * -(-8 * d_model // 3 // 128) or d_ff == 128 * -(-(8 * d_model) // 384)
    with torch.device("meta"):
        counted = sum(p.numel() for p in Llama(config).parameters())
    assert total is None or counted == total


def test_masked_documents_equal_each_alone():
    config = ModelConfig(
        d_model=32, n_layers=2, n_heads=2, d_ff=64, vocab_size=50, context_length=40,
        document_mask=True,
    )  # fmt: skip
    model = Llama(config).init_weights(0)
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(3, 50, (2, 40), generator=generator)  # no document end among them
    ends = [[7, 8, 20], [0, 39]]
    for row, places in zip(rows, ends, strict=True):
        row[places] = EOS
    packed = model(rows)  # (2, 40, 50)
    for row, places, logits in zip(rows, ends, packed, strict=True):
        for start, stop in pairwise(sorted({0, *places, 40})):
            alone = model(row[None, start:stop])[0]
            torch.testing.assert_close(logits[start:stop], alone, atol=2e-6, rtol=1e-5)
    plain = Llama(dataclasses.replace(config, document_mask=False))
    plain.load_state_dict(model.state_dict())
    assert not torch.allclose(plain(rows), packed, atol=1e-3)


@pytest.mark.parametrize("masked", [False, True])
def test_recomputing_gives_the_same_gradients(masked):
    config = ModelConfig(
        d_model=32, n_layers=2, n_heads=2, d_ff=64, vocab_size=50, context_length=16,
        document_mask=masked,
    )  # fmt: skip
    tokens = torch.randint(0, 50, (2, 17), generator=torch.Generator().manual_seed(0))
    gradients = []
    for recompute in (False, True):
        model = Llama(config).init_weights(0)
        for block in model.blocks:
            block.recompute = recompute
        model.loss(tokens).backward()
        gradients.append([p.grad for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_compiled_code_is_for_one_shape_each(monkeypatch):
    """Validation has another batch: it gets code of its own, that of training stays and no size becomes a variable."""
    made = CompileCounterWithBackend("aot_eager")
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=made))
    torch._dynamo.reset()
    config = ModelConfig(d_model=32, n_layers=3, n_heads=2, d_ff=64, vocab_size=100, context_length=16)
    model = Llama(config).init_weights(0)
    model.compile_parts()

    def train():
        model.loss(torch.randint(0, 100, (2, 17))).backward()

    def validate():
        with torch.no_grad():
            model(torch.randint(0, 100, (4, 16)))

    counts = []
    for step in (train, train, validate, train, validate):
        step()
        counts.append(made.frame_count)
    assert counts == [2, 2, 3, 3, 3]  # a block and the softmax; a block of the validation
    inputs = [n.meta["example_value"] for g in made.graphs for n in g.graph.nodes if n.op == "placeholder"]
    assert not any(isinstance(value, torch.SymInt) for value in inputs)
    assert all(isinstance(size, int) for value in inputs for size in value.shape)
