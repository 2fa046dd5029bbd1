from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.optimize import brentq, minimize, minimize_scalar

from llama_scale.bootstrap import percentile_interval
from llama_scale.errors import InputError
from llama_scale.scaling.fitting.chinchilla import Flops, Surface
from llama_scale.scaling.fitting.fit import DELTA, fit_surface, objective
from llama_scale.scaling.fitting.fitted_laws import RepeatedTokens
from llama_scale.scaling.fitting.points import read_points, read_rows
from llama_scale.scaling.fitting.profile import objective_limit, profiles
from llama_scale.scaling.fitting.results import approaches, conventions, summarize
from llama_scale.scaling.fitting.results.downstream import WORSENS, fit_links, inverse_transform, thresholds, transform
from llama_scale.scaling.fitting.results.repeats import effective_tokens, fit_repeats
from llama_scale.scaling.fitting.sweep import fit_sweep
from llama_scale.scaling.report import tables
from llama_scale.training.recipe import LAW_D, ladder_width, lr_cap
from tests.llama_scale.scaling.helpers import SHARED, TRUE, grid, points


def isoflop_points(noise=0.0005, seed=0):
    """Return 4 budgets of 7 sizes around the optimum of the true law."""
    N, D = [], []
    for C in (1e12, 1e13, 1e14, 1e15):
        best, _ = TRUE.optimum(np.array([C]), Flops("6ND"))
        sizes = best[0] * np.geomspace(0.3, 3.3, 7)
        N.append(sizes)
        D.append(C / 6 / sizes)
    N, D = np.concatenate(N), np.concatenate(D)
    scatter = np.random.default_rng(seed).standard_normal(len(N))
    return points(N, D, TRUE.loss(N, D) * np.exp(noise * scatter))


def with_columns(runs, **columns):
    for i, row in enumerate(runs.rows):
        row |= {name: repr(float(values[i])) for name, values in columns.items()}
    return runs


def test_all_approaches_find_the_true_exponent():
    fit = fit_surface(isoflop_points(), resamples=200)
    found = conventions.compare_approaches(fit)
    rows = {row.approach[0]: row for row in found.table}
    assert [len(found.isoflop), rows["2"].count, rows["1"].count] == [4, 4, 4]
    for approach, tolerance in (("1", 0.06), ("2", 0.01), ("3", 0.01)):
        exponent = rows[approach].exponent
        assert exponent.value == pytest.approx(TRUE.exponent, abs=tolerance)
        assert exponent.low <= exponent.value <= exponent.high
        assert rows[approach].exponent_D.value == pytest.approx(1 - exponent.value)
    for group in found.isoflop:
        best, data = TRUE.optimum(np.array([group.C]), Flops("6ND"))
        assert pytest.approx(best[0], rel=0.08) == group.N
        assert pytest.approx(data[0], rel=0.08) == group.D


def test_no_parabola_without_a_minimum_inside():
    runs = isoflop_points(noise=0)
    best, _ = TRUE.optimum(6 * runs.N * runs.D, Flops("6ND"))
    small = runs.select(0.95 * best > runs.N)
    parabolas = approaches.isoflop_parabolas(small, 6 * small.N * small.D)
    assert not parabolas or not any(p.inside for p in parabolas)
    assert approaches.isoflop_law(small, 6 * small.N * small.D, parabolas) is None


def test_runs_far_from_the_minimum_do_not_move_it():
    """Sizes of 1e7 to 1e10 at each budget: through all of them the exponent .706 comes out as .764."""
    law = Surface(1.8, 100, 0.30, 1e6, 0.72)
    N, C = (x.ravel() for x in np.meshgrid(np.geomspace(1e7, 1e10, 16), np.geomspace(3e18, 3e20, 5)))
    runs = points(N, C / 6 / N, law.loss(N, C / 6 / N))
    parabolas = approaches.isoflop_parabolas(runs, C)
    assert all(p.inside and len(p.rows) < 10 for p in parabolas)
    for parabola in parabolas:
        best = law.optimum(np.array([parabola.C]), Flops("6ND"))[0][0]
        assert pytest.approx(best, rel=0.1) == parabola.N
    found = approaches.isoflop_law(runs, C, parabolas, resamples=50)
    assert found.slope == pytest.approx(law.exponent, abs=0.01)
    every = np.ones(16, dtype=bool)
    far = [approaches._parabola(runs, C, g, runs.loss[g], every) for g in approaches.group_by_compute(C)]
    assert abs(np.polyfit(np.log([p.C for p in far]), np.log([p.N for p in far]), 1)[0] - law.exponent) > 0.05


def test_budgets_do_not_chain():
    """Each run lies within 5 % of the one before; a group within 5 % of its least."""
    groups = approaches.group_by_compute(np.array([1.12, 1.0, 1.08, 1.04, 2.0]))
    assert [group.tolist() for group in groups] == [[1, 3], [2, 0], [4]]


def test_parabolas_interval_has_the_spread_of_repeated_studies():
    """Four sizes for three coefficients leave one residual in four: unscaled, half the spread."""
    C, z = np.geomspace(1e15, 1e18, 4), np.array([-1.2, -0.4, 0.4, 1.2])
    N = (1e6 * np.sqrt(C / 1e15)[:, None] * np.exp(z)).ravel()
    C = np.repeat(C, 4)
    rng, slopes, widths = np.random.default_rng(0), [], []
    for i in range(300):
        loss = np.tile(3 + 0.2 * z**2, 4) * np.exp(0.003 * rng.standard_normal(16))
        runs = points(N, C / 6 / N, loss)
        found = approaches.isoflop_law(runs, C, approaches.isoflop_parabolas(runs, C), i, 40 if i < 40 else 0)
        slopes.append(found.slope)
        widths += [found.sample.std()] if i < 40 else []
    assert np.mean(slopes) == pytest.approx(0.5, abs=0.01)
    assert np.sqrt(np.mean(np.square(widths))) == pytest.approx(np.std(slopes), rel=0.2)


def test_front_keeps_the_runs_that_nothing_cheaper_beats():
    x, loss = np.array([4.0, 1, 2, 2, 3]), np.array([1.0, 5, 3, 4, 3.5])
    np.testing.assert_array_equal(approaches.pareto_front(x, loss), [1, 2, 0])


def test_power_laws_of_one_quantity():
    N, D = (x.ravel() for x in np.meshgrid(np.geomspace(1e5, 1e8, 6), np.geomspace(1e6, 1e9, 6)))
    runs = points(N, D, 30 * N**-0.076 * D**-0.05)
    fit = fit_surface(runs, resamples=100)
    rows = {row.x: row for row in conventions.power_laws(fit)}
    assert rows["N"].alpha.value == pytest.approx(0.076, abs=1e-6)
    assert rows["D"].alpha.value == pytest.approx(0.05, abs=1e-6)
    scale = (30 * D.max() ** -0.05) ** (1 / 0.076)
    assert rows["N"].scale == pytest.approx(scale, rel=1e-4)
    assert rows["N"].r2 == pytest.approx(1)


def test_conventions_stand_side_by_side():
    runs = grid(noise=0.002)
    embedding = 2_000 * runs.N**0.33
    exact = 6.3 * runs.D * (runs.N + embedding)
    columns = {"N": runs.N, "n_params": runs.N + embedding, "n_params_matmul": runs.N + embedding}
    runs = with_columns(runs, **columns, flops=exact, flops_full=1.1 * exact)
    runs.columns["flops"] = "flops"
    object.__setattr__(runs, "flops", exact)
    rows = conventions.fit_each_convention(fit_surface(runs, resamples=200))
    assert [(row.N, row.compute) for row in rows] == [
        (N, compute)
        for N in ("non-embedding", "total")
        for compute in ("6ND", "exact, causal attention", "exact, full attention")
    ]
    a = {(row.N, row.compute): row.exponent.value for row in rows}
    total, plain = a["total", "6ND"], a["non-embedding", "6ND"]
    assert abs(total - plain) > 0.02
    # With N = total, the exact count of these points is 6.3ND: the exponents agree.
    assert total == pytest.approx(a["total", "exact, causal attention"], abs=1e-3)


def test_profile_is_the_objective_fitted_again():
    runs = grid()
    fit = fit_surface(runs, resamples=200)
    found = profiles(fit)["alpha"]
    assert found.low < fit.law.alpha < found.high
    rise = objective_limit(fit.residual, 5)

    def least(alpha):
        def value(t):
            law = Surface(np.exp(t[0]), np.exp(t[1]), alpha, np.exp(t[2]), t[3])
            return objective(law, runs) / DELTA**2

        law = fit.law
        start = np.array([np.log(law.E), np.log(law.A), np.log(law.B), law.beta])
        options = {"maxfev": 20_000, "maxiter": 20_000, "xatol": 1e-8, "fatol": 1e-8}
        start[1] += (alpha - law.alpha) * np.log(runs.N).mean()
        for _ in range(3):
            found = minimize(value, start, method="Nelder-Mead", options=options)
            start = found.x
        return found.fun * DELTA**2

    for end in (found.low, found.high):
        assert least(end) - fit.objective == pytest.approx(rise, rel=0.05)


def test_profile_limit_is_that_of_least_squares_where_huber_is_quadratic():
    residual = np.random.default_rng(0).normal(scale=1e-4, size=4_000)
    assert objective_limit(residual, 5) == pytest.approx(1.96**2 * residual.var() / 2, rel=0.01)


def test_profile_limit_of_few_runs_is_that_of_the_linear_model():
    """All residuals within delta: half of s^2 t^2, s^2 = RSS / (n - k), t of n - k degrees."""
    residual = 1e-5 * np.array([3.0, -1, 2, -4, 1, -2, 4, -3, 0.5])
    expected = (residual @ residual) / (9 - 5) * 2.776445**2 / 2
    assert objective_limit(residual, 5) == pytest.approx(expected, rel=1e-6)


def test_profile_is_found_where_the_way_from_the_optimum_leads_astray():
    """At this A, Newton from the optimum of all parameters ends 300 times too high."""
    runs = grid(noise=0.02, seed=3)
    fit = fit_surface(runs, resamples=100, starts=16)
    found = profiles(fit)["A"]
    i = int(np.abs(np.log(found.value) - 19.19).argmin())
    rng, least = np.random.default_rng(0), np.inf

    def value(t):
        law = Surface(np.exp(t[0]), found.value[i], t[1], np.exp(t[2]), t[3])
        return objective(law, runs) / DELTA**2

    for _ in range(12):
        alpha, beta = rng.uniform(0.3, 2.5, 2)
        start = [rng.uniform(-1, 1), alpha, beta * np.log(runs.D).mean(), beta]
        options = {"maxfev": 4_000, "maxiter": 4_000, "xatol": 1e-7, "fatol": 1e-7}
        least = min(least, minimize(value, start, method="Nelder-Mead", options=options).fun)
    reached = found.excess[i] * objective_limit(fit.residual, 5) + fit.objective
    assert reached <= least * DELTA**2 * 1.01


def test_flat_profile_is_open():
    fit = fit_surface(grid(law=Surface(1e-6, 60.0, 0.30, 400.0, 0.42)), resamples=200)
    assert profiles(fit)["E"].low is None


def repeated(R, noise=0.002, most=40.0):
    N, unique, epochs = (
        x.ravel() for x in np.meshgrid(np.geomspace(1e5, 3e6, 5), [1e6, 1e7], np.geomspace(1, most, 4))
    )
    scatter = np.random.default_rng(1).standard_normal(len(N))
    loss = TRUE.loss(N, effective_tokens(unique * epochs, epochs, R)) * np.exp(noise * scatter)
    return with_columns(points(N, unique * epochs, loss), epochs=epochs)


def test_worth_of_repeats():
    assert effective_tokens(np.array([1e9]), np.array([1.0]), 15.4) == pytest.approx(1e9)
    assert effective_tokens(np.array([2e9]), np.array([2.0]), 1e9) == pytest.approx(2e9)
    assert effective_tokens(np.array([1e15]), np.array([1e6]), 15.4) == pytest.approx(1e9 * 16.4)


def test_repeats_are_recovered_or_called_unidentified():
    found = fit_repeats(fit_surface(repeated(15.4), resamples=100))
    assert found.identified
    assert found.low < 15.4 < found.high
    assert found.parameters["alpha"] == pytest.approx(TRUE.alpha, abs=0.03)
    assert found.bootstrap.low < 15.4 < found.bootstrap.high < 1.2 * found.bootstrap.low
    fresh = fit_repeats(fit_surface(repeated(1e6, most=3.0), resamples=100))
    assert not fresh.identified and fresh.bootstrap.high is None
    with pytest.raises(InputError, match="epochs does not vary"):
        fit_repeats(fit_surface(grid(), resamples=100))


def test_a_law_that_takes_repeats_for_fresh_says_what_they_move():
    """R known to a tenth, and an objective a tenth as large: the law beside it, of all tokens, is another."""
    fit = fit_surface(repeated(15.4), resamples=20)
    counted = {"E": 1.1, "A": 60.0, "alpha": 0.3, "B": 400.0, "beta": 0.42}
    found = RepeatedTokens("", 15.4, 15.0, 15.8, True, counted, fit.objective / 10)
    (said,) = summarize._repeats_matter(fit, found)
    assert f"beta from {fit.law.beta:.3g} to 0.42" in said and "take them for fresh" in said
    assert summarize._repeats_matter(fit, replace(found, objective=0.95 * fit.objective)) == []


def test_flops_that_follow_no_function_of_size_are_named():
    runs = grid()
    scatter = np.exp(0.4 * np.random.default_rng(0).standard_normal(20))
    for spread, said in ((scatter, True), (scatter**0.2, False)):
        counted = replace(runs, flops=6 * runs.N * runs.D * spread, columns=runs.columns | {"flops": "flops"})
        warnings = summarize.summarize(fit_surface(counted, resamples=20, starts=9), None).warnings
        assert any("FLOPs of column 'flops' follow no function of N" in text for text in warnings) == said


def test_counts_and_errors_beside_a_rate_are_no_scores():
    beside = {f"pass_at_1_{name}": np.full(20, 0.2) for name in ("low", "high", "se", "stderr", "n", "count")}
    runs = with_columns(
        grid(), pass_at_1=np.linspace(0.1, 0.3, 20), pass_at_1_greedy=np.linspace(0.1, 0.3, 20), **beside
    )
    rows, _ = thresholds(fit_surface(runs, resamples=20, starts=9), Flops("6ND"))
    assert {row.score for row in rows} == {"loss", "pass_at_1", "pass_at_1_greedy"}


def test_an_interval_of_half_the_resamples_is_none():
    """Three parabolas whose minima are lost in half of the noisy studies: nothing is settled by the other half."""
    runs = isoflop_points(noise=0.02, seed=3)
    three = runs.select(np.arange(28) < 21)
    found = approaches.isoflop_parabolas(three, 6 * three.N * three.D)
    law = approaches.isoflop_law(three, 6 * three.N * three.D, found)
    assert 0.3 < law.lost < 0.9 and not law.settled
    quiet = isoflop_points(noise=0.001)
    steady = approaches.isoflop_law(
        quiet, 6 * quiet.N * quiet.D, approaches.isoflop_parabolas(quiet, 6 * quiet.N * quiet.D)
    )
    assert steady.settled and steady.lost == 0


def test_a_profile_with_ends_is_not_enough_for_repeats():
    """Four epochs at 1 % noise: the profile ends at [5.7, 18], resamples of the same runs reach 164."""
    runs = repeated(15.4, noise=0.01, most=4.0)
    fit = fit_surface(runs, resamples=100)
    found = fit_repeats(fit)
    assert found.low and found.high < 20
    assert not found.identified and found.bootstrap.high > 50

    # The best R lies between the points of the first grid: an objective of SciPy's search over R is no lower.
    def least(log_R):
        changed = replace(runs, D=effective_tokens(runs.D, runs.numeric("epochs"), float(np.exp(log_R))))
        return fit_surface(changed, resamples=1, starts=16).objective

    search = minimize_scalar(least, bounds=(np.log(6), np.log(12)), method="bounded", options={"xatol": 1e-3})
    assert pytest.approx(np.exp(search.x), rel=0.02) == found.R
    assert found.objective <= search.fun * (1 + 1e-4)


@pytest.mark.parametrize("name", ["logit", "log(-log p)", "power"])
def test_link_that_made_the_scores_is_chosen(name):
    loss = np.linspace(1.0, 2.0, 16)
    x = np.log(loss) if name == "power" else loss
    b = -5.0 if name == "power" else -3.0
    score = inverse_transform(name, (-0.5 if name == "power" else 2.0) + b * x)
    np.testing.assert_allclose(inverse_transform(name, transform(name, score)), score)
    runs = with_columns(points(loss * 1e6, loss * 1e8, loss), pass_at_1=score)
    best, *_ = fit_links(runs, "pass_at_1")[0]
    assert best.name == name
    assert (best.b, best.r2) == (pytest.approx(b), pytest.approx(1))
    assert best.held_out_error < 1e-9
    assert best.loss(score[3]) == pytest.approx(loss[3])
    assert best.score(loss[3]) == pytest.approx(score[3])


def test_public_scores_have_the_published_links(tmp_path):
    path = SHARED / "bigcode_stack" / "humaneval_py_pass_partial.csv"
    if not path.is_file():
        pytest.skip(f"{path} is not here")
    columns = {"N": "n_params_M", "D": "tokens", "loss": "python_val_loss"}
    with pytest.raises(InputError, match=r"is N counted in thousands, millions"):
        read_points(path, columns)
    rows, header = read_rows(path)
    lines = [[repr(1e6 * float(v)) if k == "n_params_M" else v for k, v in row.items()] for row in rows]
    (tmp_path / "plain.csv").write_text("\n".join(map(",".join, [header, *lines])) + "\n")
    runs = read_points(tmp_path / "plain.csv", columns)
    logit = next(x for x in fit_links(runs, "pass_at_1_T0.8")[0] if x.name == "logit")
    assert (logit.a, logit.b) == (pytest.approx(3.889, abs=1e-3), pytest.approx(-6.216, abs=1e-3))
    assert logit.r2 >= 0.995
    power = fit_links(runs, "pass_at_100")[0][0]
    assert (power.name, power.b) == ("power", pytest.approx(-4.98, abs=0.01))
    assert power.r2 == pytest.approx(0.973, abs=1e-3)


def test_scores_of_zero_have_no_link_and_say_so():
    runs = with_columns(grid(), pass_at_1=np.zeros(20))
    links, reason = fit_links(runs, "pass_at_1")
    assert links == []
    assert reason == "0 runs score between 0 and 1; a link needs 5"


def test_a_score_that_gets_worse_promises_no_size():
    """A rate that rises with the loss, though it scatters: no larger model is expected to reach a level by it."""
    runs = grid(noise=0.001)
    scatter = np.exp(0.01 * np.random.default_rng(0).standard_normal(20))
    worse = {"pass_at_1": 0.002 * runs.loss * scatter, "bits_per_byte": (9 - runs.loss) * scatter}
    rows, links = thresholds(fit_surface(with_columns(runs, **worse), resamples=100), Flops("6ND"))
    for column in worse:
        of_column = [row for row in rows if row.score == column]
        assert links[column] and all(row.reason == WORSENS and row.N is None and row.C is None for row in of_column)
    assert all(row.N for row in rows if row.score == "loss")


def test_resampled_links_of_the_wrong_slope_never_reach_a_level():
    """Noise with next to no slope: a part of the resampled lines rises with the loss, and once passed at once."""
    runs = grid(noise=0.001)
    scatter = np.exp(0.4 * np.random.default_rng(3).standard_normal(20))
    rows, links = thresholds(
        fit_surface(with_columns(runs, pass_at_1=0.004 / runs.loss * scatter), resamples=100), Flops("6ND")
    )
    link = links["pass_at_1"][0]
    share = np.mean(link.sample[:, 1] > 0)
    assert link.b < 0 and 0.03 < share < 0.6
    assert np.isnan(link.loss(0.01, sample=True)).mean() == share
    of_score = [row.C for row in rows if row.score == "pass_at_1"]
    assert len(of_score) == 3 and not any(np.isfinite(C.high) or C.at_most for C in of_score)


def test_thresholds_are_where_the_frontier_crosses():
    runs = grid(noise=0.001)
    runs = with_columns(runs, bits_per_byte=runs.loss / 2, x_nontrivial_parse_rate=1.2 - runs.loss / 5)
    fit = fit_surface(runs, resamples=200)
    rows, _ = thresholds(fit, Flops("6ND"))
    bits = [row for row in rows if row.score == "bits_per_byte"]
    C = bits[1].C.value
    N, D = fit.law.optimum(np.array([C]), Flops("6ND"))
    assert fit.law.loss(N, D)[0] / 2 == pytest.approx(bits[1].level, rel=1e-3)
    assert bits[1].C.low < C < bits[1].C.high
    assert bits[1].N.value == pytest.approx(N[0], rel=1e-2)
    floor = bits[1].least_N
    assert fit.law.loss(floor, 1e30) / 2 == pytest.approx(bits[1].level, rel=1e-3)
    reached = runs.N[runs.loss / 2 <= bits[0].level]
    assert bits[0].measured.model_size == reached.min()
    high = next(row for row in rows if row.score == "x_nontrivial_parse_rate" and row.level == 0.9)
    assert high.measured is None
    assert high.status == "not reached" or high.beyond > 1


def test_smallest_and_cheapest_runs_are_told_apart():
    runs = grid()
    small, second = np.unique(runs.N)[:2]
    long = np.isin(runs.N, small) & np.isin(runs.D, runs.D.max())
    short = np.isin(runs.N, second) & np.isin(runs.D, runs.D.min())
    runs = with_columns(runs, x_nontrivial_parse_rate=np.where(long | short, 0.6, 0.1))
    rows, _ = thresholds(fit_surface(runs, resamples=100), Flops("6ND"))
    found = next(row for row in rows if row.score == "x_nontrivial_parse_rate").measured
    assert (found.model_size, found.flops) == (small, 6 * small * runs.D.max())
    assert found.least_flops == 6 * second * runs.D.min() < found.flops


def test_a_level_passed_at_the_least_compute_is_a_bound():
    runs = grid(noise=0.02)
    least = 6 * (runs.N * runs.D).min() / 100

    def frontier(law, C):
        """Return the least loss at a compute by search over the size."""

        def loss(n):
            return law.loss(np.exp(n), C / 6 / np.exp(n))

        return minimize_scalar(loss, bounds=(0, 25), method="bounded").fun

    law = fit_surface(runs, resamples=100).law
    where = {"early": frontier(law, least / 10), "near": frontier(law, 1.2 * least)}
    rates = {  # one half at the named loss, nine tenths far below it
        f"{name}_nontrivial_parse_rate": 1 / (1 + np.exp(runs.loss - loss)) for name, loss in where.items()
    }
    fit = fit_surface(with_columns(runs, **rates), resamples=100)
    rows, _ = thresholds(fit, Flops("6ND"))
    found = {(row.score.split("_")[0], row.level): row for row in rows}
    early, near, later = found["early", 0.5], found["near", 0.5], found["near", 0.9]
    assert early.status == "at or below"
    assert early.C.value == pytest.approx(least)
    assert early.C.at_most[:2] == early.N.at_most[:2] == ["value", "low"]
    assert early.beyond == pytest.approx(least / (6 * (runs.N * runs.D).max()))
    assert near.C.at_most == ["low"] and near.status == ""
    assert near.C.value == pytest.approx(1.2 * least, rel=0.02)
    assert later.C.at_most == []
    C = brentq(lambda c: frontier(fit.law, np.exp(c)) - later.loss, 20, 60)
    assert later.C.value == pytest.approx(np.exp(C), rel=0.02)
    laws = SimpleNamespace(thresholds=[early, near])
    first, second = (row[-1] for row in tables.thresholds(laws).body)
    assert first.startswith("≤ 1.2×10⁹ [≤ 1.2×10⁹, ") and second.count("≤") == 1


def sweep_points(best_lr, rates, noise=0.0):
    rows = []
    for N in (1e7, 1e8, 1e9):
        for D in (1e9, 4e9, 1e10):
            rows += [(N, D, lr, 3 + 0.02 * np.log(lr / best_lr(N, D)) ** 2) for lr in rates(N, D)]
    N, D, lr, loss = np.array(rows).T
    return with_columns(points(N, D, loss), lr=lr)


def law(N, D):
    return 1.79 * N**-0.713 * D**0.307


def test_rate_law_is_recovered_from_a_sweep():
    runs = sweep_points(law, lambda N, D: law(N, D) * np.array([0.3, 0.6, 1.1, 2.5, 4.0]))
    found = fit_sweep(runs)["lr"]
    assert found["identified"]
    assert found["N"]["value"] == pytest.approx(-0.713, abs=1e-6)
    assert found["D"]["value"] == pytest.approx(0.307, abs=1e-6)
    assert found["c"]["value"] == pytest.approx(1.79, rel=1e-4)
    within = [
        row
        for row in found["best"]
        if row["tokens"] >= LAW_D[0] and row["recipe"] < lr_cap(ladder_width(row["model_size"]))
    ]
    assert len(within) == 2
    assert all(abs(row["recipe_excess_percent"]) < 1e-6 for row in within)


@pytest.mark.parametrize(("factors", "side"), [((0.1, 0.3, 0.6), "largest"), ((2, 3, 5), "smallest")])
def test_best_rate_at_the_edge_is_an_error(factors, side):
    runs = sweep_points(law, lambda N, D: law(N, D) * np.array(factors))
    with pytest.raises(InputError, match=f"N = 1e\\+07, D = 1e\\+09: the best lr, .*, is the {side}"):
        fit_sweep(runs)


def test_sweep_of_one_size_identifies_no_exponent_of_size():
    runs = sweep_points(law, lambda N, D: law(N, D) * np.array([0.5, 1, 2]))
    found = fit_sweep(runs.select(runs.N < 2e7))["lr"]
    assert found["N"] is None
    assert found["D"]["value"] == pytest.approx(0.307, abs=1e-6)
    with pytest.raises(InputError, match="a best one needs at least 3"):
        fit_sweep(runs.select(np.arange(len(runs)) % 3 < 2))


def test_interval_of_the_exponent_covers():
    fit = fit_surface(isoflop_points(noise=0.002), resamples=300)
    low, high = percentile_interval(
        conventions.optimal_size_exponent(fit.resampled, Flops("6ND"), np.array([1e12, 1e15]))
    )
    assert low < TRUE.exponent < high


def test_runs_of_one_budget_have_the_exponent_there():
    C = np.full(7, 1e18)
    assert conventions.optimal_size_exponent(TRUE, Flops("6ND"), C) == pytest.approx(TRUE.exponent)
