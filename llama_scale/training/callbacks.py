"""Lightning callbacks: the metrics log, signals and the progress bar.

Lightning's own counterparts lose the CSV of a reused folder, synchronize every batch and save inside signal handlers;
these do none of that.
"""

import gc
import json
import math
import os
import signal
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from llama_scale.checkpoint.folder import write_with_room
from llama_scale.cli import leave_terminal
from llama_scale.device import memory_used
from llama_scale.files import FULL, append_jsonl, atomic_write, read_jsonl
from llama_scale.lightning import pl


class StepCallback(pl.Callback):
    """Calls ``on_step`` once after each optimizer step, with the number of steps done."""

    def __init__(self) -> None:
        self.steps_seen = 0

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Start counting at the step that the run starts or resumes from."""
        self.steps_seen = trainer.global_step

    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, *_: Any) -> None:
        """Pass on the micro-batches that ended an optimizer step."""
        if trainer.global_step > self.steps_seen:
            self.steps_seen = trainer.global_step
            self.on_step(trainer, module, self.steps_seen)

    def on_step(self, trainer: pl.Trainer, module: pl.LightningModule, step: int) -> None:
        """Do what is to be done after optimizer step ``step`` (from 1)."""
        raise NotImplementedError


@dataclass(frozen=True)
class StepMetrics:
    """What an optimizer step measured. The tensors () stay on the device, so nothing waits."""

    loss: torch.Tensor  # mean in nats of the step's micro-batches over all ranks; NaN for a skipped step
    grad_norm: torch.Tensor  # before clipping
    lr: float
    skips: torch.Tensor  # steps skipped so far
    skips_in_row: torch.Tensor  # steps skipped since the last one that was taken


@dataclass(frozen=True)
class StepCost:
    """What turns steps and seconds into tokens, FLOPs and MFU."""

    tokens: int  # in an optimizer step, all ranks together; their mean where steps differ
    flops_per_token: int  # of training, attention counted causal
    flops_per_token_full: int  # the same with the full square of attention
    peak_flops: float | None = None  # dense bf16 peak of all devices together in FLOP/s, None where unknown
    read: Callable[[int], int] | None = None  # tokens of so many first steps, where steps differ

    def tokens_after(self, step: int) -> int:
        """Return the tokens that the first ``step`` steps read."""
        return self.read(step) if self.read else step * self.tokens


# Called after each step, with its number from 1; returns scores by name, none when none are due.
Scorer = Callable[[pl.Trainer, pl.LightningModule, int], Mapping[str, float]]
Listener = Callable[[dict[str, Any]], None]  # is handed each row of metrics.jsonl


class MetricsLog(StepCallback):
    """Appends a row to metrics.jsonl every ``every`` steps and whenever a scorer has scores.

    A row has step, tokens, flops, loss (the mean in nats of the steps taken since the row before, null if there are
    none), lr, grad_norm, skips (steps left out so far), what the ``scorers`` returned, tokens_per_second (their time
    left out), memory (bytes) and, where the device's peak is known, mfu (attention counted causal), mfu_full and
    peak_flops. Losses stay on the device between rows. A resumed run drops the rows after its checkpoint first, so that
    no step stands twice. Rank 0 alone writes; ``listeners`` are handed each row. On a full disk rows wait, in the
    checkpoints too, until there is room; for those of the last step ``make_room`` may delete an earlier checkpoint.
    """

    def __init__(
        self,
        path: Path,
        every: int,
        cost: StepCost,
        *,
        scorers: Sequence[Scorer] = (),
        listeners: Sequence[Listener] = (),
        make_room: Callable[[], Path | None] = lambda: None,
    ) -> None:
        super().__init__()
        self.path, self.every, self.cost = path, every, cost
        self.scorers, self.listeners, self.make_room = scorers, listeners, make_room
        self.unwritten: list[dict[str, Any]] = []
        self.losses: list[torch.Tensor] = []
        self.latest: StepMetrics | None = None
        self.clock, self.clock_step, self.seconds_scoring = 0.0, 0, 0.0

    def state_dict(self) -> dict[str, Any]:
        """Return the losses since the last row, so that a resumed row has the same mean, and the rows that wait."""
        waiting = {"unwritten": list(self.unwritten)} if self.unwritten else {}
        return {"losses": [float(loss) for loss in self.losses]} | waiting

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take back the losses since the last row and the rows that waited."""
        self.losses = [torch.tensor(loss) for loss in state_dict["losses"]]
        self.unwritten = list(state_dict.get("unwritten", ()))

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Drop the rows of steps that are about to be repeated."""
        super().on_train_start(trainer, module)
        self.clock, self.clock_step = time.perf_counter(), trainer.global_step
        if not trainer.is_global_zero:
            return
        # A branch has no file yet; rows that waited in its trunk's checkpoint are the trunk's.
        rows = [*read_jsonl(self.path, required=["step"]), *self.unwritten] if self.path.exists() else []
        self.unwritten = []
        earlier = {row["step"]: row for row in rows if row["step"] <= trainer.global_step}
        with atomic_write(self.path) as file:
            file.writelines(json.dumps(row) + "\n" for row in earlier.values())

    def take(self, metrics: StepMetrics) -> None:
        """Keep what a step measured for the next row."""
        self.losses.append(metrics.loss)
        self.latest = metrics

    def on_step(self, trainer: pl.Trainer, module: pl.LightningModule, step: int) -> None:
        """Score the model; write a row when one is due."""
        scores: dict[str, float] = {}
        for scorer in self.scorers:
            started = time.perf_counter()
            scores |= scorer(trainer, module, step)
            self.seconds_scoring += time.perf_counter() - started
        if step % self.every and step != trainer.max_steps and not scores:
            return
        row = self._measures(step, module.device) | scores | self._speed(step, module.device)
        self.losses, self.seconds_scoring = [], 0.0
        if trainer.is_global_zero:
            self._write(row, self.make_room if trainer.should_stop or step == trainer.max_steps else lambda: None)
            for listener in self.listeners:
                listener(row)

    def _write(self, row: dict[str, Any], make_room: Callable[[], Path | None]) -> None:
        """Append a row and those that wait; let them wait where the disk is full."""
        first = not self.unwritten
        self.unwritten.append(row)
        try:
            write_with_room(lambda: append_jsonl(self.path, self.unwritten), make_room, self.path.name)
            self.unwritten = []
        except OSError as error:
            if error.errno not in FULL:
                raise
            if first:
                print(f"{self.path}: the disk is full; its rows wait until there is room", file=sys.stderr, flush=True)

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Write the rows that still wait; raise OSError if they cannot be. The last checkpoint has them too."""
        if self.unwritten and trainer.is_global_zero:
            append_jsonl(self.path, self.unwritten)

    def _measures(self, step: int, device: torch.device) -> dict[str, Any]:
        """Fetch what the steps since the last row measured."""
        latest = self.latest
        assert latest is not None, "take comes before on_step"
        losses = torch.stack([loss.to(device) for loss in self.losses]).double()  # (steps,)
        return {
            "step": step,
            "tokens": self.cost.tokens_after(step),
            "flops": self.cost.tokens_after(step) * self.cost.flops_per_token,
            "loss": finite(losses.nanmean().item()),  # a skipped step is NaN
            "lr": latest.lr,
            "grad_norm": finite(float(latest.grad_norm)),
            "skips": int(latest.skips),
        }

    def _speed(self, step: int, device: torch.device) -> dict[str, Any]:
        """Return what the time since the last row says, and start the clock again."""
        now = time.perf_counter()
        seconds = now - self.clock - self.seconds_scoring
        rate = (self.cost.tokens_after(step) - self.cost.tokens_after(self.clock_step)) / seconds
        self.clock, self.clock_step = now, step
        speed = {"tokens_per_second": rate, "memory": memory_used(device.type)}
        if self.cost.peak_flops:
            share = rate / self.cost.peak_flops
            speed["mfu"] = share * self.cost.flops_per_token
            speed["mfu_full"] = share * self.cost.flops_per_token_full
            speed["peak_flops"] = self.cost.peak_flops
        return speed


def unwritten_rows(state: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of metrics.jsonl that waited for room when a checkpoint with this ``state`` was saved."""
    return state.get("callbacks", {}).get(MetricsLog.__qualname__, {}).get("unwritten", [])


def finite(value: float) -> float | None:
    """Return ``value``, or None where JSON has no number for it."""
    return value if math.isfinite(value) else None


class StopOnSignal(StepCallback):
    """On SIGTERM, SIGHUP, SIGUSR1 or Ctrl-C: finish the step, save and stop; a second signal kills.

    A signal that was ignored when training began (nohup ignores SIGHUP) stays so.

    ``received`` is the number of the signal that all ranks agreed to stop for, or None. Ranks must stop after the same
    step: one that left alone would keep the others waiting in their next all-reduce. So after each step every rank
    starts a vote, the maximum over all ranks of the signal that each holds (0 for none), and reads the result after the
    next step. The vote goes between the hosts (gloo) while the devices compute, and no device waits for it. For
    example, with SIGUSR1 = 10 arriving at rank 1 in step 5:

        after step 5: rank 0 votes 0, rank 1 votes 10; both read the vote of step 4, which is 0 after step 6: both read
        max(0, 10) = 10, save step 6 and stop
    """

    SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGINT)

    def __init__(self) -> None:
        super().__init__()
        self.received: int | None = None
        self.pending: int | None = None  # what this rank alone has received
        self.previous_handlers: dict[int, Any] = {}
        self.group: Any = None
        self.vote: tuple[Any, torch.Tensor] | None = None

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Take over the signals from Lightning, which would save inside the handler."""
        super().on_train_start(trainer, module)
        heeded = [number for number in self.SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
        self.previous_handlers = {number: signal.signal(number, self._handle) for number in heeded}
        if trainer.world_size > 1:
            self.group = torch.distributed.new_group(backend="gloo")

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Give the signals back, once the vote of the last step has arrived."""
        self._agree()
        for number, handler in self.previous_handlers.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: Any) -> None:
        if self.pending is not None:
            os._exit(128 + number)
        self.pending = number
        if number == signal.SIGHUP:
            leave_terminal()

    def _agree(self) -> int | None:
        """Read the vote of a step ago and start the next; return the signal of the former."""
        if self.group is None:
            return self.pending
        agreed = None
        if self.vote is not None:
            work, highest = self.vote
            work.wait()
            agreed = int(highest) or None
        highest = torch.tensor(self.pending or 0)  # ()
        work = torch.distributed.all_reduce(highest, torch.distributed.ReduceOp.MAX, group=self.group, async_op=True)
        self.vote = (work, highest)
        return agreed

    def on_step(self, trainer: pl.Trainer, module: pl.LightningModule, step: int) -> None:
        """Ask the trainer to stop; callbacks after this one see it and save."""
        self.received = self.received or self._agree()
        trainer.should_stop = trainer.should_stop or self.received is not None


class GarbageCollection(StepCallback):
    """Collects garbage every ``every`` steps and at no other time.

    What is there after the first step is never looked at again. A collection that comes by itself can stall a step for
    a tenth of a second, at another moment on each rank.
    """

    def __init__(self, every: int = 100) -> None:
        super().__init__()
        self.every, self.frozen = every, False

    def on_step(self, trainer: pl.Trainer, module: pl.LightningModule, step: int) -> None:
        """Freeze after the first step; collect when it is time."""
        if not self.frozen:
            gc.collect()
            gc.freeze()
            gc.disable()
            self.frozen = True
        elif step % self.every == 0:
            gc.collect()

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Give the collector back."""
        gc.enable()
        gc.unfreeze()

    def on_exception(self, trainer: pl.Trainer, module: pl.LightningModule, exception: BaseException) -> None:
        """Give the collector back."""
        self.on_train_end(trainer, module)


class SlowSteps:
    """Says when steps begin to take over ``FAR`` times their median, as beside other work on the same cores.

    Two threads of a step wait for each other: where another process takes one of their cores, a step takes 4 to 8 times
    as long. It listens to the rows of metrics.jsonl; ``step`` is the one that the run goes on from.
    """

    FAR = 2.0
    ENOUGH = 8  # rows without which a median says little
    LEAST_LOST = 1.0  # seconds in a row, below which it does not matter

    def __init__(self, tokens: int, step: int) -> None:
        self.tokens, self.step, self.slow = tokens, step, False
        self.seconds: list[float] = []  # of a step, in each row

    def listen(self, row: dict[str, Any]) -> None:
        """Compare the steps of a row with those before."""
        seconds, steps = self.tokens / row["tokens_per_second"], row["step"] - self.step
        self.step = row["step"]
        median = statistics.median(self.seconds or [seconds])
        lost = steps * (seconds - median)
        slow = len(self.seconds) >= self.ENOUGH and seconds > self.FAR * median and lost > self.LEAST_LOST
        self.seconds.append(seconds)
        if slow and not self.slow:
            times, load = f"{seconds / median:.1f} times their median of {median:.3g} s", os.getloadavg()[0]
            where = f"load {load:.1f} on {os.cpu_count()} CPUs"
            with suppress(OSError):
                print(f"step {self.step}: steps take {times}; is other work running here ({where})?", file=sys.stderr)
        self.slow = slow


class Progress(StepCallback):
    """A bar with loss, tokens/s and time left on a terminal, a line a tenth otherwise.

    What cannot be shown, because the terminal or the reader of a pipe went away, stops nothing.
    """

    def __init__(self, steps: int, label: str) -> None:
        super().__init__()
        self.steps, self.label = steps, label
        self.row: dict[str, Any] = {}
        self.bar = tqdm(disable=True)

    def listen(self, row: dict[str, Any]) -> None:
        """Take the latest row of the metrics log."""
        self.row = row

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Open the bar at the step the run resumes from."""
        super().on_train_start(trainer, module)
        self.started, self.first = time.perf_counter(), trainer.global_step
        disable = None if trainer.is_global_zero else True  # None: shown where stderr is a terminal
        self.bar = tqdm(total=self.steps, initial=self.first, desc=self.label, unit="step", disable=disable)

    def on_step(self, trainer: pl.Trainer, module: pl.LightningModule, step: int) -> None:
        """Advance the bar, or print a line."""
        keys = ("loss", "tokens_per_second", "mfu")
        shown = {k: self.row[k] for k in keys if self.row.get(k) is not None}
        with suppress(OSError):
            self._show(step, shown)

    def _show(self, step: int, shown: dict[str, float]) -> None:
        if not self.bar.disable:
            self.bar.set_postfix({k: f"{v:,.4g}" for k, v in shown.items()}, refresh=False)
            self.bar.update(step - self.bar.n)
        elif step * 10 // self.steps > (step - 1) * 10 // self.steps and "loss" in shown:
            seconds_left = (self.steps - step) * (time.perf_counter() - self.started) / (step - self.first)
            speed = f"{shown['tokens_per_second']:,.0f} tokens/s"
            speed += f", MFU {shown['mfu']:.1%}" if "mfu" in shown else ""
            text = (
                f"{self.label}: step {step}/{self.steps} loss {shown['loss']:.4f} {speed}, {seconds_left:,.0f} s left"
            )
            print(text, flush=True)

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Close the bar."""
        with suppress(OSError):
            self.bar.close()
