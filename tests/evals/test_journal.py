"""Files of rows that a killed run goes on from."""

import errno
import json
import os

import pytest

from evals.journal import append_row, read_journal


def test_rows_torn_by_a_kill_are_left_out(tmp_path):
    path = tmp_path / "rows.jsonl"
    append_row(path, {"a": 1})
    with path.open("ab") as file:
        file.write(b'{"b": 2')
    append_row(path, {"c": 3})
    with path.open("ab") as file:
        file.write(json.dumps([4]).encode())
    assert read_journal(path) == [{"a": 1}, {"c": 3}] and read_journal(None) == []


@pytest.mark.parametrize("before, after", [('"a": 1', '"a": 3'), ('"b": 2', '"c": 2'), ("self_sha256", "self_sha257")])
def test_rows_that_changed_are_left_out_and_told_of(tmp_path, capfd, before, after):
    path = tmp_path / "rows.jsonl"
    for row in ({"a": 1, "b": 2}, {"a": 5}):
        append_row(path, row)
    path.write_text(path.read_text().replace(before, after, 1))
    kept = [row for row in read_journal(path) if "self_sha257" not in row]
    assert kept == [{"a": 5}]
    told = capfd.readouterr().err
    assert (f"{path}: 1 row has changed" in told) == (after != "self_sha257")


def test_a_row_is_written_whole_or_the_disk_is_named(tmp_path, monkeypatch):
    """A disk that takes a part of a row, then no more."""
    write, taken = os.write, []

    def full(handle, data):
        taken.append(len(data))
        if len(taken) > 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(handle, data[:5])

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError) as error:
        append_row(tmp_path / "rows.jsonl", {"a": 1})
    assert error.value.filename == str(tmp_path / "rows.jsonl") and len(taken) == 2
    monkeypatch.setattr(os, "write", write)
    append_row(tmp_path / "rows.jsonl", {"b": 2})
    assert read_journal(tmp_path / "rows.jsonl") == [{"b": 2}]
