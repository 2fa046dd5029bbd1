"""Sweeps of learning rates and batches: their runs, their tasks and what is read off them."""

import json

import numpy as np
import pytest
import yaml
from scipy.optimize import curve_fit

from llama_scale.config import CONFIGS
from llama_scale.errors import InputError
from llama_scale.scaling.fitting.points import read_points
from llama_scale.scaling.fitting.sweep import fit_sweep
from llama_scale.scaling.study.grids import Grid
from llama_scale.scaling.study.runs import plan_runs
from llama_scale.scaling.study.settings import StudyConfig
from llama_scale.scaling.study.tasks import plan_tasks
from tests.conftest import run_here, run_script

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
    assert stages[-2:] == ["collect", "sweep"] and "fit" not in stages and "holdout" not in stages
    assert tasks[-1].outputs == ("studies/x/sweep.json",)
    assert set(tasks[-2].inputs) == {f"evaluate-{run.name}" for run in runs}


@pytest.mark.parametrize(
    "fields",
    [{"lr_factors": []}, {"lr_factors": [0]}, {"batch_factors": [-1]},
     {"lr_factors": [2], "cooldown": 0.2}],
)  # fmt: skip
def test_bad_factors_are_named(fields):
    with pytest.raises(InputError, match=next(iter(fields))):
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
    assert [row["batch_tokens"] for row in found["by_batch"]] == [32_768, 65_536] * 2
    small = found["by_batch"][0]
    assert small["lr"] == pytest.approx(3e-3, rel=1e-6)
    assert small["loss"] == pytest.approx(3 + 1e-3 * np.log(32_768 / 40_000) ** 2, rel=1e-9)


def seeds(scatter: list[list[float]]) -> str:
    """Return a sweep of one N, D whose runs of each rate have these additions to a parabola."""
    lines = ["N,D,lr,loss"]
    for lr, added in zip((1e-3, 2e-3, 4e-3), scatter, strict=True):
        loss = 3 + 0.02 * np.log(lr / 1.7e-3) ** 2
        lines += [f"1e6,1e8,{lr},{loss + more:.12g}" for more in added]
    return "\n".join(lines) + "\n"


def test_seeds_of_one_rate_take_their_mean_loss(tmp_path):
    path = tmp_path / "sweep.csv"
    path.write_text(seeds([[0.004, -0.004], [0.002, -0.002], [-0.003, 0.001, 0.002]]))
    (found,) = fit_sweep(read_points(path))["lr"]["best"]
    assert found["value"] == pytest.approx(1.7e-3, rel=1e-9)
    assert found["loss"] == pytest.approx(3, rel=1e-9)


def test_the_edge_is_that_of_the_rates_not_of_the_runs(tmp_path):
    path = tmp_path / "sweep.csv"
    path.write_text(seeds([[0.001, -0.5], [0.0], [0.0]]))
    with pytest.raises(InputError, match=r"the best lr, 0\.001, is the smallest of the sweep"):
        fit_sweep(read_points(path))
    path.write_text(seeds([[0.001, -0.001], [0.0], []]))
    with pytest.raises(InputError, match="2 values of lr; a best one needs at least 3"):
        fit_sweep(read_points(path))


def test_a_group_at_the_edge_is_left_out_and_said(tmp_path):
    path, lines = tmp_path / "sweep.csv", ["N,D,batch_tokens,lr,loss"]
    lines += [",".join(f"{value:.12g}" for value in row) for row in rows([32_768, 65_536])]
    lines += [f"5e8,1e10,32768,{lr},{2 + lr}" for lr in (1e-3, 2e-3, 4e-3)]  # falls towards the smallest
    lines += [f"6e8,1e10,32768,{lr},2.5" for lr in (1e-3, 2e-3)]
    path.write_text("\n".join(lines) + "\n")
    found = fit_sweep(read_points(path))
    edge, few = found["left_out"]
    assert edge.startswith("N = 5e+08, D = 1e+10: the best lr, 0.001, is the smallest of the sweep")
    assert few.startswith("N = 6e+08, D = 1e+10: 2 values of lr")
    (tmp_path / "rest.csv").write_text("\n".join(lines[:-5]) + "\n")
    assert fit_sweep(read_points(tmp_path / "rest.csv")) == found | {"left_out": []}
    done = run_here("scaling.py", "sweep", "sweep.csv", "--out", "s.json", cwd=tmp_path)
    assert done.returncode == 0 and f"left out: {edge}" in done.stdout
    assert json.loads((tmp_path / "s.json").read_text())["left_out"] == [edge, few]


def test_a_column_that_was_named_is_not_averaged_over(tmp_path):
    path = tmp_path / "sweep.csv"
    path.write_text(table([32_768, 65_536]).replace("batch_tokens", "batch_size"))
    with pytest.raises(InputError, match=r"no column 'batch_tokns'; a sweep needs|did you mean"):
        fit_sweep(read_points(path), "lr", "batch_tokns")
    named = fit_sweep(read_points(path), "lr", "batch_size")
    assert [row["batch_tokens"] for row in named["by_batch"]] == [32_768, 65_536] * 2
    done = run_here("scaling.py", "sweep", "sweep.csv", "--batch", "bs", cwd=tmp_path)
    assert done.returncode == 2 and "no column 'bs'" in done.stderr


def test_intervals_of_the_exponents_are_students_t(tmp_path):
    """Six best rates leave three degrees of freedom for c, N and D; SciPy has the same by t."""
    sizes, spread = [1e6, 1e6, 1e6, 8e6, 8e6, 8e6], [0.1, -0.2, 0.15, -0.1, 0.05, 0.02]
    D, lines = [1e8, 3e8, 1e9] * 2, ["N,D,lr,loss"]
    best = [3e-3 * (n / 1e6) ** -0.3 * np.exp(e) for n, e in zip(sizes, spread, strict=True)]
    for n, d, b in zip(sizes, D, best, strict=True):
        lines += [f"{n},{d},{b * f},{3 + 0.02 * np.log(f) ** 2:.15g}" for f in (0.5, 1, 2)]
    (tmp_path / "sweep.csv").write_text("\n".join(lines) + "\n")
    found = fit_sweep(read_points(tmp_path / "sweep.csv"))["lr"]
    columns = np.stack([np.ones(6), np.log(sizes), np.log(D)], 1)

    theta, covariance = curve_fit(lambda _, *t: columns @ t, None, np.log(best), p0=[0, 0, 0])
    reach = 3.182446 * np.sqrt(np.diag(covariance))  # Student's t, 3 degrees of freedom, 97.5 %
    for name, x, r in zip(("c", "N", "D"), theta, reach, strict=True):
        value, ends = found[name], (x, x - r, x + r)
        ends = np.exp(ends) if name == "c" else ends
        assert [value[k] for k in ("value", "low", "high")] == pytest.approx(ends, rel=1e-4)


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
    assert len(runs) == 12 and len({run.n_params_non_embedding for run in runs}) == 2
    assert sum(run.spent for run in runs) < 2e17


def sweep_of(path, best=lambda N, B: 3e-3 * (N / 1e6) ** -0.1, tokens=lambda N, B: 20 * N, batches=(65_536,), **how):
    """Write a sweep of 5 rates at two sizes and some batches, whose best rate is known; return what is read off it."""
    lines = ["N,D,batch_tokens,lr,loss"]
    for N in (1e6, 8e6):
        for B in batches:
            for lr in (7.5e-4, 1.5e-3, 3e-3, 6e-3, 1.2e-2):
                loss = 3 + 0.02 * np.log(lr / best(N, B)) ** 2 + 1e-3 * np.log(B / 60_000) ** 2
                lines.append(f"{N},{tokens(N, B)},{B},{how.get('rate', lambda x: x)(lr)},{how.get('cell', str)(loss)}")
    path.write_text("\n".join(lines) + "\n")
    return fit_sweep(read_points(path, diverged=True))


def test_tokens_that_are_a_whole_number_of_batches_are_one_group(tmp_path):
    """Equal budgets rounded to each batch: compared batch by batch, not taken for budgets of their own."""
    batches = (16_384, 32_768, 65_536, 131_072, 262_144)
    found = sweep_of(tmp_path / "s.csv", tokens=lambda N, B: round(20 * N / B) * B, batches=batches)
    exact = sweep_of(tmp_path / "s.csv", batches=batches)
    assert [row["value"] for row in found["batch_tokens"]["best"]] == pytest.approx([6e4, 6e4], rel=1e-6)
    assert len(found["lr"]["best"]) == len(exact["lr"]["best"]) == 2
    assert [row["value"] for row in found["lr"]["best"]] == pytest.approx([row["value"] for row in exact["lr"]["best"]])


def test_a_rate_that_passed_through_float32_is_the_same_rate(tmp_path):
    """Two seeds of each rate, one written as float32: a parabola through both of one rate would be of noise alone."""
    path, rng = tmp_path / "s.csv", np.random.default_rng(0)
    lines = ["N,D,lr,loss"]
    for lr in (1e-3, 2e-3, 4e-3):
        for rate in (lr, float(np.float32(lr))):
            loss = 3 + 0.02 * np.log(lr / 1.7e-3) ** 2 + 1e-4 * rng.standard_normal()
            lines.append(f"1e6,1e8,{rate!r},{loss}")
    path.write_text("\n".join(lines) + "\n")
    (found,) = fit_sweep(read_points(path))["lr"]["best"]
    assert found["value"] == pytest.approx(1.7e-3, rel=0.02)


@pytest.mark.parametrize("word", ["nan", "NaN", "inf"])
def test_a_run_that_diverged_is_worse_than_all_others(tmp_path, word):
    """Above 4e-3 all diverged: the best rate is inside of what was tried, and the parabola does not feel them."""
    found = sweep_of(tmp_path / "s.csv", lambda N, B: 2.5e-3, cell=str)
    lost = sweep_of(tmp_path / "s.csv", lambda N, B: 2.5e-3, cell=lambda x: word if x > 3.015 else x)
    assert [row["value"] for row in lost["lr"]["best"]] == pytest.approx([2.5e-3] * 2, rel=0.2)
    assert [row["value"] for row in found["lr"]["best"]] == pytest.approx([2.5e-3] * 2, rel=1e-6)
    with pytest.raises(InputError, match="every run diverged; add smaller values of lr"):
        sweep_of(tmp_path / "s.csv", cell=lambda x: word)
    with pytest.raises(InputError, match="column 'loss': expected a positive number, found ''"):
        sweep_of(tmp_path / "s.csv", cell=lambda x: "" if x > 3.015 else x)
    with pytest.raises(InputError, match="column 'loss': expected a positive number"):
        read_points(tmp_path / "s.csv")


def test_equal_losses_have_no_best_rate(tmp_path):
    with pytest.raises(InputError, match="all values of lr have the same loss"):
        sweep_of(tmp_path / "s.csv", cell=lambda x: 3.0)


def test_a_sweep_in_millions_says_so(tmp_path):
    path = tmp_path / "s.csv"
    sweep_of(path)
    lines = path.read_text().splitlines()
    cells = [line.split(",") for line in lines[1:]]
    path.write_text("\n".join([lines[0], *(f"{float(n) / 1e6},{float(d) / 1e6},{','.join(r)}" for n, d, *r in cells)]))
    done = run_here("scaling.py", "sweep", "s.csv", cwd=tmp_path)
    assert done.returncode == 0 and "warning: N has a median of 4.5: counted in millions" in done.stdout
