"""When training saves, what the checkpoint holds, and how it is read back."""

import random
import sys
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.fabric.plugins import CheckpointIO
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from llama_scale.checkpoint import folder as checkpoints
from llama_scale.checkpoint.async_writer import Snapshot, Writer
from llama_scale.training.callbacks import StepCallback
from llama_scale.training.loss_spikes import Rollback
from llama_scale.training.rollback import drop_undone


class FolderCheckpointIO(CheckpointIO):
    """Lightning's way to folder.py: copies the state, then writes on a thread.

    ``accumulate`` is the number of micro-batches in a step of this process: Lightning counts
    those, and a run may continue with another number. Where the state is split over processes,
    ``mesh`` has their hosts: each calls ``save_checkpoint`` and writes its part, and
    ``load_checkpoint`` leaves the tensors out.
    """

    def __init__(self, meta: dict[str, Any], tokenizer: Path, accumulate: int) -> None:
        self.meta, self.tokenizer, self.accumulate = meta, tokenizer, accumulate
        self.snapshot, self.writer = Snapshot(), Writer()
        self.mesh: DeviceMesh | None = None

    def save_checkpoint(self, checkpoint: dict, path: Any, storage_options: Any = None) -> None:
        """Write ``checkpoint`` as the folder ``path``, soon."""
        step = checkpoint["global_step"]
        meta = self.meta | {"step": step, "tokens": step * self.meta["batch_tokens"]}
        self.writer.wait()
        state = self.snapshot.take(checkpoint, self.mesh)
        job = partial(checkpoints.save, Path(path), state, meta, self.tokenizer)
        if self.mesh is not None:
            group = self.mesh.get_group()
            job = partial(checkpoints.save_shards, Path(path), state, meta, self.tokenizer, group)
        self.writer.submit(job, f"step {step}")

    def load_checkpoint(
        self, path: Any, map_location: Any = None, weights_only: bool | None = None
    ) -> dict:
        """Read the folder ``path`` back."""
        state = checkpoints.load_state(path) if self.mesh is None else checkpoints.load_rest(path)
        step = state["global_step"]
        progress = state["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        for counts in (progress["total"], progress["current"]):
            change = step * self.accumulate - counts["ready"]
            counts |= {name: count + change for name, count in counts.items()}
        return state

    def remove_checkpoint(self, path: Any) -> None:
        """Delete the folder ``path``."""
        checkpoints.discard(Path(path))


class Checkpointer(StepCallback):
    """Saves every ``every`` steps, at those to be kept, at the end and on request.

    Kept are the last ``keep``, those at multiples of ``keep_every`` and at ``keep_steps``. A save
    that fails (disk full, no permission) is reported and training goes on: the previous checkpoint
    stays. The last save is waited for and must succeed.
    """

    def __init__(
        self,
        run: Path,
        every: int,
        keep: int,
        keep_every: int,
        keep_steps: list[int],
        rollback: Rollback,
    ) -> None:
        super().__init__()
        self.run, self.every, self.rollback = run, every, rollback
        self.keep, self.keep_every, self.keep_steps = keep, keep_every, keep_steps

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Delete what a rollback undid, now that each process has read what it continues."""
        super().on_train_start(trainer, module)
        if trainer.is_global_zero:
            drop_undone(self.run)

    def on_step(self, trainer: pl.Trainer, module: pl.LightningModule, step: int) -> None:
        """Save when it is time, and report a save that failed since."""
        writer = trainer.strategy.checkpoint_io.writer
        last = trainer.should_stop or step == trainer.max_steps
        due = step % self.every == 0 or step in self.keep_steps
        due = due or (self.keep_every > 0 and step % self.keep_every == 0)
        if last or due:
            writer.wait()
        if (error := writer.collect()) and trainer.is_global_zero:
            print(f"{writer.name}: checkpoint not saved ({error})", file=sys.stderr)
        if self.rollback.first is not None or not (last or due):
            return
        try:
            self._prune(trainer)
            trainer.save_checkpoint(self.run / "checkpoints" / f"step-{step:08d}")
        except OSError as error:
            if last:
                raise
            print(f"step {step}: checkpoint not saved ({error})", file=sys.stderr)
        if last:
            writer.wait()
            if error := writer.collect():
                raise error
            self._prune(trainer)

    def _prune(self, trainer: pl.Trainer) -> None:
        if trainer.is_global_zero:
            checkpoints.prune(self.run, self.keep, self.keep_every, self.keep_steps)


def random_state() -> dict[str, Any]:
    """Return the states of Python's, numpy's and torch's generators as JSON values."""
    version, numbers, gauss = random.getstate()
    name, keys, *rest = np.random.get_state()
    state = {
        "python": [version, list(numbers), gauss],
        "numpy": [name, keys.tolist(), *rest],
        "torch": torch.get_rng_state().numpy().tobytes().hex(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state().numpy().tobytes().hex()
    return state


def set_random_state(state: dict[str, Any]) -> None:
    """Set the generators to a state that ``random_state`` returned."""

    def generator(name: str) -> Tensor:
        return torch.frombuffer(bytearray.fromhex(state[name]), dtype=torch.uint8)

    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(generator("torch"))
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(generator("cuda"))
