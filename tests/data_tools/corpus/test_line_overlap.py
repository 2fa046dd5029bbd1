"""Shared lines by whole arrays equal a count by sets."""

import numpy as np
import pytest

from data_tools.corpus.line_overlap import count_shared_lines, line_hashes


def test_shared_lines_equal_brute_force():
    rng = np.random.default_rng(0)
    owners = rng.integers(0, 7, 3000)
    hashes = rng.integers(0, 2**32, 600, dtype=np.uint32)[rng.integers(0, 600, 3000)]
    hashes[:2] = 0, 2**32 - 1
    lines = [{int(h) for h, o in zip(hashes, owners, strict=True) if o == p} for p in range(8)]
    expected = [
        sum(any(h in lines[q] for q in range(8) if q != p) for h in lines[p]) / max(1, len(lines[p])) for p in range(8)
    ]
    shared, count = count_shared_lines(owners, hashes, 8)
    assert shared / np.maximum(count, 1) == pytest.approx(expected)
    assert not count_shared_lines(np.empty(0, np.int64), np.empty(0, np.uint32), 2).any()


def test_line_hashes_look_past_indentation_and_short_lines():
    long = b"value = some_function(argument)"
    assert len(long) >= 30
    hashes = line_hashes(b"    " + long + b"\r\nx = 1\n" + long + b"\n" + b" " * 40)
    assert hashes.dtype == np.uint32
    assert len(hashes) == 2
    assert hashes[0] == hashes[1]
    assert line_hashes(b"").shape == (0,)
