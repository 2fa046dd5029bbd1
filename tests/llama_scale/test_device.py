"""What the machine computes on: attention kernels, and a CPU that leaves the GPU alone."""

import shutil

import pytest
import torch
import torch.compiler.config
from torch._dynamo.utils import counters
from torch._inductor.utils import fresh_cache
from torch.nn.attention import SDPBackend
from torch.nn.functional import scaled_dot_product_attention

from llama_scale import device as devices
from llama_scale.checkpoint.folder import load_state
from llama_scale.checkpoint.lightning import random_state, set_random_state
from llama_scale.cli import parse
from llama_scale.config import TrainConfig
from llama_scale.device import (
    DECODED_ROWS,
    attention_backends,
    attention_order,
    pick_decoding_precision,
    set_threads,
    time_decoding,
)
from llama_scale.errors import InputError
from llama_scale.training.run_plan import plan_run
from llama_scale.training.trainer import fit
from tests.conftest import TINY_MODEL


def test_masked_calls_leave_cudnn_out():
    plain, masked = attention_order(masked=False), attention_order(masked=True)
    assert plain[0] == SDPBackend.CUDNN_ATTENTION
    assert masked == plain[1:] and SDPBackend.MATH in masked


def test_code_compiled_under_another_order_is_not_taken():
    q = torch.randn(1, 1, 8, 16)

    def misses(masked: bool) -> int:
        torch._dynamo.reset()
        counters.clear()
        with attention_backends("cuda", masked):
            torch.compile(lambda q: scaled_dot_product_attention(q, q, q))(q)
        return counters["aot_autograd"]["autograd_cache_miss"]

    with fresh_cache():
        assert [misses(False), misses(False), misses(True), misses(True)] == [1, 0, 1, 0]
    assert torch.compiler.config.cache_key_tag == ""


def test_a_run_on_the_cpu_does_not_touch_the_gpu(tiny_data, tmp_path, monkeypatch):
    def touched(*_, **__):
        raise AssertionError("CUDA was touched")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for name in ("_lazy_init", "current_stream", "get_rng_state", "set_rng_state", "synchronize"):
        monkeypatch.setattr(torch.cuda, name, touched)
    argv = [*TINY_MODEL, f"--data={tiny_data}", f"--run={tmp_path / 'run'}", "--optim.batch_tokens=256"]
    config = parse(TrainConfig, "Train.", [*argv, "--tokens=2560", "--device=cpu", "--checkpoint_every=5"])
    fit(plan_run(config))
    last = tmp_path / "run" / "checkpoints" / "step-00000010"
    assert "cuda" not in load_state(last)["random"]
    shutil.rmtree(last)
    fit(plan_run(config))  # continues from step 5
    assert "cuda" not in load_state(last)["random"]


def test_a_state_from_a_gpu_is_read_on_a_cpu(monkeypatch):
    restored = []
    monkeypatch.setattr(torch.cuda, "set_rng_state", restored.append)
    state = random_state("cpu") | {"cuda": "00"}
    expected = torch.rand(3)
    set_random_state(state, "cpu")
    assert torch.equal(torch.rand(3), expected)
    assert restored == []
    set_random_state(state, "cuda")
    assert [value.tolist() for value in restored] == [[0]]


@pytest.mark.parametrize("threads", [0, -1, 1025, 100_000_000])
def test_more_threads_than_can_be_are_one_line(threads):
    with pytest.raises(InputError, match="threads: expected 1 to 1,024, found"):
        set_threads(threads)


@pytest.mark.parametrize(
    ("times", "bf16"),
    [([(3e-3, 1e-3), (9e-3, 2e-3)], True), ([(3e-3, 1e-3), (2e-3, 1.9e-3)], False), ([(1e-3, 5e-3)] * 2, False)],
)
def test_a_decoding_precision_is_measured_where_it_is_asked_for(monkeypatch, times, bf16):
    """bf16 has to be faster with one row and with several; unasked it is float32 on a CPU, and nothing is timed."""
    asked = []
    monkeypatch.setattr(devices, "time_decoding", lambda *shape: asked.append(shape[1:]) or times)
    assert [pick_decoding_precision(choice, "cpu", 8, 16).bf16 for choice in (None, "fp32", "bf16")] == [False] * 2 + [
        True
    ]
    assert pick_decoding_precision(None, "cuda", 8, 16).bf16 and asked == []
    found = pick_decoding_precision("auto", "cpu", 8, 16)
    assert (found.bf16, found.name, asked) == (bf16, "bf16" if bf16 else "fp32", [(8, 16)])
    assert found.why.startswith(f"1 x 8 x 16 take {times[0][0] * 1e3:.2g} ms in float32") and "16 x 8 x 16" in found.why


def test_products_of_decoding_are_timed_in_both_formats():
    times = time_decoding(torch.get_num_threads(), 64, 96)
    assert len(times) == len(DECODED_ROWS) and all(0 < seconds < 1 for pair in times for seconds in pair)
