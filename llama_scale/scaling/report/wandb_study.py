"""Weights & Biases as a view of a study folder: it can be deleted and rebuilt at any time."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llama_scale.errors import InputError
from llama_scale.files import read_fields, read_jsonl, read_text
from llama_scale.plotting.table import Table
from llama_scale.scaling.fitting.fitted_laws import READABLE, FittedLaws
from llama_scale.scaling.fitting.points import read_rows
from llama_scale.scaling.report.tables import tables
from llama_scale.training.wandb_log import Mode, by_flops, define_axes, open_run, pick_mode, run_id, scalars, score_rows


def mirror_study(study: Path, mode: str | None = None, more: Sequence[Table] = ()) -> dict[str, str]:
    """Rebuild the W&B view of a study folder: a run for each training run and one for the study.

    A training run has its result.json as configuration and its metrics.jsonl as history, by tokens and by FLOPs. The
    study's run has the points, the laws, their tables and ``more``, and the figures. What an earlier call wrote below
    <study>/wandb is replaced. Ids depend on the content, so that an unchanged run that is synchronized twice stays one
    run.

    Returns:
        The id of each run by name; nothing when the mode is disabled.

    Raises:
        InputError: The study has no points.csv, or the mode is unknown.
    """
    mode = pick_mode(mode)
    if mode == "disabled":
        return {}
    if not (study / "points.csv").exists():
        raise InputError(f"{study}/points.csv: no such file; run launch/study.py first")
    points, header = read_rows(study / "points.csv")
    if "run" not in header:
        raise InputError(f"{study / 'points.csv'}: no column 'run'; launch/collect.py writes it")
    import wandb

    shutil.rmtree(study / "wandb", ignore_errors=True)
    group, ids = study.resolve().name, {}
    for name in [row["run"] for row in points]:
        ids[name], mode = _mirror_run(study, name, group, mode)
    ids[group] = _mirror_results(study, points, group, mode, more)
    wandb.teardown()  # waits until the last run's file is on disk, which finish() does not
    return ids


def _mirror_run(study: Path, name: str, group: str, mode: Mode) -> tuple[str, Mode]:
    """Mirror a training run; return its id and the mode that worked."""
    folder = study / "runs" / name
    result, metrics = read_fields(folder / "result.json"), folder / "metrics.jsonl"
    scores = repr(score_rows(folder))
    logged = metrics.exists()  # by all but a base that was scored as it is
    identity = run_id(group, name, read_text(metrics) if logged else "", scores)
    with open_run(study, identity, mode=mode, name=name, job="train", config=result, group=group) as run:
        define_axes(run)
        rows = {row["step"]: by_flops(row) for row in (read_jsonl(metrics, required=["step"]) if logged else [])}
        for row in score_rows(folder):
            rows[row["step"]] = rows.get(row["step"], {}) | row
        for step in sorted(rows):
            run.log(rows[step], step=step)
        return identity, "offline" if run.offline else mode


def _mirror_results(study: Path, points: list[dict[str, str]], group: str, mode: Mode, more: Sequence[Table]) -> str:
    """Mirror the points, laws, figures and report of a study; return the id of their run."""
    import wandb

    path = study / "laws.json"
    rows: list[Any] = [[_value(cell) for cell in point.values()] for point in points]
    table = wandb.Table(columns=list(points[0]), data=rows)
    identity = run_id(group, repr(points), read_text(path) if path.exists() else "")
    config = {"runs": len(points)}
    with open_run(study, identity, mode=mode, name=group, job="study", config=config, group=group) as run:
        run.log({"points": table})
        if path.exists():
            values = read_fields(path)
            run.summary.update(scalars(values, "laws"))
            readable = values.get("format") in READABLE
            more = [*(tables(FittedLaws.from_dict(values)) if readable else ()), *more]
        for shown in more:
            head, body = list[Any](shown.head), list[Any](shown.body)
            run.log({f"tables/{shown.key}": wandb.Table(columns=head, data=body)})
        for figure in sorted((study / "figures").glob("*.png")):
            run.log({f"figures/{figure.stem}": wandb.Image(str(figure))})
        report = study / "report.html"
        if report.exists():
            run.log({"report": wandb.Html(report.read_text(encoding="utf-8"), inject=False)})
    return identity


def _value(cell: str) -> float | str | bool | None:
    """Read a CSV cell as the number, truth value or text that it is."""
    if cell in ("True", "False", ""):
        return {"True": True, "False": False, "": None}[cell]
    try:
        return float(cell)
    except ValueError:
        return cell
