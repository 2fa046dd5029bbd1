import numpy as np
import pytest
from scipy.optimize import approx_fprime, minimize_scalar

from llama_scale.scaling.fitting.chinchilla import Flops, Surface, SurfaceModel, fit_flops
from llama_scale.scaling.fitting.solver import Problems, minimize_huber

LAW = Surface(E=1.8172, A=482.01, alpha=0.3478, B=2085.43, beta=0.3658)
EXACT = Flops("exact", c=140.0, g=0.45)
BELOW = Flops("below", c=3e4, g=0.7, power=-1)
STEEP = Flops("steep", c=1e11, g=1.0)


def test_loss_is_the_formula_for_one_law_and_for_many():
    N, D = np.array([7e10, 1e9]), np.array([1.4e12, 2e10])
    expected = 1.8172 + 482.01 / N**0.3478 + 2085.43 / D**0.3658
    np.testing.assert_allclose(LAW.loss(N, D), expected)
    assert LAW.loss(7e10, 1.4e12) == pytest.approx(expected[0])
    many = Surface(*(np.array([v, v]) for v in (1.8172, 482.01, 0.3478, 2085.43, 0.3658)))
    np.testing.assert_allclose(many.loss(N, D), [expected, expected])


@pytest.mark.parametrize("flops", [Flops("6ND"), EXACT, BELOW, STEEP], ids=lambda flops: flops.name)
def test_optimum_is_the_least_loss_by_search(flops):
    for C in (1e17, 1e20, 5.76e23):
        N, D = (x[0] for x in LAW.optimum(np.array([C]), flops))
        assert flops.per_token(N) * D == pytest.approx(C)

        def loss(n, C=C):
            return LAW.loss(np.exp(n), C / flops.per_token(np.exp(n)))

        found = minimize_scalar(loss, bounds=(10, 32), method="bounded", options={"xatol": 1e-9})
        assert np.log(N) == pytest.approx(found.x, abs=1e-5)


def test_optimum_is_the_closed_form_for_6nd():
    C = np.array([1e18, 1e24])
    G = (LAW.alpha * LAW.A / (LAW.beta * LAW.B)) ** (1 / (LAW.alpha + LAW.beta))
    N, D = LAW.optimum(C, Flops("6ND"))
    np.testing.assert_allclose(N, G * (C / 6) ** LAW.exponent)
    np.testing.assert_allclose(D, (C / 6) ** (1 - LAW.exponent) / G)


def test_optimum_of_many_laws_is_that_of_each():
    laws = [LAW, Surface(0.86, 25794.0, 0.6104, 22996.0, 0.4935)]
    both = Surface(*(np.array([getattr(law, f) for law in laws]) for f in vars(LAW)))
    C = np.array([1e18, 1e21])
    N, _ = both.optimum(C, EXACT)
    np.testing.assert_allclose(N, [law.optimum(C, EXACT)[0] for law in laws], rtol=1e-9)


def test_published_optimal_tokens_per_parameter_of_bigcode():
    law = Surface(np.exp(-0.12446223), np.exp(11.228836), 0.66999114, np.exp(10.483168), 0.51418173)
    N, D = law.optimum(np.array([1e18, 1e19, 1e21]), Flops("6ND"))
    np.testing.assert_allclose(D / N, [33, 46, 87], rtol=0.05)


def test_flops_recovers_a_count_and_its_slope():
    N, D = np.geomspace(1e5, 1e8, 6), np.full(6, 1e9)
    law = fit_flops("exact", N, D, EXACT.per_token(N) * D)
    assert (law.c, law.g) == (pytest.approx(EXACT.c), pytest.approx(EXACT.g))
    assert law.error < 1e-9
    step = 1e-6
    slope = np.log(law.per_token(N * np.exp(step)) / law.per_token(N)) / step
    np.testing.assert_allclose(law.elasticity(N), slope, rtol=1e-5)


def test_flops_below_6nd_are_recovered():
    N, D = np.geomspace(1e5, 1e8, 6), np.full(6, 1e9)
    flops = 6 * N * D / (1 + 900 / N**0.6)
    law = fit_flops("below", N, D, flops)
    assert (law.c, law.g, law.power) == (pytest.approx(900), pytest.approx(0.6), -1)
    np.testing.assert_allclose(law.per_token(N) * D, flops)
    step = 1e-6
    slope = np.log(law.per_token(N * np.exp(step)) / law.per_token(N)) / step
    np.testing.assert_allclose(law.elasticity(N), slope, rtol=1e-5)
    growth = np.log(law.elasticity(N * np.exp(step)) / law.elasticity(N)) / step
    np.testing.assert_allclose(law.elasticity_growth(N), growth, rtol=1e-3)


def test_three_sizes_promise_no_size_that_costs_nothing():
    """Q1 to Q3 with all parameters as N: the excess over 6ND falls as N^-4 and less than 0."""
    N, D = np.array([40_212.0, 61_584, 95_448]), np.full(3, 2e5)
    flops = np.array([222_336.0, 368_640, 571_392]) * D
    for counts in (flops, 6 * N * D * (1 + 1e12 / N**3)):
        law, every = fit_flops("exact", N, D, counts), np.geomspace(1, 1e12, 100)
        assert (law.per_token(every) > 0).all() and (np.diff(law.per_token(every)) > 0).all()
        assert law.error == pytest.approx(np.abs(law.per_token(N) * D / counts - 1).max())
        with np.errstate(all="raise"):
            sizes, data = LAW.optimum(np.geomspace(1e8, 1e20, 30), law)
        assert (np.isfinite(sizes) & np.isfinite(data)).all()


def test_flops_on_both_sides_of_6nd_states_its_error():
    N, D = np.array([1e6, 1e7, 1e8]), np.full(3, 1e9)
    law = fit_flops("noisy", N, D, 6 * N * D * np.array([0.9, 1.1, 1.0]))
    assert law.g == 0
    assert law.error == pytest.approx(0.1 / 0.9, rel=0.02)


@pytest.fixture
def model():
    rng = np.random.default_rng(0)
    return SurfaceModel(10 ** rng.uniform(7, 10, 30), 10 ** rng.uniform(9, 12, 30))


THETA = np.array([-1.0, 0.35, -0.8, 0.37, 0.6])


def test_gradient_and_curvature_equal_finite_differences(model):
    u, v = np.random.default_rng(1).normal(size=(2, 1, 30))
    value, gradient, curvature = model.expand(THETA[None])
    np.testing.assert_allclose(value, model.value(THETA[None]))
    for i in range(30):
        numeric = approx_fprime(THETA, lambda t, i=i: model.value(t[None])[0, i], 1e-7)
        np.testing.assert_allclose(gradient[0, :, i], numeric, atol=2e-6)
    second = [approx_fprime(THETA, lambda t, k=k: v[0] @ model.expand(t[None])[1][0, k], 1e-7) for k in range(5)]
    outer = np.einsum("n,kn,jn->kj", u[0], gradient[0], gradient[0])
    np.testing.assert_allclose(curvature(u, v)[0], outer - second, atol=2e-5)


def test_natural_parameters_give_the_same_loss(model):
    law = model.law_of(THETA)
    N, D = (np.exp(z + c) for z, c in zip((model.x, model.y), model.center, strict=True))
    np.testing.assert_allclose(np.log(law.loss(N, D)), model.value(THETA[None])[0])


def test_minimise_stays_within_bounds_and_finds_the_edge(model):
    target = model.value(THETA[None])
    lower, upper = model.bounds(np.exp(target[0]))
    upper[1] = 0.3
    problems = Problems(target, np.ones_like(target), lower, upper, 1e-3)
    theta, objective, converged = minimize_huber(model, THETA[None] + 0.1, problems)
    assert converged.all()
    assert theta[0, 1] == 0.3
    upper[1] = 4.0
    free, least, _ = minimize_huber(model, THETA[None] + 0.1, problems)
    np.testing.assert_allclose(free[0], THETA, atol=1e-6)
    assert least[0] < 1e-16 < objective[0]
