"""Validation packages: whole, near the target, several, and no copies of training packages."""

import random

import numpy as np
import pytest

from data_tools.corpus.split import MAX_SHARED, choose_validation, line_hashes, shared_lines
from llama_scale.errors import InputError


def zipf(n, seed=0):
    order = list(range(n))
    random.Random(seed).shuffle(order)
    return {f"package{i}": 40_000_000 // (order[i] + 1) ** 2 + 1000 for i in range(n)}


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("share", [0.02, 0.05, 0.1])
def test_bytes_land_near_the_target(seed, share):
    sizes = zipf(100)
    chosen = choose_validation(sizes, dict.fromkeys(sizes, 0.0), share, seed)
    target = share * sum(sizes.values())
    total = sum(sizes[name] for name in chosen)
    assert 0.8 * target < total <= target
    assert len(chosen) >= 4
    assert max(sizes[name] for name in chosen) <= target / 4


def test_choice_follows_the_seed_and_not_the_order():
    sizes = zipf(100)
    shared = dict.fromkeys(sizes, 0.0)
    first = choose_validation(sizes, shared, 0.05, 1)
    assert choose_validation(dict(reversed(sizes.items())), shared, 0.05, 1) == first
    assert choose_validation(sizes, shared, 0.05, 2) != first


def test_copies_are_passed_over():
    sizes = dict.fromkeys("abcdefghijklmnopqrstuvwxyz", 1000)
    shared = {name: MAX_SHARED + 0.01 if name in "aeiou" else MAX_SHARED for name in sizes}
    chosen = choose_validation(sizes, shared, 0.9, 0)
    assert not chosen & set("aeiou")
    assert len(chosen) == 21


def test_few_packages():
    assert choose_validation({"a": 100, "b": 10, "c": 10}, dict.fromkeys("abc", 1.0), 0.1, 0) == {
        "b"
    }
    with pytest.raises(InputError, match="source code in 1, but validation by package needs two"):
        choose_validation({"a": 100}, {"a": 0.0}, 0.1, 0)
    with pytest.raises(InputError, match="source code in 0"):
        choose_validation({}, {}, 0.1, 0)


def test_shared_lines_equal_brute_force():
    rng = np.random.default_rng(0)
    owners = rng.integers(0, 7, 3000)
    hashes = rng.integers(0, 2**32, 600, dtype=np.uint32)[rng.integers(0, 600, 3000)]
    hashes[:2] = 0, 2**32 - 1
    lines = [{int(h) for h, o in zip(hashes, owners, strict=True) if o == p} for p in range(8)]
    expected = [
        sum(any(h in lines[q] for q in range(8) if q != p) for h in lines[p])
        / max(1, len(lines[p]))
        for p in range(8)
    ]
    shared, count = shared_lines(owners, hashes, 8)
    assert shared / np.maximum(count, 1) == pytest.approx(expected)
    assert not shared_lines(np.empty(0, np.int64), np.empty(0, np.uint32), 2).any()


def test_line_hashes_look_past_indentation_and_short_lines():
    long = b"value = some_function(argument)"
    assert len(long) >= 30
    hashes = line_hashes(b"    " + long + b"\r\nx = 1\n" + long + b"\n" + b" " * 40)
    assert hashes.dtype == np.uint32
    assert len(hashes) == 2
    assert hashes[0] == hashes[1]
    assert line_hashes(b"").shape == (0,)
