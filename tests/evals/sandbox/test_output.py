"""Outputs beside the expected ones."""

import numpy as np
import pytest

from evals.sandbox.output import as_text, same_output

WORDS = [
    "1",
    "1.0",
    "1.000001",
    "1.1",
    "-1",
    "0",
    "-0.0",
    "1e-9",
    "inf",
    "INF",
    "-inf",
    "Infinity",
    "nan",
    "1e300",
    "x",
]


@pytest.mark.parametrize("expected", WORDS)
def test_numbers_are_near_as_numpy_has_it(expected):
    def near(word):
        try:
            return np.allclose(float(word), float(expected))
        except ValueError:
            return False

    assert {w for w in WORDS if same_output(w, expected, "legacy")} == {w for w in WORDS if near(w) or w == expected}


@pytest.mark.parametrize("expected", ["inf", "INF", "-Infinity", "nan", "7" * 5000, "1e400"])
def test_no_number_is_near_what_has_no_bounds(expected):
    for output in ("0", "1e308", "5", "8" * 5000, "-1e400", "2e400"):
        assert not same_output(output, expected, "legacy")
    assert same_output(expected, expected, "legacy")


def test_integers_of_any_length_are_text():
    assert as_text([10**5000, -(10**30), 0, "a", [1.5, None]]) == f"1{'0' * 5000}\n-1{'0' * 30}\n0\na\n1.5\nNone"
