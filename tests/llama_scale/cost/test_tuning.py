"""The memory of fine-tuning against what autograd and the optimizer keep."""

import pytest
import torch

from llama_scale.config import LoraSettings, load_size
from llama_scale.cost.tuning import kept_for_backward, tuning_memory
from llama_scale.data.examples import ExampleBatch
from llama_scale.model.foreign import ForeignModel
from llama_scale.model.llama import Llama
from llama_scale.model.lora import adapt
from llama_scale.training.finetune import completion_loss
from tests.llama_scale.helpers import small

pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")
GPT2 = {"n_layer": 2, "n_embd": 64, "n_head": 2, "vocab_size": 101, "n_positions": 96}


def build(kind: str, device: str):
    with torch.device(device):
        if kind == "llama":
            return Llama(small())
        return ForeignModel(transformers.GPT2LMHeadModel(transformers.GPT2Config(**GPT2))).train()


def batch() -> ExampleBatch:
    inputs = torch.randint(0, 101, (4, 90), generator=torch.Generator().manual_seed(0))
    rows = torch.arange(0, 360, 2)
    return ExampleBatch(inputs, rows, inputs.flatten()[rows], torch.tensor(1.0))


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("lora", [None, LoraSettings(8), LoraSettings(8, dropout=0.1, targets="q,v")])
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_forecast_is_what_autograd_and_adamw_keep(kind, lora, bf16):
    if lora and kind == "gpt2":
        lora = LoraSettings(lora.rank, dropout=lora.dropout, targets="all-linear" if not lora.dropout else "c_attn")
    model, planned = build(kind, "cpu"), build(kind, "meta")
    for each in (model, planned):
        if lora:
            adapt(each, lora, 0)
    options = {"head": planned.head, "targets": 180, "device": "cpu", "bf16": bf16, "micro_steps": 2}
    memory = tuning_memory(planned, completion_loss, batch(), **options)
    kept = kept_for_backward(model, lambda: completion_loss(model, batch()), "cpu", bf16)
    assert memory.activations == pytest.approx(kept, rel=0.05)
    trained = [p for p in model.parameters() if p.requires_grad]
    completion_loss(model, batch()).backward()
    optimizer = torch.optim.AdamW(trained)
    optimizer.step()
    states = sum(t.nbytes for s in optimizer.state.values() for t in s.values() if t.dim())
    assert memory.optimizer == states
    assert memory.gradients == sum(p.grad.nbytes for p in trained)
    assert all(p.grad is None for p in model.parameters() if not p.requires_grad)
    assert memory.parameters == sum(t.nbytes for t in [*model.parameters(), *model.buffers()])


def test_adapters_save_the_optimizers_states_and_a_frozen_head_its_gradient():
    full, lora = build("llama", "meta"), build("llama", "meta")
    adapt(lora, LoraSettings(2), 0)
    options = {"targets": 180, "device": "cpu", "bf16": False, "micro_steps": 2}
    whole, little = (tuning_memory(m, completion_loss, batch(), head=m.head, **options) for m in (full, lora))
    assert little.optimizer < 0.1 * whole.optimizer
    assert little.activations < whole.activations
    one = tuning_memory(
        build("llama", "meta"), completion_loss, batch(), head=full.head, **options | {"micro_steps": 1}
    )
    assert one.gradients < whole.gradients


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("lora", [None, LoraSettings(16)])
def test_forecast_is_what_a_gpu_allocates(lora):
    config = load_size("M1")
    with torch.device("meta"):
        planned = Llama(config)
    model = Llama(config).init_weights(0).cuda()
    for each in (model, planned):
        if lora:
            adapt(each, lora, 0)
    inputs = torch.randint(0, config.vocab_size, (16, 512))
    rows = torch.arange(0, inputs.numel(), 2)
    examples = ExampleBatch(inputs, rows, inputs.flatten()[rows], torch.tensor(1.0))
    options = {"head": planned.head, "targets": len(rows), "device": "cuda", "bf16": True, "micro_steps": 1}
    forecast = tuning_memory(planned, completion_loss, examples, **options).total
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], fused=True)
    on_gpu = ExampleBatch(*(value.cuda() for value in examples))
    for _ in range(3):
        torch.cuda.reset_peak_memory_stats()
        with torch.autocast("cuda", torch.bfloat16):
            loss = completion_loss(model, on_gpu)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    assert forecast == pytest.approx(torch.cuda.max_memory_allocated(), rel=0.05)
