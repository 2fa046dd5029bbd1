"""The copy that a checkpoint is written from, and the thread that writes it."""

import threading

import pytest
import torch

from llama_scale.checkpoint.async_writer import Snapshot, Writer


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
