"""Counts against the built model and torch's own FLOP counter."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from llama_scale.config import ModelConfig, load_size
from llama_scale.cost.accounting import (
    BFLOAT16,
    bf16_peak,
    block_activations,
    count_parameters,
    flops_per_token,
    training_memory,
)
from llama_scale.model.llama import Llama

SIZES = ["M1", "M2", "M3", "M4", "M5", "S1", "S5"]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("fields", [{}, {"tie_embeddings": False}, {"n_kv_heads": 1}])
def test_parameters_equal_the_model(size, fields):
    config = load_size(size, **fields)
    with torch.device("meta"):
        model = Llama(config)
    count = count_parameters(config)
    assert count.total == sum(p.numel() for p in model.parameters())
    tables = {id(model.embedding.weight): 1, id(model.head.weight): 1}
    outside = [p for p in model.parameters() if id(p) not in tables]
    assert count.non_embedding == sum(p.numel() for p in outside)
    head = model.head.weight.numel()
    assert count.matmul == sum(p.numel() for p in outside if p.dim() == 2) + head


@pytest.mark.parametrize("size", SIZES)
def test_flops_equal_torch_counter(size):
    config = load_size(size)
    with torch.device("meta"):
        model = Llama(config)
        tokens = torch.zeros(1, config.context_length, dtype=torch.long)
        with FlopCounterMode(display=False) as counter:
            model(tokens).sum().backward()
    ours = flops_per_token(config, causal=False) * config.context_length
    assert counter.get_total_flops() == pytest.approx(ours, rel=1e-3)


def test_causal_halves_the_attention_alone():
    config = load_size("M1")
    full, causal = flops_per_token(config, causal=False), flops_per_token(config)
    assert full - causal == 6 * config.n_layers * config.d_model * config.context_length
    # 6ND is wrong by about a third at M1 and 4 % at M5.
    assert causal / (6 * count_parameters(config).total) == pytest.approx(1.34, abs=0.02)
    m5 = load_size("M5")
    assert flops_per_token(m5) / (6 * count_parameters(m5).total) == pytest.approx(1.04, abs=0.01)


def test_memory_of_weights_and_optimizer_is_exact():
    config = ModelConfig(d_model=64, n_layers=2, n_heads=2, d_ff=128, vocab_size=500)
    model = Llama(config).init_weights(0)
    optimizer = torch.optim.AdamW(model.parameters())
    model.loss(torch.randint(0, 500, (1, 65))).backward()
    optimizer.step()
    memory = training_memory(config, micro_batch=1, bf16=False)
    states = [t for s in optimizer.state.values() for t in s.values() if t.dim()]
    assert memory.parameters == sum(p.nbytes for p in model.parameters())
    assert memory.gradients == sum(p.grad.nbytes for p in model.parameters())
    assert memory.optimizer == sum(t.nbytes for t in states)
    assert memory.total == sum(vars(memory).values())


def test_m5_fits_one_h200_and_not_an_80_gb_device():
    need = training_memory(load_size("M5"), micro_batch=1, bf16=True).total
    assert 80e9 < need < 141e9


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H200", 989e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("Some Future GPU", None),
    ],
)
def test_peaks_are_dense(name, peak):
    assert bf16_peak(name) == peak


def kept_for_backward(config, micro_batch, bf16, recompute=False, compiled=False):
    """Bytes of the tensors that autograd holds after the forward pass, weights left out."""
    model = Llama(config).init_weights(0)
    for block in model.blocks:
        block.recompute = recompute
        if compiled:
            block.compile()
    own = {p.untyped_storage().data_ptr() for p in [*model.parameters(), model.rope]}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    tokens = torch.randint(0, config.vocab_size, (micro_batch, config.context_length + 1))
    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=bf16),
    ):
        model.loss(tokens)
    return sum(size for size, _ in kept.values())


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("fields", [{}, {"n_kv_heads": 1}, {"d_ff": 1024, "n_layers": 3}])
def test_activations_equal_what_autograd_keeps(compiled, bf16, fields):
    shape = {"d_model": 128, "n_layers": 2, "n_heads": 2, "d_ff": 384, "vocab_size": 700}
    config = ModelConfig(**shape | {"context_length": 256} | fields)
    memory = training_memory(config, 4, bf16, device="cpu", compiled=compiled)
    copies = BFLOAT16 * (count_parameters(config).matmul - 700 * 128) if bf16 else 0
    head = 4 * (4 * 256 + 700) * 128
    kept = kept_for_backward(config, 4, bf16, compiled=compiled)
    assert kept == pytest.approx(memory.activations + head + copies, rel=0.01)


@pytest.mark.parametrize("compiled", [False, True])
def test_recomputed_blocks_keep_their_input_alone(compiled):
    config = ModelConfig(128, 4, 2, 384, vocab_size=700, context_length=256)
    head = 4 * (4 * 256 + 700) * 128
    one_block = 4 * 256 * block_activations(config, False, fused_norm=False, compiled=False)
    expected = training_memory(config, 4, False, "block", device="cpu").activations - one_block
    assert kept_for_backward(config, 4, False, True, compiled) == pytest.approx(
        expected + head, rel=0.01
    )


def test_gradients_take_the_place_of_what_the_backward_pass_frees():
    many, one = (training_memory(load_size("M5"), 4, True, micro_steps=n) for n in (2, 1))
    assert many.gradients == 4 * count_parameters(load_size("M5")).total
    assert one.gradients == 0  # 26 GiB come, 60 GiB go
    config = ModelConfig(d_model=512, n_layers=2, n_heads=8, d_ff=1376, context_length=16)
    small = training_memory(config, 1, False, micro_steps=1)
    freed = small.compute_copy + small.activations + small.logits
    assert small.gradients == 4 * count_parameters(config).total - freed > 0


def test_shards_divide_weights_gradients_and_moments():
    config = load_size("M5")
    whole, split = (training_memory(config, 1, True, shards=n) for n in (1, 8))
    assert split.gradients == pytest.approx(whole.gradients / 8, rel=1e-6)
    assert split.optimizer == pytest.approx(whole.optimizer / 8, rel=1e-6)
    assert whole.parameters / 8 < split.parameters < whole.parameters / 4
    assert split.activations == whole.activations
