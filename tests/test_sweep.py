"""Sweeps of learning rates and batches: their runs, their tasks and what is read off them."""

import json

import numpy as np
import pytest
import yaml
from conftest import run_script

from llama_scale.config import CONFIGS
from llama_scale.errors import UserError
from llama_scale.scaling.grids import Grid
from llama_scale.scaling.points import read_points
from llama_scale.scaling.runs import plan_runs
from llama_scale.scaling.settings import StudyConfig
from llama_scale.scaling.sweep import fit_sweep
from llama_scale.scaling.tasks import plan_tasks

GRID = Grid(["S2"], tokens_per_parameter=[20], lr_factors=[0.5, 1, 2], batch_factors=[1, 2, 1.5])


def test_runs_of_a_sweep_see_equally_many_tokens():
    (usual,) = plan_runs(StudyConfig("x", [Grid(["S2"], tokens_per_parameter=[20])]), "data/x")
    runs = plan_runs(StudyConfig("x", [GRID], law="rates"), "data/x")
    assert len(runs) == 9 and len({run.name for run in runs}) == 9
    assert len({run.recipe.tokens for run in runs}) == 1
    assert runs[0].recipe.tokens == pytest.approx(usual.recipe.tokens, rel=0.05)
    batch, lr = usual.recipe.batch_tokens, usual.recipe.lr
    found = {(round(r.recipe.batch_tokens / batch, 1), round(r.recipe.lr / lr, 3)) for r in runs}
    assert found == {(b, f) for b in (1, 2, 1.3) for f in (0.5, 1, 2)}
    assert runs[0].name == "S2-34.12M-batch1x-lr0.5x-seed0"


def test_tasks_end_in_the_sweep():
    config = StudyConfig("x", [GRID], law="rates", suites=["perplexity"])
    runs = plan_runs(config, "data/x")
    tasks = plan_tasks(config, {"file": "d.yaml", "folder": "data/x"}, runs, "launch")
    stages = [task.stage for task in tasks]
    assert stages.count("train") == stages.count("evaluate") == 9
    assert stages[-2:] == ["collect", "sweep"] and "fit" not in stages and "ahead" not in stages
    assert tasks[-1].outputs == ("studies/x/sweep.json",)
    assert set(tasks[-2].inputs) == {f"evaluate-{run.name}" for run in runs}


@pytest.mark.parametrize(
    "fields",
    [{"lr_factors": []}, {"lr_factors": [0]}, {"batch_factors": [-1]},
     {"lr_factors": [2], "cooldown": 0.2}],
)  # fmt: skip
def test_bad_factors_are_named(fields):
    with pytest.raises(UserError, match=next(iter(fields))):
        Grid(["S2"], tokens=[1e6], **fields)


def rows(batches):
    made = []
    for N in (1e6, 8e6):
        for B in batches:
            best = 3e-3 * (N / 1e6) ** -0.1 * (B / 32_768) ** 0.5
            for factor in (0.5, 1, 2):
                lr = 3e-3 * factor
                loss = 3 + 0.02 * np.log(lr / best) ** 2 + 1e-3 * np.log(B / 40_000) ** 2
                made.append((N, 20 * N, B, lr, loss))
    return np.array(made)


def table(batches) -> str:
    lines = ["N,D,batch_tokens,lr,loss"]
    lines += [",".join(f"{value:.12g}" for value in row) for row in rows(batches)]
    return "\n".join(lines) + "\n"


def test_two_batches_are_set_side_by_side(tmp_path):
    (tmp_path / "sweep.csv").write_text(table([32_768, 65_536]))
    found = fit_sweep(read_points(str(tmp_path / "sweep.csv")))
    assert "batch_tokens" not in found, "two batches have no parabola"
    assert [row["batch"] for row in found["by_batch"]] == [32_768, 65_536] * 2
    small = found["by_batch"][0]
    assert small["lr"] == pytest.approx(3e-3, rel=1e-6)
    assert small["loss"] == pytest.approx(3 + 1e-3 * np.log(32_768 / 40_000) ** 2, rel=1e-9)


def test_the_command_prints_and_writes_both(tmp_path):
    (tmp_path / "sweep.csv").write_text(table([32_768, 65_536]))
    done = run_script("scaling.py", "sweep", "sweep.csv", "--out", "found.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Best rate of each batch" in done.stdout and "lr* = c N^a D^b" in done.stdout
    assert len(json.loads((tmp_path / "found.json").read_text())["by_batch"]) == 4


def test_the_rates_study_can_be_run():
    settings = yaml.safe_load((CONFIGS / "study" / "rates.yaml").read_text())
    (grid,) = settings.pop("runs")
    settings.pop("budget")
    runs = plan_runs(StudyConfig(**settings, runs=[Grid(**grid)]), "data/x")
    assert len(runs) == 12 and len({run.n for run in runs}) == 2
    assert sum(run.spent for run in runs) < 2e17
