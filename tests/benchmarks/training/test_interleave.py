"""Contenders in processes of their own: same model, same tokens, in turn."""

import io
import os
import signal
from dataclasses import asdict
from types import SimpleNamespace

import pytest

from benchmarks.training.interleave import (
    Contender,
    ContenderError,
    ContenderOutOfMemory,
    Worker,
    check_losses,
    run_interleaved,
    summarize,
)
from benchmarks.training.worker import TrainingJob
from llama_scale.errors import InputError
from tests.benchmarks.training.helpers import JOB, TINY, measured_worker


def test_summary_by_hand():
    ours = measured_worker()
    other = measured_worker("x", (4.0, 4.0), job=TrainingJob("x", asdict(TINY), 2))
    row = summarize(other, [ours, other], ceiling=1e6, gpu="NVIDIA H200")
    tokens = 2 * 32 / 4.0
    matmul = 2 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64) + 96 * 32
    attention = 2 * 32 * 32  # L D T
    assert row["tokens_per_second"] == tokens and row["ms_per_step"] == 4000
    assert row["share_of_ceiling"] == pytest.approx(tokens * (6 * matmul + 12 * attention) / 1e6)
    assert row["mfu_full"] == pytest.approx(tokens * (6 * matmul + 12 * attention) / 989e12)
    assert row["mfu_causal"] == pytest.approx(tokens * (6 * matmul + 6 * attention) / 989e12)
    other.ceilings = [1e6, 0.5e6]  # other work halved it in the second turn
    row = summarize(other, [ours, other], ceiling=7e6, gpu=None)
    shares = [tokens * (6 * matmul + 12 * attention) / reached for reached in other.ceilings]
    low, high = row["share_of_ceiling_quartiles"]
    assert row["share_of_ceiling"] == pytest.approx(sum(shares) / 2) and low < shares[0] < shares[1] < high
    assert row["matmul_ceiling"] == 0.75e6
    assert row["ratios"] == {"llama_scale": {"median": 3.0, "quartiles": [1.5, 4.5]}}


def test_losses_that_differ_are_not_compared():
    check_losses([measured_worker(), measured_worker(losses=(3.0001, 2.9003))])
    for losses, step in (((3.0003, 2.9), 1), ((float("nan"), 2.9), 1), ((3.0, 2.9005), 2)):
        with pytest.raises(InputError, match=f"x: its loss differs from ours by .* at step {step}"):
            check_losses([measured_worker(), measured_worker("x", losses=losses)])
    # From the third step on trajectories part.
    check_losses([measured_worker(losses=(3.0, 2.9, 2.8)), measured_worker("x", losses=(3.0, 2.9, 2.5))])
    with pytest.raises(InputError, match="at step 3"):
        check_losses([measured_worker(losses=(3.0, 2.9, 2.8)), measured_worker("x", losses=(3.0, 2.9, float("nan")))])
    rounded = TrainingJob("x", asdict(TINY), 2, bf16=True)
    check_losses([measured_worker(), measured_worker("x", losses=(3.009, 2.9), job=rounded)])


def test_a_contender_that_dies_is_one_line():
    victim = Worker.start(Contender("victim", JOB))
    try:
        victim.wait_until_built()
        victim.request_step(0)
        victim.record_step(timed=True)
        os.kill(victim.process.pid, signal.SIGKILL)
        with pytest.raises(ContenderError, match="victim: its process ended with -9: killed"):
            for number in (1, 2):
                victim.request_step(number)
                victim.record_step(timed=True)
    finally:
        victim.stop()


def test_a_contender_that_cannot_be_built_is_one_line():
    worker = Worker.start(Contender("litgpt", TrainingJob("litgpt", asdict(TINY), 1)))
    with pytest.raises(InputError, match="litgpt: No module named 'litgpt'"):
        worker.wait_until_built()
    worker.stop()


def test_a_reply_of_out_of_memory_is_told_apart(monkeypatch):
    victim = measured_worker()
    victim.process = SimpleNamespace(stdout=SimpleNamespace(readline=lambda: '{"error": "out of memory"}'))
    with pytest.raises(ContenderOutOfMemory):
        victim.read_reply()


def test_a_profile_that_fails_keeps_what_was_timed():
    worker = measured_worker()
    replies = SimpleNamespace(readline=lambda: '{"error": "the profiler saw no kernels"}')
    worker.process = SimpleNamespace(stdout=replies, stdin=io.StringIO())
    worker.profile(3)
    assert worker.process.stdin.getvalue() == "-3\n"
    assert summarize(worker, [worker], 1e12, None)["kernels"] == {"error": "the profiler saw no kernels"}


def test_a_failure_stops_every_process(monkeypatch):
    started = []
    start = Worker.start.__func__

    def record(cls, contender):
        started.append(start(cls, contender))
        return started[-1]

    monkeypatch.setattr(Worker, "start", classmethod(record))
    with pytest.raises(InputError, match="No module named 'litgpt'"):
        run_interleaved(
            [Contender("a", JOB), Contender("b", TrainingJob("litgpt", asdict(TINY), 2))], steps=1, warmup=1
        )
    assert len(started) == 2 and all(worker.process.poll() is not None for worker in started)
