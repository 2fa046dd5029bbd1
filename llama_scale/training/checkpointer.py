"""When training saves a checkpoint, and which ones stay."""

import sys
from pathlib import Path

from llama_scale.checkpoint import folder as checkpoints
from llama_scale.checkpoint.async_writer import Writer
from llama_scale.config import FinetuneConfig, TrainConfig
from llama_scale.lightning import pl
from llama_scale.training.callbacks import StepCallback
from llama_scale.training.loss_spikes import SkipLimit
from llama_scale.training.rollback import delete_undone


class Checkpointer(StepCallback):
    """Saves every ``every`` steps, at those to be kept, at the end and on request.

    Kept are the last ``keep_last``, those at multiples of ``keep_every`` and at ``keep_steps``, of ``config``. A save
    that fails (disk full, no permission) is reported and training goes on: the previous checkpoint stays. The last save
    is waited for and must succeed. Nothing is saved once ``skip_limit`` has stopped the run, which then goes back to an
    earlier checkpoint. ``writer`` is the thread that writes what the Trainer saves.
    """

    def __init__(
        self, run: Path, config: TrainConfig | FinetuneConfig, *, every: int, skip_limit: SkipLimit, writer: Writer
    ) -> None:
        super().__init__()
        self.run, self.config, self.every = run, config, every
        self.skip_limit, self.writer = skip_limit, writer

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Delete what a rollback undid, now that each process has read what it continues."""
        super().on_train_start(trainer, module)
        if trainer.is_global_zero:
            delete_undone(self.run)

    def on_step(self, trainer: pl.Trainer, module: pl.LightningModule, step: int) -> None:
        """Save when it is time, and report a save that failed since."""
        last = trainer.should_stop or step == trainer.max_steps
        keep_every, keep_steps = self.config.keep_every, self.config.keep_steps
        due = step % self.every == 0 or step in keep_steps or (keep_every > 0 and step % keep_every == 0)
        if last or due:
            self.writer.wait()
        if (error := self.writer.collect()) and trainer.is_global_zero:
            print(f"{self.writer.name}: checkpoint not saved ({error})", file=sys.stderr)
        if self.skip_limit.first is not None or not (last or due):
            return
        try:
            self._prune(trainer)
            trainer.save_checkpoint(self.run / "checkpoints" / f"step-{step:08d}")
        except OSError as error:
            if last:
                raise
            print(f"step {step}: checkpoint not saved ({error})", file=sys.stderr)
        if last:
            self.writer.wait()
            if error := self.writer.collect():
                raise error
            self._prune(trainer)

    def _prune(self, trainer: pl.Trainer) -> None:
        if trainer.is_global_zero:
            checkpoints.prune(self.run, self.config.keep_last, self.config.keep_every, self.config.keep_steps)
