"""Weights & Biases as a view of a repair study: it can be deleted and rebuilt at any time."""

import shutil
from pathlib import Path
from typing import Any

from evals.repair.report.page import Study
from evals.repair.report.tables import tables
from llama_scale.training.wandb_log import open_run, pick_mode, run_id, scalars

Row = dict[str, Any]
ABOUT_ROWS = ("arms", "in_words", "task_ids", "format")  # of a result: what is shown otherwise


def mirror_study(study: Study, folder: Path, report: Path, project: str, mode: str | None = None) -> str | None:
    """Rebuild the W&B view of a study below ``folder``; return its id, None when disabled.

    The run has the settings as configuration and as history a row for each number of programs, with each arm's rate,
    interval and tokens; rates are shown by programs and by the arm's own tokens. The summary has each arm's figures at
    the full budget and its differences to resampling; tables and figures are those of ``report``. The id is one of the
    content: offline, the same study takes the place of what was written before.
    """
    mode = pick_mode(mode)
    if mode == "disabled":
        return None
    import wandb

    result, name = study.result, f"{study.name} repair {study.result['suite']}"
    identity = run_id(project, name, result["journal_sha256"], repr(result["in_words"]))
    for old in (folder / "wandb").glob(f"offline-run-*-{identity}"):
        shutil.rmtree(old)
    config = {key: value for key, value in result.items() if key not in ABOUT_ROWS}
    with open_run(folder, identity, mode=mode, name=name, job="repair", config=config, project=project) as run:
        run.define_metric("programs", hidden=True)
        run.define_metric("*", step_metric="programs")
        for arm in result["arms"]:
            run.define_metric(f"{arm}/tokens", hidden=True)
            run.define_metric(f"by_tokens/{arm}", step_metric=f"{arm}/tokens")
        for row in history(result):
            run.log(row, step=row["programs"])
        run.summary.update(summary(result))
        for shown in tables(result, study.rows):
            head, body = list[Any](shown.head), list[Any](shown.body)
            run.log({f"tables/{shown.key}": wandb.Table(columns=head, data=body)})
        for figure in sorted((report.parent / "figures").glob(f"repair-{result['suite']}*.png")):
            run.log({f"figures/{figure.stem}": wandb.Image(str(figure))})
        run.log({"report": wandb.Html(report.read_text(encoding="utf-8"), inject=False)})
    wandb.teardown()  # waits until the file is on disk, which finish() does not
    return identity


def history(result: Row) -> list[Row]:
    """Return a row for each number of programs that a task may cost: what each arm makes of them."""
    rows: dict[int, Row] = {}
    for arm, data in result["arms"].items():
        for point in data["curve"]:
            programs, rate = point["programs_at_most"], point["rate"]
            row = rows.setdefault(programs, {"programs": programs})
            row |= {f"{arm}/solved": rate["value"], **_ends(f"{arm}/solved", rate["interval"])}
            row |= {f"{arm}/shown_not_solved": point["shown_not_solved"], f"by_tokens/{arm}": rate["value"]}
            row |= {f"{arm}/tokens": point["tokens"]} if point["tokens"] else {}
    return [rows[programs] for programs in sorted(rows)]


def summary(result: Row) -> Row:
    """Return each arm's numbers at the full budget by path, an interval as two of them."""
    found: Row = {}
    for arm, data in result["arms"].items():
        whole = {"selection": data["selection"], "gain": data["gain"], "against": data.get("against_resample", {})}
        found |= scalars(_with_ends(whole), arm)
        found |= {f"{arm}/{name}": data[name] for name in ("repairs", "repeats", "feedback", "not_taken", "renamed")}
    return found


def _ends(name: str, interval: list[float]) -> Row:
    return {f"{name}_low": interval[0], f"{name}_high": interval[1]}


def _with_ends(values: Any) -> Any:
    """Return nested dictionaries with the two ends of each interval beside it."""
    if not isinstance(values, dict):
        return values
    found = {name: _with_ends(value) for name, value in values.items()}
    for name, value in values.items():
        if name.endswith("interval") and value:
            found |= _ends(name, value)
    return found
