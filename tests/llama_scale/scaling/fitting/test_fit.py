import warnings
from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import huber, logsumexp

from llama_scale.bootstrap import percentile_interval
from llama_scale.errors import InputError
from llama_scale.scaling.fitting import fit
from llama_scale.scaling.fitting.chinchilla import Surface
from llama_scale.scaling.fitting.fit import fit_surface, hold_out, objective, poor_resamples, predict, try_hold_out
from llama_scale.scaling.fitting.fitted_laws import FittedLaws
from llama_scale.scaling.fitting.forms import ADDITIVE
from llama_scale.scaling.fitting.points import Points, read_points
from llama_scale.scaling.fitting.profile import profiles
from llama_scale.scaling.fitting.residuals import seed_noise
from llama_scale.scaling.fitting.results.summarize import summarize
from llama_scale.scaling.fitting.stated_law import check_stated_law, parse_law
from llama_scale.scaling.report import tables
from llama_scale.scaling.report.text import held_out, table
from tests.llama_scale.scaling.helpers import SHARED, TRUE, grid, points


def bigcode(name: str) -> Points:
    path = SHARED / "bigcode_stack" / f"python_val_loss_{name}.csv"
    if not path.is_file():
        pytest.skip(f"{path} is not here")
    return read_points(path, {"N": "n_params", "D": "tokens", "loss": "python_val_loss"}, "N>5e7")


PUBLISHED = {
    "ScalingLaws": ([10.144976, 10.020467, -0.15036352, 0.6096702, 0.49244583], 6.9540e-4),
    "ScalingLawsHE": ([11.228836, 10.483168, -0.12446223, 0.66999114, 0.51418173], 1.49580e-3),
}
# Of the additive form, to 1e-9: no change of the fit may move them.
OBJECTIVE = {"ScalingLaws": 6.951595905087774e-4, "ScalingLawsHE": 1.4952935011847792e-3}
BEST = {
    "ScalingLaws": (6.9516e-4, {"alpha": 0.6104, "beta": 0.4935, "E": 0.8609}),
    "ScalingLawsHE": (1.49529e-3, {"alpha": 0.6800, "beta": 0.5141, "E": 0.8860}),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_public_points_reach_a_better_optimum_than_published(name):
    runs = bigcode(name)
    (a, b, e, alpha, beta), value = PUBLISHED[name]
    published = Surface(np.exp(e), np.exp(a), alpha, np.exp(b), beta)
    assert objective(published, runs) == pytest.approx(value, abs=6e-9)
    fit = fit_surface(runs, resamples=200)
    best, parameters = BEST[name]
    assert fit.objective <= best + 1e-8
    assert fit.objective == pytest.approx(OBJECTIVE[name], rel=1e-9)
    assert objective(fit.law, runs) == pytest.approx(fit.objective, rel=1e-9)
    for parameter, expected in parameters.items():
        assert getattr(fit.law, parameter) == pytest.approx(expected, abs=6e-5)
    assert fit.share_at_optimum > 0.9
    assert abs(fit.check.excess) < 1e-9
    # 7.3B parameters on 1.4B and 2.3B tokens lie 33 and 20 % above the law, in the second file.
    *far, shape = fit.warnings
    assert len(far) == (name == "ScalingLawsHE") and all("row 51 by +33 %, row 65 by +20 %" in text for text in far)
    # And the joint form is 30 to 36 % closer on the runs held out (test_choice)
    assert shape.startswith(("The residuals depend on N and D", "The residuals have an N x D interaction"))


def test_public_hold_out_has_the_published_error():
    held = hold_out(bigcode("ScalingLaws"), "flops>=1e20", resamples=200)
    assert len(held.fit.points) == 47
    largest = held.points.compute > 9e20
    assert np.median(np.abs(held.error[largest])) == pytest.approx(0.042, abs=0.001)
    assert (held.error[largest] > 0).all()
    assert held.factor == pytest.approx(1e21 / 6e19)


def test_exponents_are_recovered_from_many_points():
    runs = grid(15, 16, noise=0.002, seed=3)
    fit = fit_surface(runs, resamples=300)
    assert fit.law.alpha == pytest.approx(TRUE.alpha, abs=0.01)
    assert fit.law.beta == pytest.approx(TRUE.beta, abs=0.01)
    for name in ADDITIVE.parameters:
        low, high = percentile_interval(getattr(fit.resampled, name))
        assert low < getattr(fit.law, name) < high


def test_points_without_noise_give_the_law_itself():
    fit = fit_surface(grid(noise=0.0), resamples=100)
    for name in ADDITIVE.parameters:
        assert getattr(fit.law, name) == pytest.approx(getattr(TRUE, name), rel=1e-4)
    predicted = fit.predict(1e7, 1e8)
    assert predicted["value"][0] == pytest.approx(TRUE.loss(1e7, 1e8), rel=1e-5)
    assert predicted["run_high"][0] - predicted["run_low"][0] < 1e-4


def test_mean_objective_at_default_tolerance_is_the_known_error():
    rng = np.random.default_rng(0)
    C, N = 10 ** rng.uniform(18.8, 21.5, 240), 10 ** rng.uniform(7.65, 10.2, 240)
    D = C / 6 / N
    near = (D / N > 0.5) & (D / N < 500)
    N, D = N[near], D[near]
    true = Surface(1.8172, 482.01, 0.3478, 2085.43, 0.3658)
    loss = true.loss(N, D) * np.exp(0.008 * rng.standard_t(3, len(N)) / np.sqrt(3))

    def mean(theta):
        a, alpha, b, beta, e = theta
        terms = np.broadcast_arrays(a - alpha * np.log(N), b - beta * np.log(D), e)
        return huber(1e-3, np.log(loss) - logsumexp(terms, axis=0)).mean()

    a, alpha, b, beta, e = minimize(mean, [5, 0.5, 5, 0.5, 0], method="L-BFGS-B").x
    wrong = Surface(np.exp(e), np.exp(a), alpha, np.exp(b), beta)
    runs = points(N, D, loss)
    fit = fit_surface(runs, resamples=400)
    assert objective(wrong, runs) > 1.5 * fit.objective
    low, high = percentile_interval(fit.resampled.beta)
    assert wrong.beta < 0.3 < low < true.beta < high
    early, *outside = check_stated_law(wrong, fit)
    assert "no optimum of these runs" in early
    assert any("beta = 0.2" in text for text in outside)
    assert check_stated_law(fit.law, fit) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("E=1,A=2", "expected E, A, alpha, B, beta, found E, A"),
        ("E=one", "'E=one': expected NAME=NUMBER"),
        ("E=0,A=1,alpha=1,B=1,beta=1", "must be positive"),
    ],
)
def test_stated_laws_are_read_or_refused(text, message):
    with pytest.raises(InputError, match=message):
        parse_law(text)


def test_resamples_are_solved_as_well_as_from_every_start():
    runs = grid(seed=4)
    fit = fit_surface(runs, resamples=8, seed=5)
    counts = np.random.default_rng(5).multinomial(20, np.full(20, 1 / 20), size=8)
    excess = []
    for i, count in enumerate(counts):
        index = np.repeat(np.arange(20), count)
        sample = points(runs.N[index], runs.D[index], runs.loss[index])
        own = Surface(*(getattr(fit.resampled, name)[i] for name in ADDITIVE.parameters))
        excess.append(objective(own, sample) / fit_surface(sample, 100).objective - 1)
    assert np.median(excess) < 1e-9
    assert np.max(excess) < 1e-2


def test_interval_of_a_run_is_wider_than_that_of_the_law_and_covers():
    covered = []
    for seed in range(8):
        held = hold_out(grid(seed=seed), "largest", resamples=150)
        assert len(held.points) == 1
        assert held.points.N[0] == held.points.N.max()
        predicted = held.predicted
        law, run = (predicted[f"{kind}high"] - predicted[f"{kind}low"] for kind in ("", "run_"))
        assert run > law
        covered.append(held.covered[0])
    assert sum(covered) >= 6


def test_interval_of_a_run_without_spread_of_the_law_is_that_of_the_residuals():
    law = Surface(*(np.full(2_000, getattr(TRUE, name)) for name in ADDITIVE.parameters))
    residual = np.tile([0.01, -0.01], 4) + 0.003  # eight runs, five parameters, off centre
    found = predict(TRUE, law, residual, 0, 1e6, 1e7)
    ends = TRUE.loss(1e6, 1e7) * np.exp(0.01 * np.sqrt(8 / 3) * np.array([-1, 1]))
    assert (found["run_low"][0], found["run_high"][0]) == pytest.approx(ends, rel=1e-12)
    assert found["low"][0] == found["high"][0] == pytest.approx(found["value"][0])


def test_a_second_optimizer_elsewhere_is_measured_and_said(monkeypatch):
    runs, real = grid(), fit._second_optimizer

    def poor(model, loss, starts, bounds, delta):
        theta, _ = real(model, loss, starts, bounds, delta)
        theta = theta + np.array([0, 0.1, 0, 0, 0])
        return theta, objective(model.law_of(theta), runs)

    monkeypatch.setattr(fit, "_second_optimizer", poor)
    found = fit_surface(runs, resamples=100)
    worse = objective(found.check.law, runs) / objective(found.law, runs) - 1
    assert worse > 0.1 and found.check.excess == pytest.approx(worse, rel=1e-6)
    assert found.check.law.alpha == pytest.approx(found.law.alpha + 0.1, abs=1e-4)
    assert found.check.parameter_difference == pytest.approx(0.1, abs=1e-4)
    said = f"A second optimizer ends {worse:+.1e} (relative) from the objective"
    assert any(said in text for text in found.warnings)


def test_a_resample_that_misses_the_optimum_is_solved_again_from_its_neighbour():
    """Resample 41 of this seed ends 7 % too high from the optimum of all runs alone."""
    runs = grid(noise=0.02)
    laws = fit_surface(runs, resamples=100).resampled
    counts = np.random.default_rng(0).multinomial(20, np.full(20, 1 / 20), size=100)
    for i in (40, 41, 42):
        index = np.repeat(np.arange(20), counts[i])
        sample = points(runs.N[index], runs.D[index], runs.loss[index])
        own = Surface(*(getattr(laws, name)[i] for name in ADDITIVE.parameters))
        best = fit_surface(sample, resamples=1).objective
        assert objective(own, sample) == pytest.approx(best, rel=1e-6)


def test_equal_seed_gives_equal_bootstrap():
    runs = grid()
    one, two, other = (fit_surface(runs, 100, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one.resampled.alpha, two.resampled.alpha)
    assert not np.array_equal(one.resampled.alpha, other.resampled.alpha)
    np.testing.assert_array_equal(one.predict(1e6, 1e7)["run_low"], two.predict(1e6, 1e7)["run_low"])


@pytest.mark.parametrize(
    ("runs", "warning"),
    [
        (grid(law=Surface(1e-6, 60.0, 0.30, 400.0, 0.42)), "E is"),
        (grid(law=Surface(1.1, 9.0, 0.02, 400.0, 0.42)), "alpha = 0.0"),
        (grid(sizes=3, budgets=3, noise=0.03), "do not identify"),
        (grid(sizes=3, budgets=3), "9 runs for 5 parameters"),
    ],
    ids=["E", "exponent", "identify", "few"],
)
def test_warnings(runs, warning):
    assert any(warning in text for text in fit_surface(runs, resamples=200).warnings)


def steep_runs(alpha=4.5, noise=0.002):
    """Return runs of one law whose size term falls by a power of 4.5: its sizes hardly matter beyond the smallest."""
    runs = grid(8, 6)
    N, law = 10 * runs.N, Surface(2.0, 1e26, alpha, 400.0, 0.42)
    scatter = np.random.default_rng(0).standard_normal(48)
    return points(N, runs.D, law.loss(N, runs.D) * np.exp(noise * scatter))


def test_an_exponent_is_not_cut_where_the_search_used_to_end():
    runs = steep_runs()
    fit = fit_surface(runs, resamples=100)
    assert fit.law.alpha == pytest.approx(4.5, abs=0.15)
    cut = fit_surface(runs, resamples=1).objective
    assert cut < objective(Surface(**(vars(fit.law) | {"alpha": 4.0, "A": fit.law.A * 1e6**-0.44})), runs)
    assert any("alpha = 4.4" in text and "outside [0.05, 1.5]" in text for text in fit.warnings)
    assert not fit.determined
    ends = profiles(fit)["alpha"]
    assert 4 < ends.low < fit.law.alpha < ends.high < 5


def test_no_size_is_given_where_none_is_determined():
    laws = summarize(fit_surface(steep_runs(), resamples=100), None)
    assert not laws.best_frontier.determined
    assert all(row.optimal_N is None and row.optimal_D is None for row in laws.side_by_side)
    assert all(row.N is None and row.C is None and row.reason for row in laws.thresholds)
    assert "not determined" in tables.conventions(laws).text()
    assert "N* =" not in table(laws)
    assert FittedLaws.from_dict(laws.to_dict()) == laws


@pytest.mark.parametrize("name", ["alpha", "E"])
def test_a_parameter_at_a_bound_of_the_search_is_named(name):
    """A step between the smallest sizes has no exponent; losses that fall ever faster have no floor."""
    runs, law = grid(6, 5), Surface(2.0, 3e200, 40.0, 400.0, 0.42)
    loss = law.loss(runs.N, runs.D) if name == "alpha" else TRUE.loss(runs.N, runs.D) - 1.4
    fit = fit_surface(points(runs.N, runs.D, loss), resamples=50)
    said = f"{name} lies at the {'upper' if name == 'alpha' else 'lower'} bound of the search"
    assert any(said in text and "a second optimizer has the same bounds" in text for text in fit.warnings), fit.warnings


def test_a_profile_reaches_further_than_a_bootstrap_without_spread():
    """All resamples at one value used to give the profile no reach: no end within it was called flat."""
    runs = grid(noise=0.003)
    fit = fit_surface(runs, resamples=200)
    still = replace(fit, resampled=Surface(**{k: np.full(200, getattr(fit.law, k)) for k in vars(fit.law)}))
    for name, profile in profiles(still).items():
        usual = profiles(fit)[name]
        assert (profile.low, profile.high) == (pytest.approx(usual.low, rel=0.02), pytest.approx(usual.high, rel=0.02))


def test_a_law_that_misses_its_runs_says_so():
    scatter = np.random.default_rng(2).standard_normal(20)
    runs = grid()
    bad = points(runs.N, runs.D, runs.loss * np.exp(0.15 * scatter))
    assert any("The law misses its own runs by 1" in text for text in fit_surface(bad, resamples=50).warnings)
    assert not any("misses its own" in text for text in fit_surface(runs, resamples=50).warnings)


def test_a_run_that_diverged_is_named_and_the_others_are_not_blamed():
    runs = grid(noise=0.002)
    loss = runs.loss.copy()
    loss[7] *= 2.5
    fit = fit_surface(points(runs.N, runs.D, loss), resamples=50)
    (said,) = (text for text in fit.warnings if "Far from the law" in text)
    assert "(median): row 8 by +150 %. Did they diverge?" in said
    assert not any("misses its own" in text for text in fit.warnings)
    assert not any("Far from" in text for text in fit_surface(runs, resamples=50).warnings)


@pytest.mark.parametrize(
    ("added", "said"),
    [(lambda x, y: -0.01 * x * y, "larger models gain more from data"),
     (lambda x, y: 0.01 * x * y, "larger models gain less from data"),
     (lambda x, y: 0.03 * np.abs(x - y), "The residuals")],
    ids=["more", "less", "curved"],
)  # fmt: skip
def test_residuals_that_depend_on_n_and_d_are_named(added, said):
    runs = grid(7, 7, noise=0.003)
    x, y = (np.log(v) - np.log(v).mean() for v in (runs.N, runs.D))
    bent = points(runs.N, runs.D, runs.loss * np.exp(added(x, y)))
    assert any(said in text for text in fit_surface(bent, resamples=50).warnings)


def test_trends_are_seldom_seen_where_there_are_none():
    """One in a thousand each; 40 studies of right laws, with outliers, raise none."""
    for seed in range(40):
        runs = grid(6, 6, noise=0.005, seed=seed)
        loss = runs.loss.copy()
        loss[seed % 36] *= 1.1
        fit = fit_surface(points(runs.N, runs.D, loss), resamples=1, starts=9)
        assert not any("residuals" in text for text in fit.warnings)


def test_points_without_noise_raise_no_warning_of_numpy():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        summarize(fit_surface(grid(noise=0.0), resamples=100), None)


def test_the_whole_largest_budget_is_held_out():
    runs = grid(5, 4)
    near = runs.compute.max() * 0.97
    size = runs.N.max() * 0.5
    more = points(
        np.append(runs.N, size),
        np.append(runs.D, near / 6 / size),
        np.append(runs.loss, TRUE.loss(size, near / 6 / size)),
    )
    held = hold_out(more, "largest", resamples=50)
    assert len(held.points) == 2 and held.factor > 1.5
    laws = summarize(held.fit, held)
    assert f"up to {held.factor:.3g}" in held_out(laws) and "±" in held_out(laws)
    other = hold_out(more, "D<3e5", resamples=50)
    assert other.factor < 1
    assert "but down to 0.397 times the least tokens, were" in held_out(summarize(other.fit, other))


def test_the_noise_between_seeds_is_that_of_equal_runs():
    runs = grid(4, 4, noise=0.0)
    rng = np.random.default_rng(0)
    N, D, loss = (np.tile(column, 30) for column in (runs.N, runs.D, runs.loss))
    found = seed_noise(N, D, loss * np.exp(0.015 * rng.standard_normal(480)))
    assert found.percent == pytest.approx(1.5, rel=0.08) and found.low < 1.5 < found.high
    assert (found.groups, found.runs) == (16, 480)
    assert seed_noise(runs.N, runs.D, runs.loss) is None
    pair = seed_noise(np.array([1.0, 1, 2]), np.ones(3), np.array([3.0, 3.3, 9]))
    assert pair.percent == pytest.approx(100 * np.log(1.1) / np.sqrt(2)) and (pair.groups, pair.runs) == (1, 2)
    together = seed_noise(N, D, loss * np.exp(0.015 * rng.standard_normal(480)), np.arange(480) // 16)
    assert together.high / together.low > 2 * found.high / found.low - 1, "30 trunks of 16 tell less than 480 runs"
    doubled = points(N[:32], D[:32], loss[:32] * np.exp(0.01 * rng.standard_normal(32)))
    laws = summarize(fit_surface(doubled, resamples=50), None)
    assert "Runs of equal size, tokens and settings scatter by" in table(laws)


def test_too_few_runs_are_refused():
    with pytest.raises(InputError, match="5 runs cannot fit the law's 5 parameters"):
        fit_surface(grid().select(np.arange(20) < 5))


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        (grid(sizes=1, budgets=8), r"all 8 runs have N = 80000; .* fewer than 3 model sizes"),
        (grid(sizes=8, budgets=2), r"all 16 runs have D = 250000 and 4e\+06; .* 3 numbers of"),
    ],
)
def test_too_few_sizes_or_budgets_are_refused(runs, message):
    with pytest.raises(InputError, match=message):
        fit_surface(runs)


def on_a_line(slope=1.0, count=12, jitter=0.0):
    """Return runs at D = 20 N, or along another line through its middle, of one size each."""
    N = np.geomspace(8e4, 1.7e6, count)
    middle = float(np.exp(np.log(N).mean()))
    D = 20 * middle * (N / middle) ** slope * np.exp(jitter * np.random.default_rng(1).standard_normal(count))
    return points(N, D, TRUE.loss(N, D))


@pytest.mark.parametrize(("slope", "jitter"), [(1.0, 0.0), (1.0, 0.05), (-1.0, 0.0), (0.5, 0.02)])
def test_runs_along_one_line_tell_no_size(slope, jitter):
    """With D = 20 N the terms of size and data can change places: as good a law, and another best size."""
    runs = on_a_line(slope, jitter=jitter)
    fit = fit_surface(runs, resamples=10, starts=4)
    assert not fit.determined
    (line,) = (text for text in fit.warnings if "close to one line" in text)
    assert float(line.split("N^")[1].split(":")[0]) == pytest.approx(slope, abs=0.05)
    if slope == 1 and not jitter:
        laws = summarize(fit, None)
        assert "cannot be told apart" in table(laws) and "N* =" not in table(laws)
        assert FittedLaws.from_dict(laws.to_dict()).best_frontier.reason == laws.best_frontier.reason
        assert not any(row.exponent for row in laws.approaches.table if row.approach[0] == "1")
        places = Surface(TRUE.E, TRUE.B * 20**-TRUE.beta, TRUE.beta, TRUE.A * 20**TRUE.alpha, TRUE.alpha)
        assert objective(places, runs) == pytest.approx(objective(TRUE, runs), abs=1e-20)
        assert places.exponent == pytest.approx(1 - TRUE.exponent)


@pytest.mark.parametrize(("sizes", "said"), [(3, True), (4, True), (5, False)])
def test_intervals_of_few_trunks_are_called_too_narrow(sizes, said):
    """One trunk a size: of 3 and 4 trunks most resamples have two sizes, and intervals of .95 hold half the truths."""
    runs = grid(sizes=sizes, budgets=4)
    for row in runs.rows:
        row["trunk"] = row["N"]
    chance = {3: 1 - 6 / 27, 4: (4 + 6 * 14) / 256, 5: (5 + 10 * 30) / 3125}[sizes]
    assert poor_resamples(runs, 20_000, 0) == pytest.approx(chance, abs=0.01)
    found = [text for text in fit_surface(runs, resamples=400, starts=4).warnings if "far too narrow" in text]
    assert bool(found) == said and all(f"of {sizes} trunks" in text for text in found)
    assert not any("far too narrow" in text for text in fit_surface(grid(sizes, 4), resamples=400, starts=4).warnings)


def test_losses_that_are_all_equal_are_refused():
    runs = grid()
    with pytest.raises(InputError, match="all 20 runs have a loss of 3"):
        fit_surface(points(runs.N, runs.D, np.full(20, 3.0)))


def test_an_interval_is_the_same_in_a_warning_as_in_the_table():
    fit = fit_surface(grid(sizes=3, budgets=3, noise=0.03), resamples=100)
    (said,) = (text for text in fit.warnings if "do not identify E" in text)
    low, high = percentile_interval(fit.resampled.E)
    assert said.endswith(f"its interval is {low:.3g} to {high:.3g}.")


def test_runs_of_two_budgets_tell_a_size():
    N = np.tile(np.geomspace(8e4, 1.7e6, 7), 2)
    D = np.repeat([1e12, 1e13], 7) / 6 / N
    fit = fit_surface(points(N, D, TRUE.loss(N, D)), resamples=50)
    assert fit.determined and fit.law.exponent == pytest.approx(TRUE.exponent, abs=1e-3)


def test_sizes_that_differ_by_less_than_a_percent_are_one():
    runs = grid(sizes=3, budgets=4)
    N = np.where(runs.N.max() == runs.N, runs.N.min() * 1.001, runs.N)
    with pytest.raises(InputError, match=r"N = 80000 and .* fewer than 3 model sizes"):
        fit_surface(points(N, runs.D, TRUE.loss(N, runs.D)))
    two = runs.select(np.isin(runs.D, np.unique(runs.D)[:3]))
    D = np.where(two.D.max() == two.D, two.D.min() * 1.002, two.D)
    with pytest.raises(InputError, match="fewer than 3 numbers of tokens"):
        fit_surface(points(two.N, D, TRUE.loss(two.N, D)))


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("N>1e6", "1.00 times the compute of any run fitted, but up to 2.15 times the size"),
        ("N<1e5", "but down to 0.466 times the least size"),
        ("seed==1", "1.00 times the compute of any run fitted, so that nothing was extrapolated"),
    ],
)
def test_a_hold_out_says_what_was_extrapolated(rule, words):
    """Runs of equal budgets left out by their size: no compute is extrapolated, but sizes are."""
    sizes = np.geomspace(8e4, 1.7e6, 5)
    N, D = (x.ravel() for x in (np.tile(sizes, 8), np.repeat(np.geomspace(1e12, 1e14, 4), 10)))
    runs = points(N, D / 6 / N, TRUE.loss(N, D / 6 / N) * np.exp(0.002 * np.random.default_rng(0).standard_normal(40)))
    for i, row in enumerate(runs.rows):
        row["seed"] = str(i // 5 % 2)
    held = hold_out(runs, rule, resamples=50)
    assert held.factor == pytest.approx(1)
    assert words in held_out(summarize(fit_surface(runs, resamples=20), held))


def test_hold_out_rules():
    runs = grid(sizes=3, budgets=3)
    held, notes = try_hold_out(runs.select(np.arange(9) < 6), "largest")
    assert held is None and "5 runs cannot fit" in notes[0]
    one = points(runs.N, 1e12 / 6 / runs.N, runs.loss)
    held, notes = try_hold_out(one, "largest")
    assert held is None and "all 9 runs have the greatest compute, within 5%" in notes[0]
    held, notes = try_hold_out(runs, "none")
    assert held is None and "No run was held out" in notes[0]
    with pytest.raises(InputError, match="leaves out 0 of 20"):
        hold_out(grid(), "N>1e12")
