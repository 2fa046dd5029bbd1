"""Memory against the tensors that autograd and the optimizer keep."""

import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from llama_scale.config import ModelConfig, load_size
from llama_scale.cost.accounting import count_parameters
from llama_scale.cost.memory import BFLOAT16, HEAD_LOGITS, block_activations, training_memory
from llama_scale.model.llama import Llama
from llama_scale.model.loss import linear_cross_entropy


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


def kept_for_backward(config, micro_batch, bf16, recompute=False, compiled=False):
    """Bytes of the tensors that autograd holds after the forward pass, weights left out."""
    model = Llama(config).init_weights(0)
    for block in model.blocks:
        block.recompute = recompute
        if compiled:
            block.compile(dynamic=False)
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
    assert kept_for_backward(config, 4, False, True, compiled) == pytest.approx(expected + head, rel=0.01)


def test_gradients_take_the_place_of_what_the_backward_pass_frees():
    many, one = (training_memory(load_size("M5"), 4, True, micro_steps=n) for n in (2, 1))
    assert many.gradients == 4 * count_parameters(load_size("M5")).total
    assert one.gradients == 0  # 26 GiB come, 60 GiB go
    config = ModelConfig(d_model=512, n_layers=2, n_heads=8, d_ff=1376, context_length=16)
    small = training_memory(config, 1, False, micro_steps=1)
    freed = small.compute_copy + small.activations + small.logits  # not cuBLAS's workspaces
    assert small.gradients == 4 * count_parameters(config).total - freed > 0


def test_shards_divide_weights_gradients_and_moments():
    config = load_size("M5")
    whole, split = (training_memory(config, 1, True, shards=n) for n in (1, 8))
    assert split.gradients == pytest.approx(whole.gradients / 8, rel=1e-6)
    assert split.optimizer == pytest.approx(whole.optimizer / 8, rel=1e-6)
    assert whole.parameters / 8 < split.parameters < whole.parameters / 4
    assert split.activations == whole.activations


class LiveBytes(TorchDispatchMode):
    """Follows the bytes of the storages that operators return and that live: ``now``, and the most, ``peak``."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: dict[int, int] = {}
        self.now = self.peak = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for value in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(value, torch.Tensor):
                storage = value.untyped_storage()
                if storage._cdata not in self.sizes:
                    self.sizes[storage._cdata] = storage.nbytes()
                    self.now += storage.nbytes()
                    weakref.finalize(storage, self.forget, storage._cdata)
        self.peak = max(self.peak, self.now)
        return out

    def forget(self, key: int) -> None:
        self.now -= self.sizes.pop(key)


@pytest.mark.parametrize("rows", [128, 512])  # four parts and one
@pytest.mark.parametrize("bf16", [False, True])
def test_the_head_holds_what_is_counted(bf16, rows, monkeypatch):
    config = ModelConfig(16, 1, 1, 32, vocab_size=4000, context_length=512)
    monkeypatch.setitem(HEAD_LOGITS, "cpu", rows * 4000)
    weight = Llama(config).head.weight
    with LiveBytes() as live, torch.autocast("cpu", torch.bfloat16, enabled=bf16, cache_enabled=False):
        hidden = torch.zeros(512, 16).requires_grad_()
        linear_cross_entropy(hidden, weight, torch.zeros(512, dtype=torch.long))
    memory = training_memory(config, 1, bf16, device="cpu")
    of_weight = 2 * weight.numel() if bf16 else weight.nbytes  # its copy, or itself
    assert live.peak == pytest.approx(memory.logits + of_weight, rel=0.02)


# size, micro-batch, micro-steps, compiled, bytes at the peak: measured on an H200 (docs/results/gpu.md); S1 to S4 and
# the eager M1, with deterministic kernels, are runs of the trainer
MEASURED = [
    ("M2", 32, 1, True, 24765431296),
    ("M3", 16, 1, True, 38836257280),
    ("M4", 8, 8, True, 101227007488),
    ("M5", 4, 1, True, 136202633728),
    ("M1", 32, 1, False, 7083707392),
    ("S1", 4, 1, True, 1040776704),
    ("S2", 4, 1, True, 1274495488),
    ("S3", 4, 1, True, 1538217472),
    ("S4", 4, 1, True, 1912669184),
]


@pytest.mark.parametrize(("size", "micro_batch", "micro_steps", "compiled", "measured"), MEASURED)
def test_peaks_measured_on_a_gpu(size, micro_batch, micro_steps, compiled, measured):
    told = training_memory(load_size(size), micro_batch, True, compiled=compiled, micro_steps=micro_steps).total
    assert told == pytest.approx(measured, rel=0.01)
