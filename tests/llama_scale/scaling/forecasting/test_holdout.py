"""Held-out runs are trained last, when what the others say of them has been written down."""

from dataclasses import replace

import numpy as np
import pytest

from llama_scale.scaling.forecasting.forecast import forecast, read_forecast, write_forecast
from llama_scale.scaling.forecasting.holdout import forecast_request, runs_to_forecast
from tests.llama_scale.scaling.helpers import TOY, fit_study

GRID = {"sizes": ["S1", "S2", "S4"], "tokens": [3e5, 1e6, 3e6]}


@pytest.fixture
def study(plan):
    return lambda **changes: plan(runs=[GRID], **changes)


def awaited(tasks, name):
    """Return the names of all tasks that ``name`` waits for, at any distance."""
    found, left = set(), [name]
    while left:
        new = set(tasks[left.pop()].inputs) - found
        found |= new
        left += new
    return found


def test_the_largest_run_waits_for_its_forecast(study):
    tasks = {task.name: task for task in study().tasks}
    others = {f"evaluate-{size}-{t}-seed0" for size in GRID["sizes"] for t in ("300k", "1M", "3M")}
    held = "S4-3M-seed0"
    assert awaited(tasks, f"train-{held}") >= others - {f"evaluate-{held}"}
    assert "holdout-forecast" in tasks[f"train-{held}"].inputs
    assert tasks["holdout-collect"].argv[2:5] == ("studies/toy", "--without", f'["{held}"]')
    fit = tasks["holdout-fit"].settings
    assert fit["holdout"] == "none" and "resamples" in fit
    tokens = next(run for run in study().runs if run.name == held).recipe.tokens
    assert tasks["holdout-forecast"].argv[4:6] == ("--runs", f"S4:{tokens}")
    for name in others - {f"evaluate-{held}"}:
        assert not any(inside.startswith("holdout") for inside in awaited(tasks, name))


@pytest.mark.parametrize(
    ("holdout", "where", "expected"),
    [
        ("largest", None, ["S4-3M-seed0"]),
        ("N>5e6", None, []),  # two sizes are no law
        ("D>2e6,size==S4", None, ["S4-3M-seed0"]),
        ("flops>2e13", None, ["S2-3M-seed0", "S4-1M-seed0", "S4-3M-seed0"]),
        ("largest", "D<2e6", []),  # two numbers of tokens are no law
        ("none", None, []),
        ("largest", "N>1e30", []),
        ("D>2e6,size==S4", "annealed==true,steps>1", ["S4-3M-seed0"]),
        ("loss<3", None, []),  # known of a trained run alone
    ],
)
def test_which_runs_are_forecast(study, holdout, where, expected):
    runs = study().runs
    found = [run.name for run in runs_to_forecast(runs, holdout, where)]
    assert found == expected


def test_runs_of_several_seeds_are_asked_for_once(plan):
    runs = plan(runs=[GRID | {"seeds": [0, 1]}]).runs
    ahead = runs_to_forecast(runs, "largest", None)
    assert len(ahead) == 2 and forecast_request(ahead) == f"S4:{ahead[0].recipe.tokens}"
    taller = TOY["train"] | {"model.n_layers": 3}
    reshaped = plan(runs=[GRID], train=taller, fit={"columns": "N=n_params"})
    run = reshaped.runs[-1]
    assert forecast_request([run]) == f"{run.n_params_non_embedding}:{run.recipe.tokens}"
    tied_table = 1024 * run.config.model.d_model
    tasks = {task.name: task for task in reshaped.tasks}
    wanted = f"{run.n_params_non_embedding + tied_table}:{run.recipe.tokens}"
    assert tasks["holdout-forecast"].argv[4:6] == ("--runs", wanted), "as the fit counts them"


def test_the_same_forecast_keeps_its_date(tmp_path):
    fit_study(tmp_path)
    folder, date = tmp_path / "forecasts", "2031-01-01T00:00:00+00:00"
    made = forecast(tmp_path, "76e6:2e9")
    first = write_forecast(made, folder)
    assert write_forecast(replace(made, written_at=date), folder) == first
    other = replace(forecast(tmp_path, "76e6:4e9"), written_at=date)
    assert write_forecast(other, folder).name == "2031-01-01T000000.json"
    third = replace(forecast(tmp_path, "76e6:8e9"), written_at=date)
    assert write_forecast(third, folder).name == "2031-01-01T000000_2.json"
    on_disk = [read_forecast(path) for path in sorted(folder.glob("*.json"))]
    assert on_disk == [made, other, third], "none is written over, and the newest is the last"
    assert np.isfinite(read_forecast(first).runs[0].value)
