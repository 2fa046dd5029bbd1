"""Weights & Biases as a view of what lies on disk: it can be deleted and rebuilt at any time.

Nothing here waits for a network unless WANDB_MODE=online, and nothing here fails a training run.
"""

import csv
import hashlib
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama_scale.errors import InputError, nearest
from llama_scale.files import read_json, read_jsonl

if TYPE_CHECKING:
    import wandb

PROJECT = "llama_scale"
MODES = ("offline", "online", "disabled")
INIT_SECONDS = 15
FINISH_SECONDS = 120
ABOUT = ("settings", "step", "tokens_trained", "flops_trained")  # no measures of a result
BY_FLOPS = ("loss", "val_loss", "val_bits_per_byte")


def pick_mode(wanted: str | None = None) -> str:
    """Return ``wanted``, or WANDB_MODE, or offline; raise InputError if W&B has no such mode."""
    mode = wanted or os.environ.get("WANDB_MODE") or "offline"
    if mode not in MODES:
        known = ", ".join(MODES)
        raise InputError(f"WANDB_MODE: {mode!r}{nearest(mode, MODES)}; expected one of {known}")
    return mode


def run_id(*parts: str) -> str:
    """Return the id that W&B knows a run by: the same parts, the same id."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def mirror(study: Path, mode: str | None = None) -> dict[str, str]:
    """Rebuild the W&B view of a study folder: a run for each training run and one for the study.

    A training run has its result.json as configuration and its metrics.jsonl as history, by
    tokens and by FLOPs. The study's run has the points, the laws, their tables and the figures.
    What an earlier call wrote below <study>/wandb is replaced. Ids depend on the content, so that
    an unchanged run that is synchronised twice stays one run.

    Returns:
        The id of each run by name; nothing when the mode is disabled.

    Raises:
        InputError: The study has no points.csv, or the mode is unknown.
    """
    mode = pick_mode(mode)
    if mode == "disabled":
        return {}
    points = _read_points(study)
    import wandb

    shutil.rmtree(study / "wandb", ignore_errors=True)
    group, ids = study.resolve().name, {}
    for name in [row["run"] for row in points]:
        ids[name], mode = _mirror_run(study, name, group, mode)
    ids[group] = _mirror_study(study, points, group, mode)
    wandb.teardown()  # waits until the last run's file is on disk, which finish() does not
    return ids


def _read_points(study: Path) -> list[dict[str, str]]:
    try:
        with open(study / "points.csv", encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))
    except FileNotFoundError:
        raise InputError(f"{study}/points.csv: no such file; run launch/study.py first") from None


def _mirror_run(study: Path, name: str, group: str, mode: str) -> tuple[str, str]:
    """Mirror a training run; return its id and the mode that worked."""
    folder = study / "runs" / name
    result, metrics = read_json(folder / "result.json"), folder / "metrics.jsonl"
    scores = repr(score_rows(folder))
    identity = run_id(group, name, metrics.read_text(encoding="utf-8"), scores)
    with _open(study, mode, identity, name, group, "train", result) as run:
        _define_axes(run)
        rows = {row["step"]: _by_flops(row) for row in read_jsonl(metrics)}
        for row in score_rows(folder):
            rows[row["step"]] = rows.get(row["step"], {}) | row
        for step in sorted(rows):
            run.log(rows[step], step=step)
        return identity, "offline" if run.offline else mode


def _mirror_study(study: Path, points: list[dict[str, str]], group: str, mode: str) -> str:
    import wandb

    from llama_scale.scaling.fitting.laws_file import FORMAT
    from llama_scale.scaling.report.tables import tables

    laws = study / "laws.json"
    rows = [[_value(cell) for cell in point.values()] for point in points]
    table = wandb.Table(columns=list(points[0]), data=rows)
    identity = run_id(group, repr(points), laws.read_text() if laws.exists() else "")
    with _open(study, mode, identity, group, group, "study", {"runs": len(points)}) as run:
        run.log({"points": table})
        if laws.exists():
            found = read_json(laws)
            run.summary.update(scalars(found, "laws"))
            for shown in tables(found) if found.get("format") == FORMAT else ():
                run.log({f"tables/{shown.key}": wandb.Table(columns=shown.head, data=shown.body)})
        for figure in sorted((study / "figures").glob("*.png")):
            run.log({f"figures/{figure.stem}": wandb.Image(str(figure))})
        report = study / "report.html"
        if report.exists():
            run.log({"report": wandb.Html(report.read_text(encoding="utf-8"), inject=False)})
    return identity


def scalars(values: Any, prefix: str) -> dict[str, float]:
    """Return the numbers in nested dictionaries by path: {"a": {"b": 1}} is {"prefix/a/b": 1}."""
    if isinstance(values, dict):
        found: dict[str, float] = {}
        for key, value in values.items():
            found |= scalars(value, f"{prefix}/{key}")
        return found
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
    with _open(run, mode, identity, f"{run.name} scores", None, "evaluate", {}, project) as shown:
        _define_axes(shown)
        for row in rows:
            shown.log(row, step=row["step"])
    wandb.teardown()
    return identity


def score_rows(run: Path) -> list[dict[str, Any]]:
    """Return a row for each scored checkpoint of a run: step, tokens, flops and the scores."""
    rows: dict[int, dict[str, Any]] = {}
    for path in sorted((run / "evals").glob("step-*/*.json")):
        result = read_json(path)
        row = rows.setdefault(int(path.parent.name.removeprefix("step-")), {})
        if "flops_trained" in result:
            row |= {k: result[f"{k}_trained"] for k in ("tokens", "flops")}
        measures = {k: v for k, v in result.items() if k not in ABOUT}
        row |= scalars(measures, result["suite"])
    return [{"step": step, **rows[step]} for step in sorted(rows)]


@contextmanager
def live(
    folder: Path, project: str | None, group: str | None, config: dict[str, Any]
) -> Iterator[list[Callable[[dict[str, Any]], None]]]:
    """Yield the listeners of a training run's metric rows: one that mirrors them, or none.

    None without a ``project`` or in mode disabled. A row is one of metrics.jsonl. Offline, a run
    that is continued takes the place of what was written before, and begins with the rows that
    still stand in metrics.jsonl: each step is there once. W&B's own errors are reported once and
    end the mirroring, not the training.
    """
    mode = pick_mode()
    if project is None or mode == "disabled":
        yield []
        return
    import wandb

    identity = run_id(project, group or "", str(folder.resolve()))
    with _open(folder, mode, identity, folder.name, group, "train", config, project) as run:
        if run.offline:
            for old in (folder / "wandb").glob(f"offline-run-*-{identity}*"):
                if old.resolve() != Path(run.dir).parent.resolve():
                    shutil.rmtree(old)
        _define_axes(run)
        working, begun = True, not run.offline

        def listen(row: dict[str, Any]) -> None:
            nonlocal working, begun
            if not working:
                return
            try:
                for item in [row] if begun else [*_rows_before(folder, row["step"]), row]:
                    run.log(_by_flops(item), step=item["step"])
                begun = True
            except (wandb.Error, OSError) as error:
                working = False
                print(f"wandb: {error}; training goes on without it", file=sys.stderr)

        yield [listen]
    wandb.teardown()


def _rows_before(folder: Path, step: int) -> list[dict[str, Any]]:
    path = folder / "metrics.jsonl"
    return [row for row in read_jsonl(path) if row["step"] < step] if path.exists() else []


@contextmanager
def _open(
    folder: Path,
    mode: str,
    identity: str,
    name: str,
    group: str | None,
    job: str,
    config: dict[str, Any],
    project: str = PROJECT,
) -> Iterator["wandb.Run"]:
    """Open a quiet W&B run below ``folder``; online falls back to offline where it cannot be."""
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

    def start(mode: str) -> "wandb.Run":
        return wandb.init(
            project=project,
            id=identity,
            name=name,
            group=group,
            job_type=job,
            config=config,
            dir=str(folder),
            mode=mode,
            resume="allow" if mode == "online" else None,
            settings=settings,
            reinit="finish_previous",
        )

    try:
        run = start(mode)
    except (wandb.Error, TimeoutError) as error:
        if mode != "online":
            raise InputError(f"wandb: {' '.join(str(error).split())}") from None
        print(f"wandb: {' '.join(str(error).split())}; writing offline", file=sys.stderr)
        wandb.teardown()
        run = start("offline")
    try:
        yield run
    finally:
        run.finish()


def _define_axes(run: "wandb.Run") -> None:
    """Plot everything by tokens, and the losses by FLOPs too."""
    for axis in ("tokens", "flops"):
        run.define_metric(axis, hidden=True)
    run.define_metric("*", step_metric="tokens")
    for name in BY_FLOPS:
        run.define_metric(f"by_flops/{name}", step_metric="flops")


def _by_flops(row: dict[str, Any]) -> dict[str, Any]:
    return row | {f"by_flops/{name}": row[name] for name in BY_FLOPS if name in row}


def _value(cell: str) -> float | str | bool | None:
    """Read a CSV cell as the number, truth value or text that it is."""
    if cell in ("True", "False", ""):
        return {"True": True, "False": False, "": None}[cell]
    try:
        return float(cell)
    except ValueError:
        return cell
