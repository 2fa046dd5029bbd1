"""The least loss between values that were tried, against a search of the whole curve."""

import math

import numpy as np
import pytest

from llama_scale.scaling.fitting.minimum import far_sides, find_minimum


@pytest.mark.parametrize("best", [-0.49, -0.2, 0.0, 0.2, 0.5])
@pytest.mark.parametrize("points", [[-1, 0, 1], [-1, 0, 1.5], [-3, -2, -1, 0, 1, 2]])
def test_of_a_parabola_it_is_the_vertex(points, best):
    x = np.array(points, dtype=float)
    found = find_minimum(x - 7, 3 + 0.02 * (x - best) ** 2)
    assert (found.x, found.loss, found.bend) == pytest.approx((best - 7, 3, 0.02), abs=1e-9)
    assert found.loss_at(-7) == pytest.approx(3 + 0.02 * best**2)


# Held-out bits per byte at rates a factor 3 apart, of which the largest diverged (a run of docs/LOG.md).
DIVERGED = np.array([2.245101, 2.218425, 2.201823, 3.418119])


@pytest.mark.parametrize("worst", [DIVERGED[-1], 20.0, math.inf, math.nan])
@pytest.mark.parametrize("turned", [False, True])
def test_one_that_diverged_does_not_bend_it(worst, turned):
    """The slope is still down at the best one: nothing says that the minimum is before it."""
    x, loss = np.arange(4.0), np.append(DIVERGED[:3], worst)
    found = find_minimum(-x[::-1], loss[::-1]) if turned else find_minimum(x, loss)
    assert found.x == (-2 if turned else 2)
    assert found.loss == DIVERGED[2] and found.bend > 0


def curve(x, best, edge):
    """A parabola in x that grows 300 times as steep from ``edge`` on."""
    return 2 + 0.015 * (x - best) ** 2 + 4.5 * np.maximum(x - edge, 0) ** 2


@pytest.mark.parametrize("best", [-0.45, -0.2, 0.0, 0.2])
def test_it_is_where_the_whole_curve_is_least(best):
    dense = np.linspace(-3, 1, 40_001)
    least = dense[curve(dense, best, 0.4).argmin()]
    tried = np.array([-2.0, -1.0, 0.0, 1.0])
    found = find_minimum(tried, curve(tried, best, 0.4))
    assert found.x == pytest.approx(min(least, 0.0), abs=1e-3)  # nothing was tried between 0 and the steep part


def test_two_that_diverged_leave_the_one_between_them():
    loss = np.array([math.inf, 2.0, math.nan])
    assert far_sides(np.arange(3.0), loss, 1) == [-1, 1]
    found = find_minimum(np.arange(3.0), loss)
    assert (found.x, found.loss, found.bend) == (1, 2, 0)


def test_a_narrow_parabola_is_no_divergence():
    loss = np.array([2.9, 2.0, 2.5])
    assert far_sides(np.arange(3.0), loss, 1) == []
    assert find_minimum(np.arange(3.0), loss).x == pytest.approx(1 + 0.4 / 2 / 1.4)


def test_equal_ones_have_it_between_them():
    assert find_minimum(np.arange(3.0), np.array([2.0, 2.0, 2.1])).x == pytest.approx(0.5)
    assert find_minimum(np.arange(3.0), np.array([2.1, 2.0, 2.0])).x == pytest.approx(1.5)
    flat = find_minimum(np.arange(3.0), np.full(3, 2.0))
    assert (flat.x, flat.bend) == (1, 0)
