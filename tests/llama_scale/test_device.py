"""What the machine computes on: attention kernels, and a CPU that leaves the GPU alone."""

import shutil

import pytest
import torch
import torch.compiler.config
from torch._dynamo.utils import counters
from torch._inductor.utils import fresh_cache
from torch.nn.attention import SDPBackend
from torch.nn.functional import scaled_dot_product_attention

from llama_scale.checkpoint.folder import load_state
from llama_scale.checkpoint.lightning import random_state, set_random_state
from llama_scale.cli import parse
from llama_scale.config import TrainConfig
from llama_scale.device import attention_backends, attention_order, set_threads
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
