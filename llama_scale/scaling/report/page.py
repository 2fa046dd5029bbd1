"""report.html and its figures, made from a study's points.csv and laws.json alone."""

import hashlib
import re
from pathlib import Path
from typing import Any

from llama_scale import text
from llama_scale.errors import InputError
from llama_scale.files import atomic_write, read_bytes
from llama_scale.plotting import draw, page
from llama_scale.plotting.figure import Figure
from llama_scale.plotting.table import Table
from llama_scale.scaling.fitting.fitted_laws import FittedLaws
from llama_scale.scaling.fitting.points import Points, read_points
from llama_scale.scaling.forecasting.forecast import ScoredForecast, read_forecast, score
from llama_scale.scaling.forecasting.recommend import untrusted_ratio
from llama_scale.scaling.report.figures_compute import compute_figures, frontier, loss_compute
from llama_scale.scaling.report.figures_loss import loss_tokens, prediction, residuals
from llama_scale.scaling.report.figures_scores import score_figures
from llama_scale.scaling.report.series import FittedStudy
from llama_scale.scaling.report.tables import outcome, tables
from llama_scale.scaling.report.text import answer, held_out_width

SCORES = (
    ("bits_per_byte", "bits/byte"),
    (".*_gold_bits_per_byte", "gold bits/byte"),
    (".*_nontrivial_parse_rate", "says something that parses"),
    (".*_pass_at_1", "pass@1"),
)


def write_report(study: str | Path, points: str | Path | None = None, title: str | None = None) -> list[Path]:
    """Write report.html and figures/*.png, *.svg into the study's folder; return the paths.

    Args:
        study: Folder with laws.json.
        points: The CSV that was fitted; None is points.csv in the folder.
        title: Title of the page; None is the folder's name.

    Raises:
        InputError: A file is missing, of another format, or the law was fitted to other points.
    """
    folder = Path(study)
    loaded = load_study(folder, Path(points) if points else folder / "points.csv")
    scored = outcomes(folder, loaded.points)
    figures, left_out = study_figures(loaded, scored)
    written = [path for figure in figures for path in draw.save(figure, folder / "figures")]
    shown_tables = [*tables(loaded.laws), *(outcome(forecast) for forecast in scored)]
    html = render(loaded, figures, left_out, shown_tables, title or folder.resolve().name)
    with atomic_write(folder / "report.html") as file:
        file.write(html)
    return [folder / "report.html", *written]


def load_study(folder: Path, path: Path) -> FittedStudy:
    """Read laws.json and the points that it was fitted to; raise InputError where they differ."""
    laws = FittedLaws.read(folder / "laws.json")
    if path.is_file() and hashlib.sha256(read_bytes(path)).hexdigest() != laws.points.sha256:
        raise InputError(
            f"{path}: not the file that {folder / 'laws.json'} was fitted to; run launch/scaling.py fit again"
        )
    return FittedStudy(read_points(path, laws.points.columns, laws.points.where), laws)


def outcomes(folder: Path, points: Points) -> list[ScoredForecast]:
    """Return the study's forecasts, oldest first, scored by its points."""
    paths = sorted((folder / "forecasts").glob("*.json"))
    return sorted((score(read_forecast(path), points) for path in paths), key=lambda scored: scored.written_at)


def study_figures(study: FittedStudy, scored: list[ScoredForecast] | None = None) -> tuple[list[Figure], list[str]]:
    """Return the figures that the study's columns allow, and what was left out and why.

    ``scored`` are the study's forecasts with their outcomes.
    """
    scores, left_out = score_figures(study)
    compute, compute_left_out = compute_figures(study, scored or [])
    left_out += compute_left_out
    figures = [loss_compute(study), loss_tokens(study)]
    if study.laws.best_frontier.determined:
        figures.append(frontier(study))
    else:
        left_out.append(f"compute-optimal size ({study.laws.best_frontier.reason})")
    if study.laws.holdout:
        figures.append(prediction(study, study.laws.holdout))
    else:
        left_out.append("predicted against measured (no run was held out)")
    return [*figures, *compute, *scores, residuals(study)], left_out


def render(
    study: FittedStudy, figures: list[Figure], left_out: list[str], shown_tables: list[Table], title: str
) -> str:
    """Return the page: everything it needs is inside it."""
    return page.render(
        "llama_scale.scaling.report",
        figures,
        title=title,
        laws=study.laws,
        points=study.points,
        answer=answer(study.laws, study.points),
        no_recipe=untrusted_ratio(study.laws.best_frontier.next.N.value, study.laws.best_frontier.next.D.value),
        tiles=tiles(study.laws),
        left_out=left_out,
        tables=shown_tables,
        table=run_table(study),
        w=text,
    )


def tiles(laws: FittedLaws) -> list[tuple[str, str, str]]:
    """Return the few numbers that stand first: (what, value, detail)."""
    best, held = laws.best_frontier, laws.holdout
    then, parameters = best.next, laws.surface.parameters
    width = text.digits(held_out_width(laws), 2)
    shown = []
    limits = laws.surface.limits
    for key, name in (("alpha", "exponent of size, α"), ("beta", "exponent of data, β")):
        p = limits.get(f"k {key}", parameters[key])
        name = name.replace(", ", ", k") if limits else name
        shown.append((name, text.digits(p.value), f"{text.digits(p.low)} to {text.digits(p.high)}"))
    if held and len(held.runs) == 1:
        detail = f"{'inside' if held.covered else 'outside'} its 95 % interval of ±{width} %"
        shown.append(("held-out run, error", text.signed(held.runs[0].error_percent), detail))
    elif held:
        error = f"{text.digits(held.median_absolute_error_percent, 2)} %"
        detail = f"{held.covered} of {len(held.runs)} inside their 95 % interval of ±{width} %"
        shown.append(("held-out runs, median error", error, detail))
    if best.determined:
        detail = f"{text.digits(then.loss.run_low)} to {text.digits(then.loss.run_high)}"
        shown.append((f"loss at {then.factor}× compute", text.digits(then.loss.value), detail))
    return shown


def run_table(study: FittedStudy) -> dict[str, Any]:
    """Return the head and the cells of the table of runs."""
    points = study.points
    columns = [column for column in points.rows[0] if points.has(column)]
    scores = [(c, label) for ending, label in SCORES for c in columns if re.fullmatch(ending, c)]
    values = {column: points.numeric(column) for column, _ in scores}
    body = []
    for i, run in enumerate(study.laws.runs):
        name = run.run + (" (held out)" if run.held_out else "")
        sizes = [text.count(run.model_size), text.count(run.tokens), text.power(run.flops)]
        losses = [text.digits(run.loss, 4), text.digits(run.fitted, 4), text.signed(run.residual_percent)]
        body.append([name, *sizes, *losses, *(text.digits(values[column][i]) for column, _ in scores)])
    size = study.laws.points.columns["N"]
    head = ["run", size, "tokens", "FLOPs", "loss", "fitted", "residual", *(name for _, name in scores)]
    return {"head": head, "body": body}
