"""The benchmark's own truth, and what it says of removals."""

import pytest

from benchmarks.data import DataBenchmark, listed, quality, run, similar_pairs, table
from data_tools.corpus.collect import collect
from data_tools.sources.document import Document
from llama_scale.errors import InputError


def test_truth_of_a_few_files(tmp_path):
    words = " ".join(f"w{i}" for i in range(104))  # 100 5-grams
    texts = [words, words + " x", words.replace("w50", "y"), "w0 w1", " ".join(words.split()[:80])]
    documents = [Document("p", "1", "MIT", f"{i}.py", t.encode()) for i, t in enumerate(texts)]
    found = collect(listed(documents), tmp_path)
    # 0 and 2 share 95 of 105; 4 is 76 of 100, and 71 of 105 with 2.
    assert similar_pairs(tmp_path, found.records) == {(0, 1), (0, 2), (1, 2), (0, 4), (1, 4)}


def test_quality():
    truth = {(0, 1), (1, 2), (5, 6)}
    assert quality({1}, truth) == {"below_threshold": 0, "recall": 2 / 3}
    assert quality({1, 3, 6}, truth) == {"below_threshold": 1, "recall": 1.0}
    assert quality({5, 6}, truth)["below_threshold"] == 2, "no copy of either stays"


def test_run():
    result = run(DataBenchmark(packages=["python-stdlib"], max_bytes=600_000, peers=[], repeats=1))
    (row,) = result["contenders"]
    assert (row["below_threshold"], row["recall"], row["ratio"]) == (0, 1.0, 1.0)
    assert "llama_scale" in table(result)
    with pytest.raises(InputError, match="unknown 'x'"):
        run(DataBenchmark(peers=["x"]))
