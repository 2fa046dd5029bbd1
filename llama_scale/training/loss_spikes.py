"""Steps that would do harm are not taken: loss spikes and non-finite gradients.

A step whose loss is not finite, whose gradient norm is not finite, or whose loss lies more than
six standard deviations above the mean of the last accepted losses leaves weights and optimizer
state untouched. The decision is made and carried out on the device: AdamW's fused kernel reads
the flag, and the host waits for nothing.
"""

from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from llama_scale.device import fetch
from llama_scale.training.callbacks import StepCallback

WINDOW = 64
LEAST = 32  # accepted losses before a spike can be told
SIGMAS = 6.0


class Guard:
    """Judges each step by its loss and gradient norm.

    Attributes:
        losses: (WINDOW,) the last accepted losses in nats, a ring.
        accepted: () number of accepted steps.
        skipped: () number of skipped steps.
        in_row: () number of skipped steps since the last accepted one.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.losses = torch.zeros(WINDOW, device=device)
        self.accepted = torch.zeros((), dtype=torch.long, device=device)
        self.skipped, self.in_row = self.accepted.clone(), self.accepted.clone()

    def judge(self, loss: Tensor, grad_norm: Tensor) -> Tensor:
        """Return () float32, 1 to skip the step of this ``loss`` and ``grad_norm``, else 0."""
        count = self.accepted.clamp(max=WINDOW)
        filled = torch.arange(WINDOW, device=loss.device) < count  # (WINDOW,)
        mean = self.losses.sum() / count.clamp(min=1)
        variance = ((self.losses - mean).square() * filled).sum() / count.clamp(min=1)
        spike = (count >= LEAST) & (loss > mean + SIGMAS * variance.sqrt())
        skip = spike | ~loss.isfinite() | ~grad_norm.isfinite()
        slot = torch.arange(WINDOW, device=loss.device) == self.accepted % WINDOW
        self.losses = torch.where(slot & ~skip, loss, self.losses)
        self.accepted = self.accepted + ~skip
        self.skipped = self.skipped + skip
        self.in_row = torch.where(skip, self.in_row + 1, 0)
        return skip.float()

    def state_dict(self) -> dict[str, Any]:
        """Return the state as plain numbers, which hold a float32 exactly."""
        return {name: value.tolist() for name, value in vars(self).items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the state back."""
        for name, value in vars(self).items():
            setattr(self, name, torch.tensor(state[name], dtype=value.dtype, device=value.device))


class Rollback(StepCallback):
    """Stops a run in which ``limit`` steps in a row were skipped, naming the first of them.

    The device's count is fetched every ``limit`` steps and looked at one step later, so that the
    device has work while the host waits for it; after the last step it is looked at once more.
    ``first`` is that step (from 1), or None.
    """

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit = limit
        self.first: int | None = None
        self.last = 0
        self.asked: tuple[int, Callable[[], int]] | None = None

    def on_step(self, trainer: pl.Trainer, module: pl.LightningModule, step: int) -> None:
        """Look at what was asked for a step ago; ask when it is time."""
        if self.asked is not None:
            self._look(trainer)
        if step % self.limit == 0 or step == trainer.max_steps:
            self.asked = step, fetch(module.guard.in_row)
        if step == trainer.max_steps:
            self._look(trainer)

    def _look(self, trainer: pl.Trainer) -> None:
        step, answer = self.asked
        self.asked = None
        in_row = answer()
        if in_row >= self.limit:
            self.first, self.last = step - in_row + 1, step
            trainer.should_stop = True
