"""Comparisons of arms: against published numbers, closed forms and how often a simulated truth is covered."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from llama_scale.comparison import (
    best_set,
    bootstrap_means,
    detectable_gap,
    difference,
    exact_interval,
    holm,
    kendall_tau,
    mcnemar,
    paired_tasks_needed,
    run_width,
)
from llama_scale.errors import InputError


def simulated(rng, mean, runs, tasks, *, of_run, of_task, noise=0.05):
    """Scores (runs, tasks) whose runs differ by ``of_run``; ``of_task`` (tasks,) is shared by all arms."""
    return mean + of_run * rng.normal(size=(runs, 1)) + of_task + noise * rng.normal(size=(runs, tasks))


def test_one_run_is_the_paired_bootstrap_over_tasks():
    rng = np.random.default_rng(0)
    control, arm = rng.normal(size=(2, 1, 400))
    arm = arm * 0.5 - 0.1
    found = difference(control, arm, paired_runs=True)
    gaps = (arm - control)[0]
    expected = stats.ttest_rel(arm[0], control[0])
    assert found.mean == pytest.approx(gaps.mean())
    assert found.error == pytest.approx(gaps.std(ddof=1) / 20, rel=0.05)
    interval = expected.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), abs=0.02)
    assert found.p == pytest.approx(expected.pvalue, abs=0.02)
    assert found.detectable == pytest.approx((1.959964 + 0.841621) * found.error, rel=1e-5)


def test_resample_by_hand():
    scores = np.array([[1.0, 2.0, 4.0], [0.0, 5.0, 3.0]])
    runs, tasks = np.array([2, 0]), np.array([0, 1, 2])  # the first run twice; tasks 1, 2 and 2
    by_hand = np.mean([scores[r, t] for r, t in itertools.product([0, 0], [1, 2, 2])])
    assert ((tasks @ scores.T) * runs).sum() / 6 == pytest.approx(by_hand)  # the algebra of bootstrap_means
    means = bootstrap_means([scores, scores], paired_runs=True, seed=3)
    assert np.array_equal(means[:, 0], means[:, 1])  # the same tasks and runs for both
    apart = bootstrap_means([scores, scores], paired_runs=False, seed=3)
    assert not np.array_equal(apart[:, 0], apart[:, 1])


@pytest.mark.parametrize(("runs", "paired"), [(3, True), (3, False), (5, True)])
def test_interval_covers_the_truth_although_runs_are_few(runs, paired):
    rng = np.random.default_rng(runs + paired)
    covered, trials, truth = 0, 300, -0.03
    for trial in range(trials):
        of_task = 0.3 * rng.normal(size=60)
        control = simulated(rng, 1.0, runs, 60, of_run=0.04, of_task=of_task)
        arm = simulated(rng, 1.0 + truth, runs, 60, of_run=0.04, of_task=of_task)
        found = difference(control, arm, paired, seed=trial)
        covered += found.low <= truth <= found.high
    assert 0.92 <= covered / trials <= 0.995  # tasks alone would cover the truth in a third of them


def test_tasks_alone_would_not_cover():
    rng = np.random.default_rng(4)
    covered = 0
    for trial in range(200):
        control, arm = (simulated(rng, 1.0, 3, 60, of_run=0.04, of_task=0.0) for _ in range(2))
        pooled = difference(control.mean(0, keepdims=True), arm.mean(0, keepdims=True), True, seed=trial)
        covered += pooled.low <= 0 <= pooled.high
    assert covered / 200 < 0.6


def test_width_of_few_runs():
    assert run_width(1) == 1
    assert run_width(3) == pytest.approx(math.sqrt(3 / 2) * 4.302653 / 1.959964, rel=1e-6)
    assert run_width(1_000) == pytest.approx(1, abs=0.003)


def test_holm_of_a_textbook():
    # The example of Holm's procedure with p = .01, .04, .03, .005.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.5]) == [1.0, 1.0]
    assert holm([]) == []


def test_mcnemar_is_the_binomial_test():
    first = [True] * 2 + [False] * 5 + [True] * 40 + [False] * 16
    second = [False] * 2 + [True] * 5 + [True] * 40 + [False] * 16
    found = mcnemar(first, second)
    assert (found.gained, found.lost) == (5, 2)
    assert found.p == pytest.approx(stats.binomtest(2, 7, 0.5).pvalue) == pytest.approx(0.453125)
    assert mcnemar([True, False], [True, False]) == (0, 0, 1.0)
    with pytest.raises(InputError, match="2 tasks beside 1"):
        mcnemar([True, False], [True])


def test_tasks_that_a_gap_of_pass_rates_needs():
    assert math.ceil(paired_tasks_needed(0.05, 0.2)) == 626
    gap = detectable_gap(626, 0.2)
    assert gap == pytest.approx(0.05, abs=1e-4)
    assert detectable_gap(3, 0.2) is None  # not even if all discordant tasks were one arm's
    with pytest.raises(InputError, match=r"a gap of 0\.3 at a discordance of 0\.2"):
        paired_tasks_needed(0.3, 0.2)


def test_power_of_the_detectable_gap():
    rng = np.random.default_rng(1)
    tasks, discordance = 400, 0.2
    gap = detectable_gap(tasks, discordance)
    only_second = (discordance + gap) / 2
    found = 0
    for _ in range(500):
        draw = rng.random(tasks)
        gained, lost = draw < only_second, (draw >= only_second) & (draw < discordance)
        found += mcnemar(lost, gained).p < 0.05
    assert 0.72 <= found / 500 <= 0.86  # the exact test is a little below 80 %


def test_best_set_holds_the_best_and_drops_what_is_worse():
    rng = np.random.default_rng(2)
    kept, size = 0, 0
    for trial in range(150):
        of_task = 0.3 * rng.normal(size=80)
        means = {"a": 0.5, "b": 0.502, "c": 0.504, "far": 0.8}
        arms = {
            name: simulated(rng, mean, 5, 80, of_run=0.005, of_task=of_task, noise=0.1) for name, mean in means.items()
        }
        chosen = best_set(arms, lower_is_better=True, paired_runs=False, seed=trial)
        assert "far" not in chosen
        kept, size = kept + ("a" in chosen), size + len(chosen)
    assert kept / 150 >= 0.93
    assert size / 150 > 2  # three arms as near as these cannot be told apart
    higher = best_set(
        {name: -scores for name, scores in arms.items()}, lower_is_better=False, paired_runs=False, seed=149
    )
    assert list(higher) == list(chosen)


def test_arms_that_are_apart_leave_one():
    scores = np.random.default_rng(0).normal(size=(3, 50)) * 0.01
    arms = {"high": scores + 1, "low": scores, "middle": scores + 0.5}
    assert best_set(arms, lower_is_better=True, paired_runs=True) == {"low": 1.0}
    same = best_set({"x": scores, "y": scores.copy()}, lower_is_better=True, paired_runs=True)
    assert set(same) == {"x", "y"}


def test_scores_that_do_not_fit():
    scores = np.ones((2, 5))
    with pytest.raises(InputError, match="arm: 4 tasks beside 5 of control"):
        difference(scores, scores[:, :4], True)
    with pytest.raises(InputError, match="arm: 1 runs beside 2 of control; they are not paired"):
        difference(scores, scores[:1], True)
    with pytest.raises(InputError, match="arm: a score is not finite"):
        difference(scores, scores * np.nan, False)
    with pytest.raises(InputError, match=r"arm: scores should be runs x tasks, found the shape \(5,\)"):
        difference(scores, scores[0], False)


def test_exact_interval_is_that_of_clopper_and_pearson():
    for successes, trials in [(0, 164), (1, 164), (40, 164), (164, 164), (0, 1)]:
        expected = stats.binomtest(successes, trials).proportion_ci(0.95, "exact")
        assert exact_interval(successes, trials) == pytest.approx((expected.low, expected.high))
    assert exact_interval(0, 164)[1] == pytest.approx(1 - 0.025 ** (1 / 164))


def test_tau_is_scipys_with_an_interval():
    rng = np.random.default_rng(0)
    skill = np.arange(6)[:, None]
    first, second = skill + rng.normal(size=(6, 40)), skill + rng.normal(size=(6, 40))
    tau, low, high = kendall_tau(first, second)
    assert tau == pytest.approx(stats.kendalltau(first.mean(1), second.mean(1)).statistic)
    assert 0 < low <= tau <= high
    ties = np.array([0.0, 1.0, 1.0, 2.0, 2.0, 2.0])[:, None] + np.zeros((6, 40))
    assert kendall_tau(ties, second)[0] == pytest.approx(stats.kendalltau(ties.mean(1), second.mean(1)).statistic)


def test_tau_of_no_order_or_two_arms_is_none():
    rng = np.random.default_rng(0)
    assert kendall_tau(rng.normal(size=(2, 9)), rng.normal(size=(2, 9))) is None
    assert kendall_tau(np.ones((5, 9)), rng.normal(size=(5, 9))) is None
