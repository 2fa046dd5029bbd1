import itertools
import random
from functools import lru_cache

from evals.metrics.alignment import common_length, edit_distance, edit_similarity, rouge_l


def brute_common(a, b):
    """Return the longest text that both have as a subsequence, by trying all of ``a``'s."""

    def within(part):
        rest = iter(b)
        return all(x in rest for x in part)

    return max(len(p) for n in range(len(a) + 1) for p in itertools.combinations(a, n) if within(p))


def brute_distance(a, b):
    @lru_cache(None)
    def least(i, j):
        if not i or not j:
            return i + j
        return min(least(i - 1, j) + 1, least(i, j - 1) + 1, least(i - 1, j - 1) + (a[i - 1] != b[j - 1]))

    return least(len(a), len(b))


def test_equal_brute_force():
    random.seed(1)
    for _ in range(60):
        a, b = ("".join(random.choices("abc", k=random.randint(0, 8))) for _ in range(2))
        assert common_length(a, b) == brute_common(a, b)
        assert edit_distance(a, b) == brute_distance(a, b)


def test_known_values():
    assert edit_distance("kitten", "sitting") == 3
    assert edit_similarity("kitten", "sitting") == 1 - 3 / 7
    assert rouge_l(["police", "killed", "the", "gunman"], ["police", "kill", "the", "gunman"]) == 0.75  # Lin 2004, S2
    assert rouge_l(["a", "+", "b"], ["a", "-", "b"]) == 2 / 3


def test_ends():
    assert rouge_l(["a"], []) == edit_similarity(["a"], []) == 0
    assert rouge_l(["a", "b"], ["a", "b"]) == edit_similarity(["a", "b"], ["a", "b"]) == 1
