import numpy as np
import pytest

from llama_scale.bootstrap import percentile_interval, resample_counts, resample_indices


def test_resamples_are_drawn_with_replacement_and_repeat_with_the_seed():
    indices = resample_indices(7, 500, seed=3)
    assert indices.shape == (500, 7) and indices.min() == 0 and indices.max() == 6
    np.testing.assert_array_equal(indices, resample_indices(7, 500, seed=3))
    assert (indices != resample_indices(7, 500, seed=4)).any()
    one_by_one = np.random.default_rng(3)
    np.testing.assert_array_equal(indices[0], one_by_one.integers(7, size=7))
    np.testing.assert_array_equal(indices[1], one_by_one.integers(7, size=7))
    counts = resample_counts(7, 500, seed=3)
    assert (counts.sum(1) == 7).all()
    assert counts.mean(0) == pytest.approx(np.ones(7), abs=0.2)


def test_interval_of_the_mean_is_that_of_the_normal_distribution():
    values = np.random.default_rng(0).standard_normal(400)
    means = values[resample_indices(400, 4_000, seed=0)].mean(1)
    low, high = percentile_interval(means)
    assert (high - low) / 2 == pytest.approx(1.96 * values.std() / 20, rel=0.05)


def test_interval_is_over_the_first_axis_and_may_take_values_of_the_sample():
    sample = np.arange(201.0)[:, None] * [1, 2]
    low, high = percentile_interval(sample)
    np.testing.assert_allclose(low, [5, 10])
    np.testing.assert_allclose(high, [195, 390])
    infinite = np.append(np.arange(20.0), np.inf)
    assert percentile_interval(infinite, method="inverted_cdf") == (0, np.inf)
