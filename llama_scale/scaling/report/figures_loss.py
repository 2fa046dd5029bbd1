"""Figures of the loss: against data, predicted and measured, and what the law leaves."""

import numpy as np

from llama_scale.plotting.figure import Figure, Panel, Series, axis, labels_apart, symmetric_axis
from llama_scale.scaling.fitting.chinchilla import Surface
from llama_scale.scaling.fitting.fitted_laws import HoldOutSummary
from llama_scale.scaling.report.series import GREY, HELD_OUT, FittedStudy, predicted_losses


def loss_tokens(study: FittedStudy) -> Figure:
    """Return loss against tokens, a curve for each size."""
    points, drawn = study.points, study.fitted_curves(per_token=False)
    across = axis("training tokens D", [points.D], show="count", room=0.2)
    up = axis("validation loss", [points.loss, *(loss for _, _, loss in drawn)])
    direct = labels_apart(np.array([(D[-1], loss[-1]) for _, D, loss in drawn]), across, up)
    series = [
        Series(g.label, "line", D, loss, g.color, legend=False, label=g.short if direct else None)
        for g, D, loss in drawn
    ]
    series += study.points_by_size(points.D, points.loss, legend=not direct)
    series += study.held_out_rings(points.D, points.loss)
    where = "the middle of a range of sizes" if len(np.unique(points.N)) > len(study.groups) else "that size"
    rings = " Rings mark the runs left out of the hold-out fit." if study.held_out.any() else ""
    caption = f"Points are runs; each line is the fitted law at {where}.{rings}"
    panels = [Panel("loss-tokens", across, up, series)]
    return Figure("loss-tokens", "Loss against data, for each model size", caption, panels)


def prediction(study: FittedStudy, held: HoldOutSummary) -> Figure:
    """Return predicted against measured loss, the ``held`` out runs with their intervals."""
    points = study.points
    fitted = Surface(**held.parameters).loss(points.N, points.D)
    rest = np.flatnonzero(~study.held_out)
    losses, text = predicted_losses(held.runs, "predicted", ("predicted", "low", "high"))
    measured, *expected = losses
    drawn = [points.loss, fitted, *expected[1:]]
    error, *errors = (100 * (ratio - 1) for ratio in (fitted / points.loss, *(losses[1:] / measured)))
    across = axis("measured loss", drawn)
    ends = np.array(across.range)
    panels = []
    for key, up, line, past, (value, low, high) in (
        ("prediction", axis("predicted loss", drawn), ends, fitted, expected),
        (
            "prediction-error",
            axis("predicted over measured loss (%)", [error, *errors, [0.0]], log=False),
            np.zeros(2),
            error,
            errors,
        ),
    ):
        equal = Series("equal", "line", ends, line, GREY, width=1.2, legend=False)
        runs = study.run_points(rest, points.loss, past, name="fitted runs", color=GREY)
        held_out = Series("held out, 95 % interval", "points", measured, value, HELD_OUT, low, high, text)
        panels.append(Panel(key, across, up, [equal, runs, held_out]))
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
    up = symmetric_axis("measured over fitted loss (%)", percent)
    panels = []
    for name, label, x in (("N", "parameters N", points.N), ("D", "training tokens D", points.D)):
        across = axis(label, [x], show="count")
        zero = Series("fitted", "line", np.array(across.range), np.zeros(2), GREY, width=1.2, legend=False)
        panels.append(Panel(f"residuals-{name}", across, up, [zero, *study.points_by_size(x, percent)]))
    return Figure(
        "residuals",
        "What the law leaves unexplained",
        "Differences between measured and fitted loss. A trend along either axis would mean that "
        "the law has the wrong shape there.",
        panels,
    )
