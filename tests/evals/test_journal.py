"""Files of rows that a killed run goes on from."""

import json

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
