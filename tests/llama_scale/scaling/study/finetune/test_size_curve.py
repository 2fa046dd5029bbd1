"""What more pairs buy, where the law that made the losses is known."""

import numpy as np
import pytest
from scipy.optimize import minimize

from llama_scale.scaling.study.finetune.comparison import Contrast, Family
from llama_scale.scaling.study.finetune.size_curve import power_laws, size_curve

N = np.array([50.0, 150.0, 300.0, 1000.0, 3000.0])


def test_a_power_law_is_found_again():
    true = np.array([[1.2, 3.0, 0.5], [2.0, 0.4, 0.21], [0.9, 50.0, 1.4]])
    loss = true[:, :1] + true[:, 1:2] * N ** -true[:, 2:]
    np.testing.assert_allclose(power_laws(N, loss), true, rtol=1e-9)


def test_it_is_the_least_sum_of_squares():
    """Of noisy losses SciPy's optimizer, from the end of the search, finds nothing lower."""
    loss = 1.2 + 3 * N**-0.4 + np.array([0.01, -0.02, 0.015, -0.005, 0.004])

    def rest(law):
        return ((law[0] + law[1] * N ** -law[2] - loss) ** 2).sum()

    found = power_laws(N, loss[None])[0]
    best = minimize(rest, found, method="Nelder-Mead", options={"xatol": 1e-10, "fatol": 1e-16, "maxiter": 20_000})
    assert rest(found) == pytest.approx(best.fun, rel=1e-3)
    assert found[2] == pytest.approx(best.x[2], abs=0.01)


def test_losses_that_rise_have_no_exponent():
    floor, scale, beta = power_laws(N, np.array([[1.0, 1.1, 1.2, 1.3, 1.4]]))[0]
    assert (scale, beta) == (0, 0) and floor == pytest.approx(1.2)


def family(changes, endpoint="parses"):
    """Return contrasts with the arm of 50 pairs by (mean, half width, Holm's p)."""
    one = [
        Contrast("n50", f"n{n}", endpoint, mean, mean - half, mean + half, p, p, 0.05, True)
        for n, (mean, half, p) in changes.items()
    ]
    return Family("size-steps", "", one, {})


def arms(law, spread):
    rng = np.random.default_rng(0)
    tasks, draws = rng.normal(size=200), rng.normal(size=(4, 1))
    return {f"n{n:.0f}": law(n) + 0.1 * tasks + 0.1 * draws + spread * rng.normal(size=(4, 200)) for n in N[:4]}


SIZES = {f"n{n:.0f}": int(n) for n in N[:4]}
UP, DOWN, SAME = (0.2, 0.1, 0.01), (-0.2, 0.1, 0.01), (0.05, 0.1, 0.8)


def test_the_exponent_has_the_interval_of_runs_and_tasks():
    rows = arms(lambda n: 1 + 3 * n**-0.5, 0.02)
    found = size_curve(family({}), SIZES, rows, True, 0)
    assert found.beta_low < 0.5 < found.beta_high
    assert found.loss == [pytest.approx(values.mean()) for values in rows.values()]
    assert (found.worse, found.above) == (None, None)
    flat = size_curve(family({}), SIZES, arms(lambda n: 1.0, 0.02), True, 0)
    assert flat.beta_low is None


@pytest.mark.parametrize(
    ("changes", "worse", "above"),
    [
        ([UP, UP, UP], [], 150),
        ([DOWN, SAME, UP], [150], 1000),
        ([UP, SAME, UP], [], 1000),  # not from 150 on: 300 may be as the smallest
        ([UP, UP, SAME], [], None),
        ([DOWN, DOWN, SAME], [150, 300], None),
    ],
)
def test_a_trap_and_the_number_that_escapes_it(changes, worse, above):
    one = family(dict(zip((150, 300, 1000), changes, strict=True)))
    found = size_curve(one, SIZES, arms(lambda n: 1 + 3 * n**-0.5, 0.02), True, 0)
    assert (found.worse, found.above) == (worse, above)


def test_three_sizes_are_no_curve():
    sizes = dict(list(SIZES.items())[:3])
    rows = {name: arms(lambda n: 1 + 3 * n**-0.5, 0.02)[name] for name in sizes}
    assert size_curve(family({}), sizes, rows, True, 0).beta is None
