"""A bare training loop that takes turns with the trainer, step by step."""

import time
from typing import Any

import torch

from llama_scale.data.loader import StepSampler, TokenWindows, build_loader
from llama_scale.device import device_name, synchronize
from llama_scale.model.llama import Llama
from llama_scale.training.callbacks import StepCallback
from llama_scale.training.optim import build_optimizer
from llama_scale.training.run_plan import Run

LOG_EVERY = 10


class Turns(StepCallback):
    """After each ``block`` steps of the trainer, takes as many of a bare loop; times both.

    The bare loop has the same model, data, optimizer and clipping, and reads its loss every ten
    steps. ``trainer`` and ``bare`` are the seconds of each block after ``warmup`` steps; all that
    the trainer does between two calls of this callback counts as its time.
    """

    def __init__(self, run: Run, warmup: int, block: int) -> None:
        super().__init__()
        self.run, self.warmup, self.block = run, warmup, block
        self.trainer: list[float] = []
        self.bare: list[float] = []
        self.device_name = device_name(run.device)
        self.model = (
            Llama.empty_model(run.config.model).init_weights(run.config.seed).to(run.device)
        )
        if run.compile:
            self.model.compile_parts()
        self.optimizer = build_optimizer(self.model, run.config.optim, run.recipe.lr)
        windows = TokenWindows(run.tokens, run.config.model.context_length, run.config.seed)
        self.batches = iter(build_loader(windows, StepSampler(run.recipe.batch, run.micro_batch)))
        self.resumed: float | None = None

    def on_step(self, trainer: Any, module: Any, step: int) -> None:
        """Take the bare loop's turn when the trainer's block has ended."""
        if step % self.block:
            return
        synchronize(self.run.device)
        ended = time.perf_counter()
        for number in range(step - self.block, step):
            self._step(number)
        synchronize(self.run.device)
        now = time.perf_counter()
        if self.resumed is not None and step - self.block >= self.warmup:
            self.trainer.append(ended - self.resumed)
            self.bare.append(now - ended)
        self.resumed = now

    def _step(self, number: int) -> None:
        tokens = next(self.batches).to(self.run.device, non_blocking=True)  # (B, T + 1)
        with torch.autocast(self.run.device, torch.bfloat16, enabled=self.run.bf16):
            loss = self.model.loss(tokens)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.run.config.optim.grad_clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if number % LOG_EVERY == 0:
            loss.item()
