"""Validation packages: whole, near the target, several, and no copies of training packages."""

import random

import pytest

from data_tools.corpus.split import MAX_SHARED_LINES, choose_validation_packages
from llama_scale.errors import InputError


def zipf(n, seed=0):
    order = list(range(n))
    random.Random(seed).shuffle(order)
    return {f"package{i}": 40_000_000 // (order[i] + 1) ** 2 + 1000 for i in range(n)}


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("share", [0.02, 0.05, 0.1])
def test_bytes_land_near_the_target(seed, share):
    sizes = zipf(100)
    chosen = choose_validation_packages(sizes, dict.fromkeys(sizes, 0.0), share, seed)
    target = share * sum(sizes.values())
    total = sum(sizes[name] for name in chosen)
    assert 0.8 * target < total <= target
    assert len(chosen) >= 4
    assert max(sizes[name] for name in chosen) <= target / 4


def test_choice_follows_the_seed_and_not_the_order():
    sizes = zipf(100)
    shared = dict.fromkeys(sizes, 0.0)
    first = choose_validation_packages(sizes, shared, 0.05, 1)
    assert choose_validation_packages(dict(reversed(sizes.items())), shared, 0.05, 1) == first
    assert choose_validation_packages(sizes, shared, 0.05, 2) != first


def test_copies_are_passed_over():
    sizes = dict.fromkeys("abcdefghijklmnopqrstuvwxyz", 1000)
    shared = {name: MAX_SHARED_LINES + 0.01 if name in "aeiou" else MAX_SHARED_LINES for name in sizes}
    chosen = choose_validation_packages(sizes, shared, 0.9, 0)
    assert not chosen & set("aeiou")
    assert len(chosen) == 21


def test_few_packages():
    assert choose_validation_packages({"a": 100, "b": 10, "c": 10}, dict.fromkeys("abc", 1.0), 0.1, 0) == {"b"}
    with pytest.raises(InputError, match="source code in 1, but validation by package needs two"):
        choose_validation_packages({"a": 100}, {"a": 0.0}, 0.1, 0)
    with pytest.raises(InputError, match="source code in 0"):
        choose_validation_packages({}, {}, 0.1, 0)
