"""Fit a scaling law to a CSV of runs, report it, and use it.

python launch/scaling.py fit points.csv --out DIR
python launch/scaling.py report STUDY_DIR
python launch/scaling.py recommend STUDY_DIR --budget 1e21
python launch/scaling.py forecast STUDY_DIR --runs M2:2e9,M3:9e9
python launch/scaling.py score FORECAST.json --points points.csv
python launch/scaling.py sweep sweep.csv
"""

import launch  # noqa: F401, I001, before all else: Ctrl-C is one line from here on

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from llama_scale.cli import parse, run_cli, run_named
from llama_scale.cost.hardware import DEFAULT_MFU
from llama_scale.errors import UserError
from llama_scale.files import write_json

T = TypeVar("T")


@dataclass(frozen=True)
class ReportConfig:
    """The report of a study: report.html, figures/*.png and figures/*.svg.

    Args:
        study: Folder with laws.json, where the report is written.
        points: The CSV that was fitted; null is points.csv in the study's folder.
        title: Title of the page; null is the folder's name.
    """

    study: str
    points: str | None = None
    title: str | None = None


@dataclass(frozen=True)
class RecommendConfig:
    """The best use of a budget by a fitted law: size, tokens, batch, rate and expected loss.

    Args:
        study: Folder with laws.json, or the file.
        budget: Training FLOPs.
        gpu_hours: Hours of one GPU, instead of FLOPs.
        gpu: The GPU, as h200.
        mfu: Share of the GPU's dense bf16 peak that training reaches.
        json: Print JSON instead of text.
    """

    study: str
    budget: float | None = None
    gpu_hours: float | None = None
    gpu: str = "h200"
    mfu: float = DEFAULT_MFU
    json: bool = False


@dataclass(frozen=True)
class ForecastConfig:
    """A dated forecast of runs that have not been made.

    Args:
        study: Folder with laws.json, or the file.
        runs: The runs, as SIZE:TOKENS,SIZE:TOKENS; a size is a rung or a number of parameters.
        out: The JSON file, which must not exist yet, or a folder for TIME.json; null is forecasts beside laws.json. A
            folder that has the forecast already keeps it.
    """

    study: str
    runs: str
    out: str | None = None


@dataclass(frozen=True)
class ScoreConfig:
    """A forecast against what was measured since.

    Args:
        forecast: The JSON file of the forecast.
        points: CSV file with the runs.
        columns: The file's own names, as N=n_params,D=tokens,loss=val_loss.
        out: JSON file for the result; null prints only.
    """

    forecast: str
    points: str
    columns: str | None = None
    out: str | None = None


@dataclass(frozen=True)
class SweepConfig:
    """The laws of the best learning rate and batch in a sweep.

    Args:
        points: CSV file with one run a row and columns N, D, loss, lr and, if swept, a batch.
        columns: The file's own names, as N=n_params,D=tokens,loss=val_loss.
        where: Rows to keep, as in fit.
        lr: The column of learning rates.
        batch: The column of batches; null is batch_tokens where the file has it.
        out: JSON file for the result; null prints only.
    """

    points: str
    columns: str | None = None
    where: str | None = None
    lr: str = "lr"
    batch: str | None = None
    out: str | None = None


def fit(argv: list[str]) -> None:
    """Fit, write laws.json and print the law."""
    from llama_scale.scaling import fit as fit_laws
    from llama_scale.scaling.fitting.points import parse_columns
    from llama_scale.scaling.report.tables import tables
    from llama_scale.scaling.report.text import table
    from llama_scale.scaling.study.settings import FitConfig

    config = read(FitConfig, argv, "points")
    if config.out:
        check_folder(Path(config.out))
    laws = fit_laws(
        config.points,
        columns=parse_columns(config.columns),
        where=config.where,
        holdout=config.holdout,
        resamples=config.resamples,
        seed=config.seed,
        against=config.against,
        form=config.form,
        delta=config.delta,
        progress=progress,
    )
    # Files first: what a terminal cannot show must not cost the result.
    if config.out:
        laws.write(Path(config.out) / "laws.json")
    if config.json:
        print(json.dumps(laws.to_dict(), indent=2))
    else:
        print("\n".join([table(laws), *(other.text() for other in tables(laws)[1:])]))
        if config.out:
            print(f"wrote {Path(config.out) / 'laws.json'}")


def progress(what: str) -> None:
    """Say on a terminal what is fitted next, where a fit takes long."""
    if sys.stderr.isatty():
        print(f"fitting: {what} ...", file=sys.stderr, flush=True)


def check_folder(folder: Path) -> None:
    """Raise UserError if results cannot be written into a folder that may not exist yet."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not there.is_dir():
        raise UserError(f"--out: {there} is a file; name a folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UserError(f"--out: {there} cannot be written to; name another folder")


def report(argv: list[str]) -> None:
    """Write the report and its figures."""
    from llama_scale.scaling.report.page import write_report

    config = read(ReportConfig, argv, "study")
    for path in write_report(config.study, config.points, config.title):
        print(f"wrote {path}")


def recommend(argv: list[str]) -> None:
    """Print what a law recommends for a budget."""
    from llama_scale.records import to_json
    from llama_scale.scaling.fitting.fitted_laws import FittedLaws
    from llama_scale.scaling.forecasting import recommend as recommending

    config = read(RecommendConfig, argv, "study")
    C = recommending.budget(config.budget, config.gpu_hours, config.gpu, config.mfu)
    laws = FittedLaws.read(config.study)
    best = recommending.recommend(laws, C, config.gpu, config.mfu)
    text = recommending.recommendation_text(best, laws.conventions.model_size)
    if config.json:
        print(json.dumps(to_json(best) | {"warnings": laws.warnings}, indent=2))
    else:
        print("\n".join([text, *warned(laws.warnings)]))


def forecast(argv: list[str]) -> None:
    """Write a dated forecast and print it."""
    from llama_scale.scaling.fitting.fitted_laws import FittedLaws, laws_path
    from llama_scale.scaling.forecasting import forecast as forecasting
    from llama_scale.text import between, digits

    config = read(ForecastConfig, argv, "study")
    laws = FittedLaws.read(config.study)
    written = forecasting.forecast(config.study, config.runs)
    folder = Path(config.out or laws_path(config.study).parent / "forecasts")
    out = forecasting.write_forecast(written, folder)
    for row in written.runs:
        print(f"{row.run}: {between(row, digits, 'run_low', 'run_high')}")
    print("\n".join([*warned([*forecasting.cautions(laws, written), *laws.warnings]), f"the forecast is {out}"]))


def score(argv: list[str]) -> None:
    """Print a forecast against its outcome."""
    from llama_scale.records import to_json
    from llama_scale.scaling.fitting.points import parse_columns, read_points
    from llama_scale.scaling.forecasting import forecast as forecasting
    from llama_scale.scaling.report.tables import outcome

    config = read(ScoreConfig, argv, "forecast")
    points = read_points(config.points, parse_columns(config.columns))
    written = forecasting.read_forecast(config.forecast)
    scored = forecasting.score(written, points)
    if config.out:
        write_json(Path(config.out), {"format": forecasting.FORMAT} | to_json(scored))
    print(outcome(scored).text())
    for line in [
        *warned(forecasting.other_conventions(written, points)),
        f"{scored.measured} of {len(scored.runs)} measured, {scored.covered} inside",
    ]:
        print(line)


def sweep(argv: list[str]) -> None:
    """Print the laws of a sweep."""
    from llama_scale.records import to_json
    from llama_scale.scaling.fitting.fitted_laws import DIGITS
    from llama_scale.scaling.fitting.points import parse_columns, read_points
    from llama_scale.scaling.fitting.sweep import fit_sweep
    from llama_scale.scaling.report.tables import sweeps

    config = read(SweepConfig, argv, "points")
    points = read_points(config.points, parse_columns(config.columns), config.where, diverged=True)
    laws = to_json(fit_sweep(points, config.lr, config.batch), DIGITS)
    if config.out:
        write_json(Path(config.out), laws)
    print("\n".join(table.text() for table in sweeps(laws)))
    for line in [*(f"left out: {text}" for text in laws["left_out"]), *warned(laws["warnings"])]:
        print(line)


def warned(warnings: list[str]) -> list[str]:
    """Return the lines that tell what a law's reader must know."""
    return [f"warning: {text}" for text in warnings]


def read(kind: type[T], argv: list[str], positional: str) -> T:
    """Parse a command's arguments; its help begins as its docstring."""
    return parse(
        kind, (kind.__doc__ or "").splitlines()[0], argv, positional=positional, example=EXAMPLES[kind.__name__]
    )


EXAMPLES = {
    "FitConfig": "points.csv --columns N=n_params,D=tokens,loss=val_loss --out laws",
    "ReportConfig": "studies/quickstart",
    "RecommendConfig": "studies/quickstart --budget 1e15",
    "ForecastConfig": "studies/quickstart --runs M1:2e8,76e6:2e9",
    "ScoreConfig": "studies/quickstart/forecasts/2026-11-21T101500.json --points points.csv",
    "SweepConfig": "sweep.csv --lr lr --batch batch_tokens --out sweep.json",
}
COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "fit": fit,
    "report": report,
    "recommend": recommend,
    "forecast": forecast,
    "score": score,
    "sweep": sweep,
}


def main(argv: list[str] | None = None) -> None:
    """Run the command that the first argument names."""
    run_named(COMMANDS, about=__doc__, argv=argv)


if __name__ == "__main__":
    run_cli(main)
