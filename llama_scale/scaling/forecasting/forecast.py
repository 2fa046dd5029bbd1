"""Forecasts: the loss of runs that have not been made, with a date, and their outcome."""

import math
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from llama_scale.errors import InputError
from llama_scale.files import read_json, sha256, write_json
from llama_scale.records import from_json, to_json
from llama_scale.scaling.fitting.fitted_laws import Conventions, FittedLaws, RunSize, laws_path
from llama_scale.scaling.fitting.points import Points
from llama_scale.scaling.fitting.results.summarize import conventions_of
from llama_scale.scaling.forecasting.recommend import (
    FURTHEST,
    TOO_FAR,
    below_embedding,
    check_units,
    odd_ratio,
    rung_size,
)
from llama_scale.text import digits

FORMAT = "llama_scale.forecast.v2"
READABLE = (FORMAT, "llama_scale.forecast.v1")
# Relative differences of size and tokens below which two runs are the same.
SAME_SIZE, SAME_TOKENS = 5e-3, 2e-2


@dataclass(frozen=True, kw_only=True)
class ForecastRun(RunSize):
    """A run as it was asked for, and the loss expected, as of ``RunEstimate``."""

    value: float
    low: float
    high: float
    run_low: float
    run_high: float


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """Forecasts of runs by one law, and when they were written."""

    written_at: str = field(metadata={"old": "made"})
    laws_sha256: str
    points_sha256: str
    conventions: Conventions
    largest_flops_fitted: float = field(metadata={"old": "largest_compute_fitted"})
    runs: list[ForecastRun]


@dataclass(frozen=True, kw_only=True)
class ScoredRun(ForecastRun):
    """A run that was forecast and, where it has been measured, by how much the forecast erred."""

    measured: float | None
    error_percent: float | None
    covered: bool | None


@dataclass(frozen=True, kw_only=True)
class ScoredForecast(Forecast):
    """A forecast with its outcome; ``covered`` of ``measured`` runs lie in their interval."""

    runs: list[ScoredRun]  # type: ignore[assignment]
    measured: int
    covered: int
    scored_points_sha256: str


def forecast(study: str | Path, runs: str, now: datetime | None = None) -> Forecast:
    """Return a dated forecast of runs by the laws of a study: its folder, or its laws.json.

    ``runs`` are ``SIZE:TOKENS,SIZE:TOKENS``; a size is a number of parameters as the law counts them or a rung's name.
    ``now`` is the date; None is the present. Raises InputError where ``runs`` cannot be read, or where one of them was
    fitted: what is known cannot be forecast; or where the law's runs were not counted plainly.
    """
    laws = FittedLaws.read(study)
    check_units(laws)
    rows = []
    for run in map(str.strip, runs.split(",")):
        size, tokens = _parse_run(laws, run)
        known = _same(laws.column("model_size"), laws.column("tokens"), size, tokens)
        if known.any():
            fitted = laws.runs[int(known.argmax())]
            raise InputError(f"runs: {run}: the law was fitted to it ({fitted.run})")
        flops, loss = float(laws.flops.per_token(size) * tokens), laws.predict(size, tokens)
        rows.append(ForecastRun(run=run, model_size=size, tokens=tokens, flops=flops, **vars(loss)))
    return Forecast(
        written_at=(now or datetime.now(UTC)).isoformat(timespec="seconds"),
        laws_sha256=sha256(laws_path(study)),
        points_sha256=laws.points.sha256,
        conventions=laws.conventions,
        largest_flops_fitted=float(laws.fitted_flops.max()),
        runs=rows,
    )


def cautions(laws: FittedLaws, forecast: Forecast) -> list[str]:
    """Return why some of the runs forecast are far from those of the law, in words."""
    warnings = []
    columns = {
        "compute": laws.fitted_flops,
        "size": laws.column("model_size"),
        "number of tokens": laws.column("tokens"),
    }
    for run in forecast.runs:
        values = dict(zip(columns, (run.flops, run.model_size, run.tokens), strict=True))
        for what, fitted in columns.items():
            times = values[what] / (fitted.max() if values[what] > fitted.max() else fitted.min())
            if not 1 / FURTHEST <= times <= FURTHEST and not fitted.min() <= values[what] <= fitted.max():
                end = "largest" if times > 1 else "smallest"
                warnings.append(f"{run.run}: {digits(times)} times the {end} {what} of a run fitted; {TOO_FAR}")
                break
        odd = below_embedding(laws, run.model_size), odd_ratio(run.model_size, run.tokens)
        warnings += [f"{run.run}: {problem}" for problem in odd if problem]
    return warnings


def other_conventions(forecast: Forecast, points: Points) -> list[str]:
    """Return in which of size and loss points are counted otherwise than the forecast, in words."""
    here, warnings = conventions_of(points), []
    for name, what in (("model_size", "size"), ("loss", "loss")):
        foretold, measured = getattr(forecast.conventions, name), getattr(here, name)
        if foretold != measured:
            warnings.append(
                f"the forecast's {what} is {foretold}, that of these points {measured}; name it with columns"
            )
    return warnings


def _parse_run(laws: FittedLaws, text: str) -> tuple[float, float]:
    """Return the parameters and tokens of ``SIZE:TOKENS``."""
    size, colon, tokens = (part.strip() for part in text.partition(":"))
    try:
        D = float(tokens)
        N = float(size) if size[:1].isdigit() else rung_size(laws, size)
    except InputError:
        raise
    except ValueError:
        colon = ""
    if not colon or not (0 < N < math.inf and 0 < D < math.inf):
        raise InputError(f"runs: {text!r}: expected SIZE:TOKENS, as M2:2e9 or 76e6:2e9")
    return N, D


def _same(N: np.ndarray, D: np.ndarray, size: float, tokens: float) -> np.ndarray:
    """Return which of the runs N, D (n,) have the size and the tokens, bool (n,)."""
    return (np.abs(N / size - 1) < SAME_SIZE) & (np.abs(D / tokens - 1) < SAME_TOKENS)


def write_forecast(forecast: Forecast, out: Path) -> Path:
    """Write a forecast and return its file: ``out``, or TIME.json in the folder ``out``.

    A folder that has the same runs forecast by the same law keeps that file and its date; another forecast of the same
    second is TIME_2.json. Raises InputError where the file ``out`` exists: a forecast is not written over.
    """
    if out.suffix == ".json":
        if out.exists():
            raise InputError(f"out: {out} exists; a forecast is not written over")
    else:
        for path in sorted(out.glob("*.json")):
            if replace(read_forecast(path), written_at=forecast.written_at) == forecast:
                return path
        folder, time = out, forecast.written_at.replace(":", "").split("+")[0]
        out, number = folder / f"{time}.json", 1
        while out.exists():
            number += 1
            out = folder / f"{time}_{number}.json"
    write_json(out, {"format": FORMAT} | to_json(forecast), sealed=True)
    return out


def read_forecast(path: str | Path) -> Forecast:
    """Read a forecast; raise InputError where it is none."""
    values = read_json(path)
    try:
        if not isinstance(values, dict) or values.get("format") not in READABLE:
            raise InputError(f"not {FORMAT}")
        return from_json(Forecast, values)
    except InputError as error:
        raise InputError(f"{path}: {error}; launch/scaling.py forecast writes one") from None


def score(forecast: Forecast, points: Points) -> ScoredForecast:
    """Return a forecast with what was measured, the signed errors and whether they are covered.

    A run is matched by its N and D; one of several seeds takes their mean loss. Its interval is
    that of one run. What is not measured yet is None.
    """
    rows = []
    for row in forecast.runs:
        matching = _same(points.N, points.D, row.model_size, row.tokens)
        loss = float(points.loss[matching].mean()) if matching.any() else None
        rows.append(
            ScoredRun(
                **vars(row),
                measured=loss,
                error_percent=100 * (row.value / loss - 1) if loss else None,
                covered=row.run_low <= loss <= row.run_high if loss else None,
            )
        )
    fields: dict[str, Any] = vars(forecast) | {"runs": rows}
    return ScoredForecast(
        **fields,
        measured=sum(row.measured is not None for row in rows),
        covered=sum(bool(row.covered) for row in rows),
        scored_points_sha256=points.sha256,
    )
