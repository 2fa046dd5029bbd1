import math

import numpy as np
import pytest

from llama_scale.config import load_size
from llama_scale.cost.accounting import count_parameters, flops_per_token
from llama_scale.scaling.fitting.chinchilla import Flops
from llama_scale.scaling.fitting.fit import fit_surface
from llama_scale.scaling.fitting.points import Points
from llama_scale.scaling.forecasting.design import BESIROGLU, Rung, best_design, forecast_width, target_beyond

N, D = (x.ravel() for x in np.meshgrid(np.geomspace(1e6, 3e7, 5), np.geomspace(2e7, 2e9, 4)))
TARGET = (1e9, 2e10)


def test_width_is_that_of_studies_fitted_one_by_one():
    losses = []
    for seed in range(24):
        noise = 0.004 * np.random.default_rng(seed).standard_normal(len(N))
        names = {"N": "N", "D": "D", "loss": "loss"}
        rows, numbers = [{} for _ in N], np.arange(1, len(N) + 1)
        loss = BESIROGLU.loss(N, D) * np.exp(noise)
        points = Points(N, D, loss, None, rows, numbers, "x", "", len(N), names)
        losses.append(fit_surface(points, 1, starts=4).law.loss(*TARGET))
    expected = 100 * 1.96 * np.std(losses) / BESIROGLU.loss(*TARGET)
    assert forecast_width(N, D, TARGET, noise=0.004) == pytest.approx(expected, rel=0.5)


def test_width_follows_the_noise_and_the_runs():
    usual = forecast_width(N, D, TARGET, noise=0.002)
    assert forecast_width(N, D, TARGET, noise=0.001) == pytest.approx(usual / 2, rel=0.25)
    assert forecast_width(np.tile(N, 4), np.tile(D, 4), TARGET, noise=0.002) < 0.7 * usual
    assert forecast_width(N[:5], D[:5], TARGET) == math.inf
    assert forecast_width(N, np.full(20, 1e9), TARGET) == math.inf


def test_target_is_ten_times_the_compute():
    size, data = target_beyond(1e18)
    assert 6 * size * data == pytest.approx(1e19)
    best, _ = BESIROGLU.optimum(np.array([1e19]), Flops("6ND"))
    assert size == pytest.approx(best[0])


def test_best_design_spends_the_budget_and_is_no_worse():
    names = ("S1", "S2", "S3", "S4", "S5", "S6", "S7", "M2")
    configs = {name: load_size(name) for name in names}
    rungs = [Rung(name, count_parameters(c).non_embedding, flops_per_token(c)) for name, c in configs.items()]
    small = rungs[:4]
    sizes = [rung for rung in small for _ in range(3)]
    tokens = np.array([ratio * rung.N for rung in small for ratio in (18, 20, 22)])
    flops = sum(r.flops_per_token * d for r, d in zip(sizes, tokens, strict=True))
    target = target_beyond(max(r.flops_per_token * d for r, d in zip(sizes, tokens, strict=True)))
    design = best_design(rungs, flops, target)
    assert design.flops == pytest.approx(flops)
    assert design.width < forecast_width([r.N for r in sizes], tokens, target)
    assert best_design(rungs, 1e3, target) is None
