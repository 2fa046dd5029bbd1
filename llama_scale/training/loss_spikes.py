"""Steps that would do harm are not taken: loss spikes and non-finite gradients.

A step whose loss is not finite, whose gradient norm is not finite, or whose loss lies more than six standard deviations
above the mean of the last accepted losses leaves weights and optimizer state untouched. The decision is made and
carried out on the device: AdamW's fused kernel reads the flag, and the host waits for nothing.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from llama_scale.device import fetch
from llama_scale.lightning import pl
from llama_scale.training.callbacks import StepCallback, StepMetrics

WINDOW = 64
MIN_ACCEPTED = 32  # losses without which a spike cannot be told
SIGMAS = 6.0


class SpikeGuard:
    """Decides for each step, by its loss and gradient norm, whether it is taken.

    Attributes:
        losses: (WINDOW,) the last accepted losses in nats, a ring: the loss that is accepted as number n (from 0) lies
            in slot n % WINDOW. With a window of 4 the losses a b c d e f lie as e f c d; before the ring is full, the
            slots without a loss hold 0.
        accepted: () number of accepted steps.
        skipped: () number of skipped steps.
        in_row: () number of skipped steps since the last accepted one.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.losses = torch.zeros(WINDOW, device=device)
        self.accepted = torch.zeros((), dtype=torch.long, device=device)
        self.skipped, self.in_row = self.accepted.clone(), self.accepted.clone()

    def check_step(self, loss: Tensor, grad_norm: Tensor) -> Tensor:
        """Count the step of this ``loss`` () and ``grad_norm`` (); return whether to skip it.

        The answer is () float32, 1 to skip and 0 to take the step. No ``if``, which would make the host wait.
        """
        slots = torch.arange(WINDOW, device=loss.device)  # (WINDOW,)
        count = self.accepted.clamp(max=WINDOW)
        # The order within the ring does not matter to mean and variance. Empty slots hold 0, so they add nothing to the
        # sum, but (0 - mean)^2 to the squares: hence the mask.
        filled = slots < count  # (WINDOW,)
        mean = self.losses.sum() / count.clamp(min=1)
        variance = ((self.losses - mean).square() * filled).sum() / count.clamp(min=1)
        spike = (count >= MIN_ACCEPTED) & (loss > mean + SIGMAS * variance.sqrt())
        skip = spike | ~loss.isfinite() | ~grad_norm.isfinite()
        oldest = slots == self.accepted % WINDOW  # (WINDOW,) the slot that is written next
        self.losses = torch.where(oldest & ~skip, loss, self.losses)
        self.accepted = self.accepted + ~skip
        self.skipped = self.skipped + skip
        self.in_row = torch.where(skip, self.in_row + 1, 0)
        return skip.float()

    def state_dict(self) -> dict[str, Any]:
        """Return the state as plain numbers, which hold a float32 exactly."""
        return {name: value.tolist() for name, value in vars(self).items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the state back, on the device where the guard is."""
        for name, value in vars(self).items():
            setattr(self, name, torch.tensor(state[name], dtype=value.dtype, device=value.device))

    def to(self, device: torch.device | str) -> "SpikeGuard":
        """Move the state to ``device``; return this guard."""
        vars(self).update({name: value.to(device) for name, value in vars(self).items()})
        return self


class SkipLimit(StepCallback):
    """Stops a run in which ``limit`` steps in a row were skipped, naming the first of them.

    The device's count is fetched every ``limit`` steps and read one step later, so that the device has work while the
    host waits for it; after the last step it is read once more. ``first`` is the first step (from 1) of the row that
    stopped the run, or None, and ``last`` the last one.
    """

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit = limit
        self.first: int | None = None
        self.last = 0
        self.in_row = torch.zeros((), dtype=torch.long)
        self.pending: tuple[int, Callable[[], int]] | None = None

    def take(self, metrics: StepMetrics) -> None:
        """Keep the newest count of skipped steps in a row, on its device."""
        self.in_row = metrics.skips_in_row

    def on_step(self, trainer: pl.Trainer, module: pl.LightningModule, step: int) -> None:
        """Read the count that was fetched a step ago; fetch the next when it is time."""
        if self.pending is not None:
            self._read(trainer, *self.pending)
            self.pending = None
        if step == trainer.max_steps:
            self._read(trainer, step, fetch(self.in_row))
        elif step % self.limit == 0:
            self.pending = step, fetch(self.in_row)

    def _read(self, trainer: pl.Trainer, step: int, wait: Callable[[], int]) -> None:
        """Wait for the count of ``step``; stop the run if it has reached the limit."""
        in_row = wait()
        if in_row >= self.limit:
            self.first, self.last = step - in_row + 1, step
            trainer.should_stop = True
