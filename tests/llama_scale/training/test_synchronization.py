"""What a training step waits for: the host's reads of the device, the garbage collector."""

import gc
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from llama_scale.cli import parse
from llama_scale.config import TrainConfig
from llama_scale.device import attention_backends, fetch
from llama_scale.training.callbacks import GarbageCollection, StepCallback
from llama_scale.training.run_plan import plan_run
from llama_scale.training.trainer import fit
from tests.conftest import TINY_MODEL


class HostReads(TorchDispatchMode):
    """Counts the values that the host waits for, by the optimizer step they fall in."""

    OPERATORS = ("aten._local_scalar_dense", "aten.nonzero", "aten.equal", "aten.is_nonzero")

    def __init__(self, trainer: list) -> None:
        super().__init__()
        self.trainer, self.steps = trainer, Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if str(func).startswith(self.OPERATORS) and self.trainer:
            self.steps[self.trainer[0].global_step] += 1
        return func(*args, **(kwargs or {}))


class Watch(StepCallback):
    """Counts host reads from the first step on."""

    def __init__(self) -> None:
        super().__init__()
        self.trainer: list = []
        self.reads = HostReads(self.trainer)

    def on_train_start(self, trainer, module):
        super().on_train_start(trainer, module)
        self.trainer.append(trainer)
        self.reads.__enter__()

    def on_step(self, trainer, module, step):
        pass

    def on_train_end(self, trainer, module):
        self.reads.__exit__(None, None, None)


def arguments(data: Path, run: Path, *more: str) -> TrainConfig:
    argv = [*TINY_MODEL, f"--data={data}", f"--run={run}", "--optim.batch_tokens=256", *more]
    return parse(TrainConfig, "Train.", argv)


def test_no_host_read_between_log_steps(tiny_data, tmp_path):
    config = arguments(
        tiny_data, tmp_path / "run", "--tokens=10240", "--device=cpu", "--log_every=10",
        "--checkpoint_every=1000", "--max_skips=16",
    )  # fmt: skip
    watch = Watch()
    fit(plan_run(config), [watch])
    steps = watch.reads.steps
    assert plan_run(config).recipe.steps == 40
    logged = {10, 20, 30, 40}
    fetched = {17, 33}  # the count of skipped steps, asked for a step before
    assert set(steps) == logged | fetched, steps
    assert all(steps[step] == 1 for step in fetched)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_no_synchronization_between_log_steps_on_a_gpu(tiny_data, tmp_path):
    class Forbid(StepCallback):
        def on_train_batch_start(self, trainer, module, *_):
            between = trainer.global_step % 10 not in (0, 9) and trainer.global_step > 1
            torch.cuda.set_sync_debug_mode("error" if between else "default")

        def on_step(self, trainer, module, step):
            torch.cuda.set_sync_debug_mode("default")

    config = arguments(tiny_data, tmp_path / "run", "--tokens=10240", "--device=cuda")
    fit(plan_run(config), [Forbid()])


def test_fetch_reads_what_was_there():
    value = torch.tensor(7)
    answer = fetch(value)
    assert answer() == 7
    with attention_backends("cpu"):
        q = torch.randn(1, 1, 4, 8)
        assert torch.nn.functional.scaled_dot_product_attention(q, q, q).shape == q.shape


def test_garbage_is_collected_at_set_steps_alone():
    class Trainer:
        global_step = 0

    garbage, found = GarbageCollection(every=3), []

    def note(phase, info):
        if phase == "start":
            found.append(step)

    garbage.on_train_start(Trainer, None)
    gc.callbacks.append(note)
    try:
        for step in range(1, 8):
            garbage.on_step(Trainer, None, step)
            assert not gc.isenabled() and gc.get_freeze_count() > 1000
            for _ in range(3000):
                cycle = []
                cycle.append(cycle)
    finally:
        gc.callbacks.remove(note)
        garbage.on_train_end(Trainer, None)
    assert found == [1, 3, 6]
    assert gc.isenabled() and gc.get_freeze_count() == 0


def test_the_collector_comes_back_when_training_fails(tiny_data, tmp_path):
    class Fail(StepCallback):
        def on_step(self, trainer, module, step):
            if step == 3:
                raise RuntimeError("on purpose")

    config = arguments(tiny_data, tmp_path / "run", "--tokens=2560", "--device=cpu")
    with pytest.raises(RuntimeError, match="on purpose"):
        fit(plan_run(config), [Fail()])
    assert gc.isenabled() and gc.get_freeze_count() == 0
