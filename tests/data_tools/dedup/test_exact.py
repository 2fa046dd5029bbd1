"""One copy of equal files survives, whatever their order."""

import hashlib
import random
from dataclasses import replace

from data_tools.corpus.records import Record
from data_tools.dedup.exact import exact_survivors


def record(package, path, sha256):
    return Record(package, "1", "MIT", path, hashlib.sha256(sha256.encode()).hexdigest(), 0, 10)


def test_the_original_survives_in_any_order():
    original = record("rich", "rich/text.py", "a")
    records = [
        original,
        record("pip", "pip/_internal/copies/rich/text.py", "a"),
        record("zeta", "rich/text.py", "a"),
        record("alpha", "alpha/x.py", "b"),
        record("alpha", "alpha/y.py", "b"),
        record("beta", "beta/x.py", "c"),
    ]
    expected = {original, records[3], records[5]}
    for seed in range(20):
        random.Random(seed).shuffle(records)
        survivors = [records[i] for i in exact_survivors(records)]
        assert set(survivors) == expected
        assert survivors == [r for r in records if r in expected], "order kept"


def test_survivors_have_every_content_once():
    rng = random.Random(0)
    records = [
        record(f"p{rng.randrange(9)}", f"{'d/' * rng.randrange(4)}{i}.py", str(rng.randrange(80))) for i in range(300)
    ]
    survivors = [records[i] for i in exact_survivors(records)]
    hashes = [r.sha256 for r in survivors]
    assert len(hashes) == len(set(hashes)) == len({r.sha256 for r in records})
    for survivor in survivors:
        same = [r for r in records if r.sha256 == survivor.sha256]
        assert min(r.path.count("/") for r in same) == survivor.path.count("/")
    assert len(exact_survivors([])) == 0


def test_the_survivor_is_the_best_by_one_criterion_after_another():
    """Stars go before forks, forks before folders, folders before names."""
    rng = random.Random(1)
    records = []
    for i in range(400):
        path = f"{'d/' * rng.randrange(3)}{i}.py"
        copy = record(f"p{rng.randrange(5)}", path, str(rng.randrange(20)))
        records.append(replace(copy, stars=rng.randrange(3), forks=rng.randrange(4)))
    survivors = {records[i] for i in exact_survivors(records)}
    for sha256 in {r.sha256 for r in records}:
        left = [r for r in records if r.sha256 == sha256]
        left = [r for r in left if r.stars == max(r.stars for r in left)]
        left = [r for r in left if r.forks == max(r.forks for r in left)]
        left = [r for r in left if r.path.count("/") == min(r.path.count("/") for r in left)]
        left = [r for r in left if r.package == min(r.package for r in left)]
        left = [r for r in left if r.path == min(r.path for r in left)]
        assert {r for r in survivors if r.sha256 == sha256} == set(left)
    assert len(survivors) == 20
