"""Grids, budgets and what the dry run says of a study."""

import re
from dataclasses import replace

import pytest

from llama_scale.config import load_size
from llama_scale.cost.accounting import count_parameters, flops_per_token
from llama_scale.errors import InputError
from llama_scale.scaling.fitting.residuals import Noise
from llama_scale.scaling.forecasting.design import forecast_width, target_beyond
from llama_scale.scaling.study.dry_run import describe, design_noise, hours, memory, run_table, rungs
from llama_scale.scaling.study.grids import Grid, grid_runs
from llama_scale.scaling.study.plan import read_study
from llama_scale.training.recipe import LAW_D, LAW_N
from tests.llama_scale.scaling.helpers import TOY, fit_study

SIZES = ("S1", "S2", "S4")
SHAPES = {name: load_size(name, vocab_size=1024, context_length=128) for name in SIZES}


def test_isoflop_runs_cost_the_same():
    runs = grid_runs(Grid([*SIZES], isoflop=[3e14, 6e14]), SHAPES)
    assert len(runs) == 6
    for (size, tokens, _), C in zip(runs, (3e14, 6e14) * 3, strict=True):
        assert tokens * flops_per_token(SHAPES[size]) == pytest.approx(C, rel=1e-3)


def test_sizes_that_cannot_spend_their_budget_are_left_out():
    assert [size for size, *_ in grid_runs(Grid([*SIZES], isoflop=[3e16]), SHAPES)] == ["S2", "S4"]


def test_tokens_for_each_parameter():
    for size, tokens, seed in grid_runs(Grid(["S2"], tokens_per_parameter=[20], seeds=[3]), SHAPES):
        n = count_parameters(SHAPES[size]).non_embedding
        assert (tokens, seed) == (pytest.approx(20 * n, rel=1e-3), 3)


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        (Grid(["S1"]), "found none"),
        (Grid(["S1"], tokens=[1e6], isoflop=[1e14]), "found tokens and isoflop"),
        (Grid(["S1"], isoflop=[-1.0]), "isoflop: expected at least 1, found -1"),
    ],
)
def test_bad_grids_are_refused(grid, message):
    with pytest.raises(InputError, match=re.escape(message)):
        grid_runs(grid, SHAPES)


def test_budget_scales_the_runs_to_its_flops(plan):
    usual = plan()
    study = plan(budget={"flops": 1e15})
    assert sum(run.flops for run in study.runs) == pytest.approx(1e15, rel=0.01)
    ratios = [b.recipe.tokens / a.recipe.tokens for a, b in zip(usual.runs, study.runs, strict=True)]
    assert max(ratios) / min(ratios) < 1.02
    timed = plan(budget={"gpu_hours": 0.01, "gpu": "h100", "mfu": 0.3})
    total = sum(run.flops for run in timed.runs)
    assert total == pytest.approx(0.01 * 3600 * 0.3 * 989e12, rel=0.01)
    assert sum(hours(timed, run) for run in timed.runs) == pytest.approx(0.01, rel=0.01)
    unnamed = plan(budget={"gpu_hours": 0.01, "gpu": "h100"})
    assert sum(hours(unnamed, run) for run in unnamed.runs) == pytest.approx(0.01, rel=0.01)
    with pytest.raises(InputError, match="one of a budget in FLOPs and gpu_hours"):
        plan(budget={"flops": 1e15, "gpu_hours": 1})


def test_variants_tell_equal_runs_apart(plan):
    grids = [*TOY["runs"], {"variant": "again", "sizes": ["S1"], "tokens": [1e6]}]
    assert plan(runs=grids).runs[-1].name == "again-S1-1M-seed0"
    with pytest.raises(InputError, match=r"runs\[0\].variant: 'a/b' is no folder name"):
        plan(runs=[{"variant": "a/b", "sizes": ["S1"], "tokens": [1e6]}])


def test_dry_run_says_what_the_runs_cost_and_tell(plan):
    of_all = {"runs": [{"sizes": [*SIZES], "tokens": [3e5, 1e6, 3e6]}]}
    study = plan("--dry-run", **of_all)
    assert study.config.dry_run
    text = describe(study)
    run = study.runs[-1]
    line = next(row for row in text.splitlines() if row.startswith(run.name))
    assert f"{run.recipe.tokens:,}" in line and f"{hours(study, run):.3g}" in line
    assert f"{memory(run) / 2**30:.2f} GiB" in line
    assert "runs at a time: auto; threads of each: 1\n" in text
    assert "by the parts of a step as measured on an H200" in text
    assert hours(study, run) > 5 * hours(plan("--budget.mfu=.4", **of_all), run)  # small steps wait for their launches
    both = describe(plan("--parallel=3", threads=None))
    assert "runs at a time: 3; threads of each: auto\n" in both
    N, D = ([r.n_params_non_embedding for r in study.runs], [r.recipe.tokens for r in study.runs])
    target = target_beyond(max(6 * n * d for n, d in zip(N, D, strict=True)))
    said = float(re.search(r"noise: within ([0-9.]+) %", text)[1])
    assert said == pytest.approx(forecast_width(N, D, target), rel=0.06)
    alone = describe(plan(runs=[{"sizes": ["S1"], "tokens": [3e5, 1e6]}]))
    assert "largest run: none; the plan: 2 runs cannot fit the law's 5 parameters" in alone


def test_a_rate_outside_the_range_of_its_law_is_said(tmp_path):
    study = read_study(tmp_path, ["report", "--dry-run"])
    _, *rows = run_table(study)
    notes = " ".join(row for row in rows if row.startswith("* lr: "))
    for run, row in zip(study.runs, rows, strict=False):
        N, D = run.n_params_non_embedding, run.recipe.tokens
        inside = LAW_N[0] <= N <= LAW_N[1] and LAW_D[0] <= D <= LAW_D[1]
        if run.config.optim.lr == "auto" and not inside:
            assert f"{run.recipe.lr:.3g}* " in row and run.name in notes, row
        if run.config.optim.lr != "auto":
            assert "*" not in row and run.name not in notes
    assert "N outside the law's 6e7 to 1e9; D outside its 2e9 to 1e11, so D = 2e9; the cap by width holds (M1-" in notes


def test_dry_run_forecasts_the_runs_that_the_fit_keeps(plan):
    tokens = [3e4, 3e5, 1e6, 3e6]

    def said(tokens, **changes):
        text = describe(plan(runs=[{"sizes": [*SIZES], "tokens": tokens}], **changes))
        return next(line for line in text.splitlines() if line.startswith("forecast at ten times"))

    for where in ("D>2e5", "flops>0, D>2e5,annealed==true"):
        assert said(tokens, fit={"where": where}) == said(tokens[1:])
    assert said(tokens) != said(tokens[1:])
    assert "none; the plan: 0 runs cannot fit" in said(tokens, fit={"where": "N>1e30"})
    unknown = said(tokens, fit={"where": "bits_per_byte<3"})
    assert "none; condition 'bits_per_byte<3': the plan has no column 'bits_per_byte'" in unknown


def test_dry_run_of_a_sweep_promises_no_forecast(plan):
    grid = {"sizes": ["S1"], "tokens": [1e6], "lr_factors": [0.5, 1, 2]}
    assert "forecast" not in describe(plan(runs=[grid], law="rates", train=None))


def test_rungs_are_those_between_the_studys_ends(plan):
    names = {rung.name for rung in rungs(plan(runs=[{"sizes": [*SIZES], "tokens": [1e6]}]))}
    assert names >= {"S1", "S2", "S4"} and "S5" not in names and "Q1" not in names


def test_the_noise_between_the_seeds_of_an_earlier_fit_is_reckoned_with(plan):
    grid = {"sizes": ["S1", "S2", "S4"], "tokens": [3e5, 1e6, 3e6]}
    study = plan(runs=[grid])
    assert design_noise(study) == (0.002, "assumed") and "0.2 % assumed noise: within" in describe(study)
    study.folder.mkdir(parents=True)
    _, laws = fit_study(study.folder)
    assert laws.noise is None and design_noise(study)[1] == "assumed"
    replace(laws, noise=Noise(1.6, 1.2, 2.3, 4, 8)).write(study.folder / "laws.json")
    noise, source = design_noise(study)
    assert (noise, source) == (pytest.approx(0.016), "measured") and "1.6 % measured noise: within" in describe(study)
    assert design_noise(plan(runs=[grid], noise=0.004)) == (0.004, "stated")
