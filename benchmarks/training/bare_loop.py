"""A bare training loop that takes turns with the trainer, step by step."""

from typing import Any

import torch

from benchmarks.timing import device_clock
from llama_scale.data.loader import StepSampler, TokenWindows, build_loader
from llama_scale.model.llama import Llama
from llama_scale.training.callbacks import StepCallback
from llama_scale.training.optim import build_optimizer, clip_in_step
from llama_scale.training.run_plan import Run

LOG_EVERY = 10


class BareLoop(StepCallback):
    """After each ``block`` steps of the trainer, takes as many of a bare loop; times both.

    The bare loop has the same model, data, optimizer and clipping, and reads its loss every ten
    steps. ``trainer_seconds`` and ``bare_seconds`` are the seconds of each block after ``warmup``
    steps; all that the trainer does between two calls of this callback counts as its time.
    """

    def __init__(self, run: Run, warmup: int, block: int) -> None:
        super().__init__()
        self.run, self.warmup, self.block = run, warmup, block
        self.trainer_seconds: list[float] = []
        self.bare_seconds: list[float] = []
        self.clock = device_clock(run.device)
        self.model = Llama.empty_model(run.config.model).init_weights(run.config.seed).to(run.device)
        if run.compile_loss:
            self.model.compile_parts(blocks=run.compile)
        self.optimizer = build_optimizer(self.model, run.config.optim, run.recipe.lr)
        windows = TokenWindows(run.tokens, run.config.model.context_length, run.config.seed)
        sampler = StepSampler(run.recipe.batch, run.layout.micro_batch)
        self.batches = iter(build_loader(windows, sampler, pin=run.device == "cuda"))
        self.trainer_start: float | None = None  # of its current block; None before the first

    def on_step(self, trainer: Any, module: Any, step: int) -> None:
        """Take the bare loop's turn when the trainer's block has ended."""
        if step % self.block:
            return
        trainer_end = self.clock()
        for number in range(step - self.block, step):
            self.take_bare_step(number)
        bare_end = self.clock()
        if self.trainer_start is not None and step - self.block >= self.warmup:
            self.trainer_seconds.append(trainer_end - self.trainer_start)
            self.bare_seconds.append(bare_end - trainer_end)
        self.trainer_start = bare_end

    def take_bare_step(self, number: int) -> None:
        """Take optimizer step ``number`` of the bare loop, from 0 on."""
        tokens = next(self.batches).to(self.run.device, non_blocking=True)  # (B, T + 1)
        with torch.autocast(self.run.device, torch.bfloat16, enabled=self.run.bf16, cache_enabled=False):
            loss = self.model.loss(tokens)
        loss.backward()
        clip_in_step(self.optimizer, self.model.parameters(), self.run.config.optim.grad_clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if number % LOG_EVERY == 0:
            loss.item()
