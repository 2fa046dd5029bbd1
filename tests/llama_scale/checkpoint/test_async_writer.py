"""The copy that a checkpoint is written from, and the thread that writes it."""

import threading

import pytest
import torch

from llama_scale.checkpoint.async_writer import Snapshot, Writer, host_tensors
from llama_scale.config import load_size
from llama_scale.model.llama import Llama


def test_a_snapshot_does_not_change_and_keeps_what_is_shared():
    weight = torch.randn(3, 4)
    state = {"a": weight, "b": [weight, {"n": torch.tensor(1.0)}], "loops": {"step": [1, 2]}}
    snapshot = Snapshot()
    taken = snapshot.take(state)
    expected = weight.clone()
    weight.zero_()
    state["loops"]["step"].append(3)
    assert torch.equal(taken["a"], expected) and taken["loops"] == {"step": [1, 2]}
    assert taken["b"][0].data_ptr() == taken["a"].data_ptr()
    again = snapshot.take(state)
    assert again["a"].data_ptr() == taken["a"].data_ptr() and not again["a"].any()


def pinned_sizes(monkeypatch, device="cpu"):
    """Count the bytes that pinned blocks take, each rounded up to a power of two as torch does."""
    asked, empty = [], torch.empty

    def fake(*shape, pin_memory=False, **options):
        if pin_memory:
            size = empty(*shape, device="meta", **options).nbytes
            asked.append(2 ** (size - 1).bit_length())
        return empty(*shape, **options | {"device": device})

    monkeypatch.setattr(torch, "empty", fake)
    return asked


@pytest.mark.parametrize("size", ["Q1", "S3", "M1", "M2", "M3", "M4", "M5"])
def test_pinned_memory_is_hardly_more_than_the_state(monkeypatch, size):
    with torch.device("meta"):
        parameters = list(Llama(load_size(size)).parameters())
    scalar = torch.Size(())
    kinds = [(shape, torch.float32, True) for p in parameters for shape in (p.shape, p.shape, p.shape, scalar)]
    asked = pinned_sizes(monkeypatch, "meta")
    found = host_tensors(kinds)
    assert [(tensor.shape, tensor.dtype) for tensor in found] == [kind[:2] for kind in kinds]
    state = 12 * sum(p.numel() for p in parameters)
    assert sum(asked) <= 2**30 + 1.05 * state
    assert max(asked) <= 2**30


def test_pinned_tensors_share_blocks_and_not_their_bytes(monkeypatch):
    shapes, types = (
        [(7, 3), (), (0, 4), (1000,), (5,)],
        [torch.float32, torch.bfloat16, torch.int64, torch.bool, torch.uint8],
    )
    kinds = [(torch.Size(shape), dtype, True) for shape in shapes for dtype in types]
    monkeypatch.setattr("llama_scale.checkpoint.async_writer.BLOCK", 2**13)
    asked = pinned_sizes(monkeypatch)
    found = host_tensors(kinds)
    values = [torch.randn(shape).mul(9).to(dtype) for shape, dtype, _ in kinds]
    for tensor, value in zip(found, values, strict=True):
        tensor.copy_(value)
    assert all(torch.equal(tensor, value) for tensor, value in zip(found, values, strict=True))
    assert 1 < len(asked) < len(kinds) / 2


def test_a_tensor_larger_than_a_block_leaves_room_for_others(monkeypatch):
    asked = pinned_sizes(monkeypatch, "meta")
    host_tensors([(torch.Size((mib, 2**20)), torch.uint8, True) for mib in (100, 1500, 300)])
    assert asked == [2**31]


def test_another_state_gets_other_memory():
    snapshot = Snapshot()
    first = snapshot.take({"a": torch.ones(3)})
    second = snapshot.take({"a": torch.ones(3), "b": torch.zeros(2, dtype=torch.int64)})
    assert first["a"].tolist() == second["a"].tolist() == [1, 1, 1] and second["b"].tolist() == [0, 0]


def test_jobs_run_beside_the_caller_one_at_a_time():
    writer, go, order = Writer(), threading.Event(), []

    def first() -> None:
        go.wait(10)
        order.append(1)

    writer.submit(first, "first")
    assert order == []
    go.set()
    writer.submit(lambda: order.append(2), "second")
    writer.wait()
    assert order == [1, 2] and writer.collect() is None


def test_an_error_reaches_the_caller_once():
    writer = Writer()

    def full() -> None:
        raise OSError(28, "No space left on device")

    writer.submit(full, "step 5")
    writer.wait()
    with pytest.raises(OSError, match="No space"):
        raise writer.collect()
    assert writer.collect() is None and writer.name == "step 5"
