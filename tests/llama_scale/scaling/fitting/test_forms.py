"""The joint form of the law: its derivatives, its optimum by another way, and all that is read off it."""

import numpy as np
import pytest
from scipy.optimize import approx_fprime, minimize

from llama_scale.bootstrap import percentile_interval
from llama_scale.errors import InputError
from llama_scale.scaling.fitting.chinchilla import Flops, Surface
from llama_scale.scaling.fitting.fit import DELTA, fit_surface, hold_out, objective
from llama_scale.scaling.fitting.forms import ADDITIVE, JOINT, KAPLAN, JointModel, form_named
from llama_scale.scaling.fitting.profile import objective_limit, profiles
from llama_scale.scaling.fitting.stated_law import check_stated_law, form_of, parse_law
from tests.llama_scale.scaling.helpers import grid
from tests.llama_scale.scaling.helpers import points as made

TRUE = Surface(E=0.6, A=300.0, alpha=0.5, B=900.0, beta=0.45, k=0.45)
WITHOUT_E = Surface(E=0.0, A=300.0, alpha=0.5, B=900.0, beta=0.45, k=0.45)


def runs(law=TRUE, noise=0.005, seed=0, sizes=5, budgets=5):
    return grid(sizes, budgets, noise, seed, law)


@pytest.mark.parametrize("natural", [False, True])
def test_derivatives_are_those_of_finite_differences(natural):
    points = runs()
    model, theta = JointModel(points.N, points.D, natural=natural), np.array([0.3, 0.5, 0.1, 0.4, -0.5, -0.7])
    value, gradient, curvature = model.expand(theta[None])
    for i in range(len(points)):
        numeric = approx_fprime(theta, lambda t, i=i: model.value(t[None])[0, i], 1e-7)
        np.testing.assert_allclose(gradient[0, :, i], numeric, atol=2e-6)
    u, v = np.random.default_rng(0).standard_normal((2, 1, len(points)))
    second = [approx_fprime(theta, lambda t, k=k: v[0] @ model.expand(t[None])[1][0, k], 1e-7) for k in range(6)]
    np.testing.assert_allclose(curvature(u, v)[0], (gradient[0] * u) @ gradient[0].T - second, atol=2e-5)
    np.testing.assert_allclose(np.log(model.law_of(theta).loss(points.N, points.D)), value[0])
    np.testing.assert_allclose(model.theta_of(model.law_of(theta)), theta)


@pytest.mark.parametrize(("law", "form"), [(TRUE, JOINT), (WITHOUT_E, KAPLAN)], ids=["joint", "kaplan"])
def test_points_without_noise_give_the_law_itself(law, form):
    points = runs(law, noise=0.0)
    fit = fit_surface(points, resamples=50, form=form)
    for name in (*form.parameters, "E"):
        assert getattr(fit.law, name) == pytest.approx(getattr(law, name), rel=1e-6)
    assert fit.share_at_optimum > 0.9
    assert fit.predict(1e8, 1e9)["value"][0] == pytest.approx(law.loss(1e8, 1e9), rel=1e-6)
    additive = fit_surface(points, resamples=50)
    assert abs(additive.predict(1e8, 1e9)["value"][0] / law.loss(1e8, 1e9) - 1) > 0.03, "the forms do differ"
    said = "N x D interaction"
    assert any(said in text and "larger models gain more" in text for text in additive.warnings)
    assert not any(said in text for text in fit.warnings)


@pytest.mark.parametrize("seed", range(4))
def test_no_start_of_a_plain_optimizer_ends_lower(seed):
    points = runs(noise=0.01, seed=seed)
    rng, target = np.random.default_rng(seed), np.log(points.loss)

    def value(t):
        law = Surface(np.exp(t[0]), np.exp(t[1]), t[2], np.exp(t[3]), t[4], np.exp(t[5]))
        residual = np.abs(target - np.log(law.loss(points.N, points.D)))
        return np.where(residual < DELTA, residual**2 / 2, DELTA * (residual - DELTA / 2)).sum() / DELTA**2

    least, options = np.inf, {"maxfev": 20_000, "maxiter": 20_000, "xatol": 1e-9, "fatol": 1e-9}
    for scale in (0.0, 0.05, 0.2):
        start = np.array([np.log(0.6), np.log(300), 0.5, np.log(900), 0.45, np.log(0.45)])
        for _ in range(3):
            found = minimize(value, start * (1 + scale * rng.standard_normal(6)), method="Nelder-Mead", options=options)
            start, least = found.x, min(least, found.fun)
    assert fit_surface(points, resamples=1, form=JOINT).objective <= least * DELTA**2 * (1 + 1e-6)


def test_the_additive_form_is_the_joint_one_at_k_1():
    points = runs(Surface(1.1, 60.0, 0.30, 400.0, 0.42))
    additive, joint = (fit_surface(points, resamples=50, form=form) for form in (ADDITIVE, JOINT))
    assert joint.objective <= additive.objective
    low, high = percentile_interval(joint.resampled.k)
    assert low < 1 < high
    assert additive.law.k == 1


def test_neither_e_nor_k_moves_the_optimum():
    C = np.geomspace(1e12, 1e20, 5)
    N, D = TRUE.optimum(C, Flops("6ND"))
    for factor in (0.99, 1.01):
        assert (TRUE.loss(N * factor, D / factor) > TRUE.loss(N, D)).all()
    np.testing.assert_allclose(np.diff(np.log(N)) / np.diff(np.log(C)), TRUE.beta / (TRUE.alpha + TRUE.beta))


def test_profile_of_each_parameter_holds_the_truth_and_its_ends_rise_to_the_limit():
    points = runs(noise=0.003, seed=2)
    fit = fit_surface(points, resamples=200, form=JOINT)
    found = profiles(fit)
    assert set(found) == set(JOINT.parameters)
    for name, profile in found.items():
        assert profile.low < getattr(TRUE, name) < profile.high, name
    limit = objective_limit(fit.residual, 6)
    for alpha in (found["alpha"].low, found["alpha"].high):  # fixed there, all others by another optimizer

        def value(t, alpha=alpha):
            law = Surface(np.exp(t[0]), np.exp(t[1]), alpha, np.exp(t[2]), t[3], np.exp(t[4]))
            return objective(law, points) / DELTA**2

        start = np.array([np.log(fit.law.E), np.log(fit.law.A), np.log(fit.law.B), fit.law.beta, np.log(fit.law.k)])
        start[1] += (alpha - fit.law.alpha) * np.log(points.N).mean()
        for _ in range(8):
            options = {"maxfev": 20_000, "maxiter": 20_000, "xatol": 1e-9, "fatol": 1e-9}
            start = minimize(value, start, method="Nelder-Mead", options=options).x
        assert value(start) * DELTA**2 - fit.objective == pytest.approx(limit, rel=0.1)


def test_a_law_is_stated_in_its_own_form():
    stated = parse_law("E=.6,A=300,alpha=.5,B=900,beta=.45,k=.45")
    assert stated == TRUE and form_of(stated) == JOINT
    assert form_of(parse_law("A=300,alpha=.5,B=900,beta=.45,k=.45")) == KAPLAN
    assert form_of(parse_law("E=1,A=300,alpha=.5,B=900,beta=.45")) == ADDITIVE
    fit = fit_surface(runs(noise=0.001), resamples=50, form=JOINT)
    assert check_stated_law(fit.law, fit) == []
    wrong = Surface(0.6, 300.0, 0.5, 900.0, 0.45, 0.9)
    assert any("no optimum" in text for text in check_stated_law(wrong, fit))
    assert any("k = 0.9 lies outside both" in text for text in check_stated_law(wrong, fit))
    with pytest.raises(InputError, match="k must be positive"):
        parse_law("E=1,A=300,alpha=.5,B=900,beta=.45,k=0")
    with pytest.raises(InputError, match=r"found 'joined' \(did you mean 'joint'\?\)"):
        form_named("joined")


def test_hold_out_takes_the_form():
    held = hold_out(runs(seed=3), "largest", resamples=200, form=JOINT)
    assert held.fit.form == JOINT and abs(held.error[0]) < 0.02
    additive = hold_out(runs(seed=3), "largest", resamples=200)
    assert abs(additive.error[0]) > 2 * abs(held.error[0])


def test_more_runs_than_parameters_are_asked_for():
    points = runs()
    few = points.select(np.isin(np.arange(25), [0, 3, 6, 12, 19, 24]))
    assert fit_surface(few, resamples=50).form == ADDITIVE
    with pytest.raises(InputError, match="6 runs cannot fit the law's 6 parameters"):
        fit_surface(few, resamples=50, form=JOINT)


def test_branches_of_a_trunk_are_drawn_together():
    """Two runs of each of 12 trunks err as one: their bootstrap is that of 12 errors, not of 24."""
    points = runs(Surface(1.1, 60.0, 0.30, 400.0, 0.42), sizes=6, budgets=4)
    for i, row in enumerate(points.rows):
        row["trunk"] = f"trunk {i // 2}" if i < 20 else ""
    assert points.shares_trunks and points.trunks.max() + 1 == 14
    assert points.trunks[:4].tolist() == [0, 0, 1, 1] and len(set(points.trunks[20:].tolist())) == 4
    held = points.select(np.arange(24) > 2)
    assert held.trunks.max() + 1 == 13, "numbered again among the rest"
    alone = runs(Surface(1.1, 60.0, 0.30, 400.0, 0.42), sizes=6, budgets=4)
    assert not alone.shares_trunks
    counts = np.random.default_rng(0).multinomial(14, np.full(14, 1 / 14), size=100)[0][points.trunks]
    index = np.repeat(np.arange(24), counts)
    drawn = fit_surface(points, resamples=100).resampled
    sample = made(points.N[index], points.D[index], points.loss[index])
    first = Surface(*(getattr(drawn, name)[0] for name in ADDITIVE.parameters))
    assert objective(first, sample) == pytest.approx(fit_surface(sample, resamples=1).objective, rel=1e-6)


def test_a_law_of_two_sharp_limits_is_the_one_that_was_fitted():
    """k near 0 is the larger of two powers: A and B beyond what a number holds must not change the law's slopes."""
    points = runs(noise=0.0, sizes=7, budgets=6)
    model = JointModel(points.N, points.D)
    theta = np.array([[0.3, 1.1, 0.1, 0.9, -0.5, np.log(k)] for k in (0.02, 0.03, 0.3)])
    N, D = points.N * 3, points.D * 5  # beyond the runs, too
    there = JointModel(N, D, model.center)
    for row, law in zip(theta, (model.law_of(row) for row in theta), strict=True):
        np.testing.assert_allclose(np.log(law.loss(N, D)), there.value(row[None])[0], rtol=0, atol=5e-3)
        assert [law.k * law.alpha, law.k * law.beta] == pytest.approx([1.1, 0.9])
    together = model.law_of(theta)
    assert together.k[2] == pytest.approx(0.3) and np.isfinite([together.A, together.B]).all()
