"""The benchmark of near duplicates: its own truth, and what it says of removals."""

import pytest

from benchmarks.data import (
    DataBenchmark,
    as_source,
    compare_near_duplicates,
    near_duplicates_table,
    removal_quality,
    similar_pairs,
    table,
)
from data_tools.corpus.collect import collect
from data_tools.sources.document import Document
from llama_scale.errors import InputError


def test_truth_of_a_few_files(tmp_path):
    words = " ".join(f"w{i}" for i in range(104))  # 100 5-grams
    texts = [words, words + " x", words.replace("w50", "y"), "w0 w1", " ".join(words.split()[:80])]
    documents = [Document("p", "1", "MIT", f"{i}.py", t.encode()) for i, t in enumerate(texts)]
    found = collect(as_source(documents), tmp_path)
    # 0 and 2 share 95 of 105; 4 is 76 of 100, and 71 of 105 with 2.
    assert similar_pairs(tmp_path, found.records) == {(0, 1), (0, 2), (1, 2), (0, 4), (1, 4)}


def test_quality():
    truth = {(0, 1), (1, 2), (5, 6)}
    assert removal_quality({1}, truth) == {"below_threshold": 0, "recall": 2 / 3}
    assert removal_quality({1, 3, 6}, truth) == {"below_threshold": 1, "recall": 1.0}
    assert removal_quality({5, 6}, truth)["below_threshold"] == 2, "no copy of either stays"


def test_run():
    settings = {"packages": ["python-stdlib"], "max_bytes": 600_000, "repeats": 1}
    result = compare_near_duplicates(DataBenchmark(**settings, peers=[]))
    (row,) = result["contenders"]
    assert (row["below_threshold"], row["recall"], row["ratio"]) == (0, 1.0, 1.0)
    assert "llama_scale" in near_duplicates_table(result["contenders"])
    with pytest.raises(InputError, match="unknown 'x'"):
        compare_near_duplicates(DataBenchmark(peers=["x"]))


def test_table():
    quality = {"removed": 499, "below_threshold": 0, "recall": 1.0}
    result = {
        "files": 15958, "mb": 260.04, "filters_mb_per_second": 28.0, "similar_pairs": 1720,
        "contenders": [
            {"name": "llama_scale", "mb_per_second": 25.0, "ratio": 1.0, **quality},
            {"name": "datasketch", "mb_per_second": 4.7, "ratio": 5.319, **quality},
        ],
        "loader": {
            "context_length": 2048, "batch": 64,
            "contenders": [{"name": "x", "million_tokens_per_second": 331.4, "ratio": 1.0}],
        },
        "memory": {"8 files": {"collect": 80.2, "shards": 221.0}, "80 files": {"collect": 81.0}},
    }  # fmt: skip
    assert table(result).splitlines() == [
        "15,958 files, 260.0 MB, 1,720 similar pairs; filters 28.0 MB/s on one core",
        "",
        "near duplicates  MB/s  llama_scale is  removed  below threshold  recall",
        "llama_scale      25.0           1.00x      499                0  1.0000",
        "datasketch        4.7           5.32x      499                0  1.0000",
        "",
        "loader, 64 x 2,048  million tokens/s  llama_scale is",
        "x                                331           1.00x",
        "",
        "peak memory after  MB, 8 files  MB, 80 files",
        "collect                     80            81",
        "shards                     221             -",
    ]
