"""Records are sorted on disk in bounded memory."""

import errno
import os
import resource

import numpy as np
import pytest

from data_tools.corpus.records import Record, Records, format_row, write_array, write_sorted


def test_rows_are_sorted_in_bounded_runs(tmp_path, monkeypatch):
    monkeypatch.setattr("data_tools.corpus.records.RUN_ROWS", 7)
    rng = np.random.default_rng(0)
    rows = [Record(f"p{rng.integers(4)}", "", "MIT", f"é {rng.integers(9)}\n", str(i), 0, i)
            for i in range(60)]  # fmt: skip
    (tmp_path / "rows").write_bytes(b"".join(map(format_row, rows)))
    records = write_sorted(tmp_path / "rows", tmp_path / "r.jsonl")
    expected = sorted(rows, key=lambda r: (r.package, r.path, r.sha256))
    assert list(records) == list(Records.open(tmp_path / "r.jsonl")) == expected
    assert list(records.take(np.array([5, 2]))) == [records[5], records[2]]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["r.jsonl", "r.npy", "rows"]


def test_more_runs_than_may_be_open_are_merged_in_turns(tmp_path, monkeypatch):
    monkeypatch.setattr("data_tools.corpus.records.RUN_ROWS", 2)
    monkeypatch.setattr("data_tools.corpus.records.MERGED_RUNS", 3)
    rng = np.random.default_rng(0)
    rows = [Record(f"p{rng.integers(9)}", "", "MIT", f"{i}", str(i), 0, i) for i in range(999)]
    (tmp_path / "rows").write_bytes(b"".join(map(format_row, rows)))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = 1 + max(int(name) for name in os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (taken + 8, hard))
    try:
        records = write_sorted(tmp_path / "rows", tmp_path / "r.jsonl")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert list(records) == sorted(rows, key=lambda r: (r.package, r.path))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["r.jsonl", "r.npy", "rows"]


def test_an_array_that_does_not_fit_on_the_disk(tmp_path):
    """The error has a number, by which launch scripts say what to do, and a name; no file stays."""
    values = np.arange(10**4)
    write_array(tmp_path / "whole.npy", values)
    assert (np.load(tmp_path / "whole.npy") == values).all()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(OSError, match=r"a\.npy") as raised:
            write_array(tmp_path / "a.npy", values)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert raised.value.errno == errno.EFBIG
    assert os.listdir(tmp_path) == ["whole.npy"]
