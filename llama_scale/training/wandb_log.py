"""Weights & Biases as a view of a run folder: it can be deleted and rebuilt at any time.

Nothing here waits for a network unless WANDB_MODE=online, and nothing here fails a training run.
"""

import hashlib
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

from llama_scale.errors import InputError, nearest
from llama_scale.files import read_fields, read_jsonl

if TYPE_CHECKING:
    import wandb

PROJECT = "llama_scale"
Mode = Literal["offline", "online", "disabled"]
MODES = get_args(Mode)
INIT_SECONDS = 15
FINISH_SECONDS = 120
NOT_SCORES = ("settings", "step", "tokens_trained", "flops_trained")  # fields of a result
BY_FLOPS = ("loss", "val_loss", "val_bits_per_byte")


def pick_mode(mode: str | None = None) -> Mode:
    """Return ``mode``, or WANDB_MODE, or offline; raise InputError if W&B has no such mode."""
    mode = (mode or os.environ.get("WANDB_MODE") or "offline").strip().lower()
    mode = {"dryrun": "offline", "run": "online"}.get(mode, mode)  # as W&B called them once
    if mode not in MODES:
        raise InputError(f"WANDB_MODE: {mode!r}{nearest(mode, MODES)}; expected one of {', '.join(MODES)}")
    return cast(Mode, mode)


def run_id(*parts: str) -> str:
    """Return the id that W&B knows a run by: the same parts, the same id."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def scalars(values: Any, prefix: str) -> dict[str, float]:
    """Return the numbers in nested dictionaries by path: {"a": {"b": 1}} is {"prefix/a/b": 1}."""
    if isinstance(values, dict):
        nested = (scalars(value, f"{prefix}/{key}") for key, value in values.items())
        return {path: number for numbers in nested for path, number in numbers.items()}
    return {prefix: values} if isinstance(values, int | float) else {}


def mirror_scores(run: Path, project: str, mode: str | None = None) -> str | None:
    """Rebuild the W&B view of a run folder's evaluations; return its id, None when disabled.

    Each scored checkpoint is a step, with its tokens and FLOPs; names are SUITE/MEASURE.
    """
    mode = pick_mode(mode)
    rows = score_rows(run)
    if mode == "disabled" or not rows:
        return None
    import wandb

    identity = run_id(project, run.name, repr(rows))
    with open_run(
        run, identity, mode=mode, name=f"{run.name} scores", job="evaluate", config={}, project=project
    ) as shown:
        define_axes(shown)
        for row in rows:
            shown.log(row, step=row["step"])
    wandb.teardown()
    return identity


def score_rows(run: Path) -> list[dict[str, Any]]:
    """Return a row for each scored checkpoint of a run: step, tokens, flops and the scores."""
    rows: dict[int, dict[str, Any]] = {}
    for path in sorted((run / "evals").glob("step-*/*.json")):
        result = read_fields(path, ["suite"])
        row = rows.setdefault(int(path.parent.name.removeprefix("step-")), {})
        if "flops_trained" in result:
            row |= {k: result.get(f"{k}_trained") for k in ("tokens", "flops")}
        row |= scalars({k: v for k, v in result.items() if k not in NOT_SCORES}, result["suite"])
    return [{"step": step, **rows[step]} for step in sorted(rows)]


@contextmanager
def live_mirror(
    folder: Path, project: str | None, group: str | None, config: dict[str, Any]
) -> Iterator[list[Callable[[dict[str, Any]], None]]]:
    """Yield the listeners of a training run's metric rows: one that mirrors them, or none.

    None without a ``project`` or in mode disabled. A row is one of metrics.jsonl. Offline, a run that is continued
    takes the place of what was written before, and begins with the rows that still stand in metrics.jsonl: each step is
    there once. W&B's own errors are reported once and end the mirroring, not the training.
    """
    if project is None or (mode := pick_mode()) == "disabled":
        yield []
        return
    import wandb

    identity = run_id(project, group or "", str(folder.resolve()))
    with open_run(
        folder, identity, mode=mode, name=folder.name, job="train", config=config, group=group, project=project
    ) as run:
        if run.offline:
            for old in (folder / "wandb").glob(f"offline-run-*-{identity}*"):
                if old.resolve() != Path(run.dir).parent.resolve():
                    shutil.rmtree(old)
        define_axes(run)
        working, has_earlier_rows = True, not run.offline

        def listen(row: dict[str, Any]) -> None:
            nonlocal working, has_earlier_rows
            if not working:
                return
            path = folder / "metrics.jsonl"
            earlier = [] if has_earlier_rows or not path.exists() else read_jsonl(path, required=["step"])
            try:
                for item in [*(old for old in earlier if old["step"] < row["step"]), row]:
                    run.log(by_flops(item), step=item["step"])
                has_earlier_rows = True
            except (wandb.Error, OSError) as error:
                working = False
                print(f"wandb: {error}; training goes on without it", file=sys.stderr)

        yield [listen]
    wandb.teardown()


@contextmanager
def open_run(
    folder: Path,
    identity: str,
    *,
    mode: Mode,
    name: str,
    job: str,
    config: dict[str, Any],
    group: str | None = None,
    project: str = PROJECT,
) -> Iterator["wandb.Run"]:
    """Open a quiet W&B run below ``folder``; online falls back to offline where it cannot be.

    ``identity`` is what W&B knows the run by (``run_id``) and ``job`` its kind of job.
    """
    import wandb

    settings = wandb.Settings(
        silent=True,
        console="off",
        symlink=False,
        init_timeout=INIT_SECONDS,
        finish_timeout=FINISH_SECONDS,
        disable_git=True,
        disable_code=True,
        x_disable_stats=True,
        x_disable_machine_info=True,
        x_disable_meta=True,
    )
    start = partial(
        wandb.init,
        project=project,
        id=identity,
        name=name,
        group=group,
        job_type=job,
        config=config,
        dir=str(folder),
        settings=settings,
        reinit="finish_previous",
    )
    try:
        run = start(mode=mode, resume="allow" if mode == "online" else None)
    except (wandb.Error, TimeoutError) as error:
        reason = " ".join(str(error).split())
        if mode != "online":
            raise InputError(f"wandb: {reason}") from None
        print(f"wandb: {reason}; writing offline", file=sys.stderr)
        wandb.teardown()
        run = start(mode="offline")
    try:
        yield run
    finally:
        run.finish()


def define_axes(run: "wandb.Run") -> None:
    """Plot everything by tokens, and the losses by FLOPs too."""
    for axis in ("tokens", "flops"):
        run.define_metric(axis, hidden=True)
    run.define_metric("*", step_metric="tokens")
    for name in BY_FLOPS:
        run.define_metric(f"by_flops/{name}", step_metric="flops")


def by_flops(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row with its losses once more, under the names that are plotted by FLOPs."""
    return row | {f"by_flops/{name}": row[name] for name in BY_FLOPS if name in row}
