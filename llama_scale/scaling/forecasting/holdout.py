"""Held-out runs last: their forecast is written, with its date, before they are trained."""

from typing import TYPE_CHECKING

import numpy as np

from llama_scale.config import load_size
from llama_scale.cost.accounting import count_parameters
from llama_scale.errors import InputError
from llama_scale.scaling.fitting.fit import check_design, held_out_mask
from llama_scale.scaling.fitting.points import NAMES, NON_EMBEDDING, Points

if TYPE_CHECKING:
    from llama_scale.scaling.study.settings import PlannedRun


def runs_to_forecast(runs: list["PlannedRun"], holdout: str, where: str | None) -> list["PlannedRun"]:
    """Return the runs that the others forecast, in the order of ``runs``; none if they cannot.

    ``holdout`` and ``where`` are those of the fit. A rule on what only a trained run has, such as
    its loss, and too few other runs for a law leave nothing to forecast.
    """
    if holdout == "none":
        return []
    points = planned_points(runs)
    try:
        fitted = points.match(where) if where else np.ones(len(runs), dtype=bool)
        check_design(points.select(fitted))
        out = held_out_mask(points.select(fitted), holdout)
        check_design(points.select(fitted).select(~out))
    except InputError:
        return []
    # ``out`` is over the fitted runs alone: of runs 0 to 4 with 0 and 2 left out by ``where``, the
    # second of [1, 3, 4] is run 3.
    return [runs[index] for index in np.flatnonzero(fitted)[out]]


def planned_points(runs: list["PlannedRun"]) -> Points:
    """Return runs as points, with what is known of them; their losses are not and stand as 1."""
    rows = [
        {
            "run": run.name,
            "size": run.config.size,
            "seed": str(run.config.seed),
            **dict.fromkeys(NON_EMBEDDING, str(run.n_params_non_embedding)),
            "n_params": str(count_parameters(run.config.model).total),
            "n_params_matmul": str(count_parameters(run.config.model).matmul),
            **dict.fromkeys(("D", "tokens"), str(run.recipe.tokens)),
            "flops": str(run.flops),
            "batch_tokens": str(run.recipe.batch_tokens),
            "lr": str(run.recipe.lr),
            "steps": str(run.recipe.steps),
            "trunk": run.trunk or "",
            "annealed": str(run.config.optim.schedule != "constant"),
        }
        for run in runs
    ]
    N, D, flops = (np.array([float(row[name]) for row in rows]) for name in ("N", "D", "flops"))
    return Points(
        N=N,
        D=D,
        loss=np.ones(len(rows)),
        flops=flops,
        rows=rows,
        row_numbers=np.arange(1, len(rows) + 1),
        file="the plan",
        sha256="",
        n_read=len(rows),
        columns={name: name for name in NAMES if name != "loss"},
    )


def forecast_request(runs: list["PlannedRun"], column: str = "N") -> str:
    """Return runs as launch/scaling.py forecast takes them, each once: as a rung or, reshaped, by ``column``."""
    requests = []
    for run, row in zip(runs, planned_points(runs).rows, strict=True):
        reshaped = count_parameters(load_size(row["size"])).non_embedding != run.n_params_non_embedding
        size = row.get(column, row["N"]) if reshaped else row["size"]
        requests.append(f"{size}:{run.recipe.tokens}")
    return ",".join(dict.fromkeys(requests))
