"""Near duplicates against brute force over sets of word 5-grams."""

import random
import re
import sysconfig
from pathlib import Path

import numpy as np
import pytest

from data_tools.corpus.collect import collect
from data_tools.corpus.corpus import read_contents
from data_tools.dedup import near
from data_tools.dedup.exact import survivor_order
from data_tools.dedup.minhash import jaccard, minhash_signature, word_shingles
from data_tools.sources.document import Document

LIBRARY = Path(sysconfig.get_path("stdlib"))


def grams(content: bytes) -> set[tuple[bytes, ...]]:
    words = [word for word in re.split(rb"[^A-Za-z_0-9]", content) if word]
    return {tuple(words[i : i + 5]) for i in range(len(words) - 4)}


def exact(first: set, second: set) -> float:
    return len(first & second) / max(1, len(first | second))


def edited(content: bytes, rate: float, rng: random.Random) -> bytes:
    lines = content.split(b"\n")
    for i in range(len(lines)):
        if rng.random() < rate:
            lines[i] = b"value_%d = other_%d" % (rng.randrange(10**6), rng.randrange(10**6))
    return b"\n".join(lines)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Real files of all sizes, copies of some with 2 to 40 % of their lines changed, and noise."""
    rng = random.Random(1)
    files = sorted(LIBRARY.glob("*.py"))[::3] + sorted((LIBRARY / "encodings").glob("*.py"))[::2]
    texts = [file.read_bytes()[:12_000] for file in files]
    texts += [b"", b"one two three four", b"\xff\x00 not text", b"# \xe2\x96\x81 words " * 9]
    texts += [edited(t, rng.choice([0.02, 0.05, 0.1, 0.2, 0.4]), rng) for t in texts for _ in "ab"]
    texts += [b"a%d b%d c%d d%d e%d f%d g%d" % ((i // 4,) * 6 + (i,)) for i in range(40)]
    documents = [Document(f"p{i % 7}", "1", "MIT", f"{i}.py", t) for i, t in enumerate(texts)]
    return collect(lambda start: documents[start:], tmp_path_factory.mktemp("corpus"))


def test_shingles_are_runs_of_words():
    contents = [b"a = b(c, d1_)\n# e f", b"", b"one two", b"a b c d1_ e f", "é a b c".encode()]
    first, empty, short, same, other = word_shingles(contents, 5)
    assert (first == same).all()
    assert len(first) == 2
    assert len(empty) == len(short) == len(other) == 0
    assert (word_shingles([b"x " * 9], 5)[0] == word_shingles([b"x\n" * 9], 5)[0]).all()


def test_hashes_are_as_distinct_as_the_words(found):
    contents = list(read_contents(found.folder, found.records))
    hashed = {h for row in word_shingles(contents, 5) for h in row.tolist()}
    assert len(hashed) == len(set().union(*map(grams, contents)))


def test_signatures_agree_as_often_as_sets_overlap():
    rng = np.random.default_rng(0)
    for size in (30, 300, 5000):
        shares = []
        for _ in range(40):
            values = rng.integers(0, 2**64, 3 * size, dtype=np.uint64)
            a, b = np.sort(values[: 2 * size]), np.sort(values[size:])
            shares.append((minhash_signature(a, 250) == minhash_signature(b, 250)).mean())
        assert jaccard(a, b) == pytest.approx(1 / 3)
        assert np.mean(shares) == pytest.approx(1 / 3, abs=0.05)


def test_removals_equal_brute_force(found):
    records = found.records
    contents = list(read_contents(found.folder, records))
    sets = [grams(content) for content in contents]
    removed = near.near_duplicates(found.folder, records, map)
    assert len(removed) > 50
    for i, row in removed.items():
        like = row["like"]
        assert like not in removed, "the survivor stays"
        assert row["jaccard"] == pytest.approx(exact(sets[i], sets[like]))
        assert row["jaccard"] >= 0.7
        assert survivor_order(records[like]) < survivor_order(records[i])
    truth = [(i, j) for i in range(len(records)) for j in range(i) if exact(sets[i], sets[j]) >= 0.7]
    missed = [pair for pair in truth if not removed.keys() & set(pair)]
    assert len(truth) > 100
    assert len(missed) <= 0.01 * len(truth)


def test_order_of_records_does_not_matter(found):
    def names(records):
        removed = near.near_duplicates(found.folder, records, map)
        return {(records[i].path, records[row["like"]].path) for i, row in removed.items()}

    assert names(found.records) == names(found.records.take(np.arange(len(found.records))[::-1]))


def test_nothing_to_compare(found):
    assert near.near_duplicates(found.folder, [], map) == {}
    assert near.near_duplicates(found.folder, found.records.take(np.arange(1)), map) == {}
