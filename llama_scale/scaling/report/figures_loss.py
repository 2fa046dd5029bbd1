"""Figures of the loss: against data, predicted and measured, and what the law leaves."""

from html import escape

import numpy as np

from llama_scale.plotting.figure import Axis, Figure, Panel, Series, axis, labels_apart, ticks
from llama_scale.scaling.fitting.chinchilla import Surface
from llama_scale.scaling.report.series import (
    GREY,
    HELD_OUT,
    FittedStudy,
    fitted_curves,
    held_out_rings,
    points_by_size,
    run_points,
)
from llama_scale.text import digits, signed


def loss_tokens(study: FittedStudy) -> Figure:
    """Return loss against tokens, a curve for each size."""
    points, drawn = study.points, fitted_curves(study, per_token=False)
    across = axis("training tokens D", [points.D], show="count", room=0.2)
    up = axis("validation loss", [points.loss, *(loss for _, _, loss in drawn)])
    direct = labels_apart(np.array([(D[-1], loss[-1]) for _, D, loss in drawn]), across, up)
    series = [
        Series(g.label, "line", D, loss, g.color, legend=False, label=g.short if direct else None)
        for g, D, loss in drawn
    ]
    series += points_by_size(study, points.D, points.loss, legend=not direct)
    series += held_out_rings(study, points.D, points.loss)
    ranges = len(np.unique(points.N)) > len(study.groups)
    return Figure(
        "loss-tokens",
        "Loss against data, for each model size",
        "Points are runs; each line is the fitted law at "
        + ("the middle of a range of sizes." if ranges else "that size.")
        + (" Rings mark the runs left out of the hold-out fit." if study.held_out.any() else ""),
        [Panel("loss-tokens", across, up, series)],
    )


def prediction(study: FittedStudy) -> Figure:
    """Return predicted against measured loss, the held-out runs with their intervals."""
    points, held = study.points, study.laws.holdout
    fitted = Surface(**held.parameters).loss(points.N, points.D)
    rest = np.flatnonzero(~study.held_out)
    measured, value, low, high = (
        np.array([getattr(row, name) for row in held.runs]) for name in ("measured", "predicted", "low", "high")
    )
    text = [
        f"<b>{escape(row.run)}</b><br>predicted {digits(row.predicted, 4)} [{digits(row.low, 4)}, "
        f"{digits(row.high, 4)}]<br>measured {digits(row.measured, 4)}<br>error {signed(row.error_percent)}"
        for row in held.runs
    ]
    past, ahead = fitted / points.loss, [loss / measured for loss in (value, low, high)]
    errors = [100 * (ratio - 1) for ratio in (past, *ahead)]
    drawn = [points.loss, fitted, low, high]
    across = axis("measured loss", drawn)
    ends = np.array(across.range)
    panels = [
        Panel(
            key,
            across,
            up,
            [
                Series("equal", "line", ends, line, GREY, width=1.2, legend=False),
                run_points(study, rest, points.loss, known, name="fitted runs", color=GREY),
                Series("held out, 95 % interval", "points", measured, *new, hover=text),
            ],
        )
        for key, up, line, known, new in (
            ("prediction", axis("predicted loss", drawn), ends, fitted, (value, HELD_OUT, low, high)),
            (
                "prediction-error",
                axis("predicted over measured loss (%)", [*errors, [0.0]], log=False),
                np.zeros(2),
                errors[0],
                (errors[1], HELD_OUT, *errors[2:]),
            ),
        )
    ]
    return Figure(
        "prediction",
        "Runs left out of the fit: predicted against measured",
        "Grey runs were fitted, amber ones only predicted, from a fit that never saw them. Bars "
        "are 95 % intervals for one run: uncertainty of the law and scatter of single runs.",
        panels,
    )


def residuals(study: FittedStudy) -> Figure:
    """Return what the law leaves unexplained, against N and against D."""
    points = study.points
    percent = study.laws.column("residual_percent")
    edge = max(1.15 * float(np.abs(percent).max()), 1e-3)
    label = "measured over fitted loss (%)"
    up = Axis(label, False, (-edge, edge), ticks(-edge, edge, False, "plain"))
    panels = []
    for name, label, x in (("N", "parameters N", points.N), ("D", "training tokens D", points.D)):
        across = axis(label, [x], show="count")
        ends = np.array(across.range)
        zero = Series("fitted", "line", ends, np.zeros(2), GREY, width=1.2, legend=False)
        panels.append(Panel(f"residuals-{name}", across, up, [zero, *points_by_size(study, x, percent)]))
    return Figure(
        "residuals",
        "What the law leaves unexplained",
        "Differences between measured and fitted loss. A trend along either axis would mean that "
        "the law has the wrong shape there.",
        panels,
    )
