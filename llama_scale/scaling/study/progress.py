"""What a person sees of a running study: a bar on a terminal, lines otherwise, and when it ends."""

import json
import os
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from tqdm import tqdm

from llama_scale.errors import InputError
from llama_scale.files import open_file, read_json
from llama_scale.scaling.forecasting.forecast import read_forecast
from llama_scale.scaling.study.backends.state import Attempt, Failure, State
from llama_scale.scaling.study.backends.task import Task
from llama_scale.scaling.study.plan import Study
from llama_scale.scaling.study.tasks import FORECAST
from llama_scale.text import between, digits, relative_path

HEARTBEAT = 60.0
REFRESH = 0.5
# Seconds that a stage takes, as long as none of it has been measured.
USUAL_SECONDS = {
    "prepare": 40.0, "evaluate": 12.0, "collect": 1.0, "fit": 15.0, "report": 10.0, "pairs": 60.0, "split": 2.0,
    "finetune": 15.0, "rates": 30.0, "rank": 5.0, "compare": 10.0,
}  # fmt: skip
# Stages that share the slots; what has no FLOPs and is of another runs alone.
SHARED = ("evaluate", "finetune", "rates")
# Lines of a stage's output that are shown when it has finished.
SHOWN_LINES = {"prepare": 1, "fit": 60, "track": 1, "split": 5, "rank": 9, "compare": 60}


class Progress:
    """Prints what the executor tells it of, with the time that is left."""

    def __init__(self, study: Study, state: State, slots: int) -> None:
        self.study, self.state, self.slots = study, state, slots
        self.begun = self.printed = time.monotonic()
        self.refreshed = 0.0
        self.running: list[Attempt] = []

    def __enter__(self) -> "Progress":
        study, flops = self.study, sum(run.spent for run in self.study.runs)
        work = f", {flops:.3g} FLOPs" if flops else ""
        shape = "{desc} {percentage:3.0f}%|{bar}| {postfix}"
        self.bar = tqdm(total=1.0, bar_format=shape, disable=None, leave=False)
        where = f"up to {self.slots} at a time; logs in {relative_path(study.folder / 'logs')}"
        self.write(f"{study.config.name}: {len(study.runs)} runs{work}, {where}")
        if done := len(self.state.done):
            self.write(f"{done} of {len(self.state.tasks)} tasks already done")
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def write(self, line: str, more: list[str] | None = None) -> None:
        """Print a line, and ``more`` lines indented below it, above the bar."""
        self.printed = time.monotonic()
        for text in [line, *(f"        {text}" for text in more or [])]:
            tqdm.write(text, file=sys.stdout)
        sys.stdout.flush()

    def started(self, attempt: Attempt) -> None:
        """Show that a task was started; on a terminal the bar names it."""
        if self.bar.disable:
            self.write(f"{self._count()} {attempt.task.name} started")

    def finished(self, attempt: Attempt) -> None:
        """Show that a task succeeded, what it found and the time left."""
        task = attempt.task
        self.write(
            f"{self._count()} {task.name} finished in {clock(attempt.seconds)}{self._result(task)}; {self._times()}",
            attempt.tail(SHOWN_LINES[task.stage]) if task.stage in SHOWN_LINES else None,
        )

    def retried(self, attempt: Attempt) -> None:
        """Show that a task crashed and is run once more."""
        self.write(f"{attempt.task.name} crashed and is run once more; it said:", attempt.tail())

    def failed(self, failure: Failure) -> None:
        """Show that a task failed, and how."""
        log = relative_path(self.study.folder / "logs" / f"{failure.task.name}.log")
        self.write(f"{failure.task.name} FAILED ({failure.reason}; {log}):", failure.lines)

    def tick(self, running: list[Attempt]) -> None:
        """Advance the bar, or print a line after a silence."""
        self.running, now = list(running), time.monotonic()
        if self.bar.disable and now - self.printed > HEARTBEAT:
            shares = [f"{r.task.name} {100 * self._share(r):.0f} %" for r in running]
            self.write(f"{self._count()} running {', '.join(shares)}; {self._times()}")
        elif not self.bar.disable and now - self.refreshed > REFRESH:
            self.refreshed = now
            left, elapsed = self.seconds_left(), now - self.begun
            self.bar.n = elapsed / (elapsed + left) if left is not None else 0.0
            self.bar.set_description_str(", ".join(r.task.name for r in running), refresh=False)
            self.bar.set_postfix_str(f"{self._count()} {self._times()}")

    def seconds_left(self) -> float | None:
        """Estimate the time left: the FLOPs left at the speed so far, and the other tasks.

        Training and evaluation share the slots, the rest runs alone. None before there is a speed.
        """
        records, shares = self.state.records, {r.task.name: self._share(r) for r in self.running}
        trained = [t for t in self.state.tasks if t.flops and t.name in records]
        moving = [r for r in self.running if shares[r.task.name]]
        flops = sum(t.flops for t in trained)
        flops += sum(r.task.flops * shares[r.task.name] for r in moving)
        seconds = sum(records[t.name]["seconds"] for t in trained) + sum(r.seconds for r in moving)
        left = [task for task in self.state.tasks if task.name not in self.state.done]
        if any(task.flops for task in left) and not flops:
            return None
        since = {r.task.name: r.seconds for r in self.running}
        together = alone = 0.0
        for task in left:
            rest = max(0.0, self._usual_seconds(task) - since.get(task.name, 0.0))
            if task.flops:
                together += (1 - shares.get(task.name, 0.0)) * task.flops * seconds / flops
            elif task.stage in SHARED:
                together += rest
            else:
                alone += rest
        return together / self.slots + alone

    def _usual_seconds(self, task: Task) -> float:
        """Seconds that a task of this stage takes: as measured, or a guess."""
        names = [t.name for t in self.state.tasks if t.stage == task.stage]
        took = [self.state.records[n]["seconds"] for n in names if n in self.state.records]
        return sum(took) / len(took) if took else USUAL_SECONDS.get(task.stage, 10.0)

    def _share(self, attempt: Attempt) -> float:
        """Share of a training run's FLOPs that its metrics log shows as done."""
        if not attempt.task.metrics:
            return 0.0
        done = last_row(self.state.root / attempt.task.metrics).get("flops", 0)
        return min(1.0, max(0.0, done - attempt.task.flops_before) / attempt.task.flops)

    def _count(self) -> str:
        return f"[{len(self.state.done)}/{len(self.state.tasks)}]"

    def _times(self) -> str:
        left = self.seconds_left()
        about = f", about {clock(left)} left" if left is not None else ""
        return f"{clock(time.monotonic() - self.begun)} elapsed{about}"

    def _result(self, task: Task) -> str:
        """The loss or the score of a run that has just been trained, scored or forecast."""
        with suppress(InputError, KeyError, IndexError):
            output = self.state.root / task.outputs[0]
            if task.stage == "train":
                return f", validation loss {read_json(output)['val_loss']:.4f}"
            if task.stage == "evaluate" and "bits_per_byte" in (scores := read_json(output)):
                return f", {scores['bits_per_byte']:.4f} bits per byte"
            if task.stage == "finetune":
                return f", held-out {read_json(output)['val_bits_per_byte']:.4f} bits per byte"
            if task.stage == "rates":
                return f", best rate {read_json(output)['lr']:.3g}"
            if task.name == FORECAST:
                runs = read_forecast(max(output.glob("*.json"))).runs
                losses = [f"{r.run} {between(r, digits, 'run_low', 'run_high')}" for r in runs]
                return f", loss expected: {'; '.join(losses)}"
        return ""


def last_row(path: Path) -> dict[str, Any]:
    """Return the last whole row of a JSON-lines file, or an empty one."""
    try:
        with open_file(path) as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 4096))
            return json.loads(file.read().split(b"\n")[-2])
    except (OSError, IndexError, json.JSONDecodeError):
        return {}


def clock(seconds: float) -> str:
    """Return a duration as m:ss or h:mm:ss."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
