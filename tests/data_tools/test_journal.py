"""A journal keeps what is whole."""

import numpy as np

from data_tools.journal import with_journal


def test_a_journal_keeps_what_is_whole(tmp_path):
    calls = []

    def square(x):
        calls.append(x)
        return np.full(3, x * x)

    def run():
        map_ = with_journal(tmp_path / "j", map)
        return [int(row[0]) for row in map_(square, range(5))] + list(map_(str, range(2)))

    first = run()
    assert first == [0, 1, 4, 9, 16, "0", "1"]
    for cut in (1, 60, 200):
        content = (tmp_path / "j.0").read_bytes()
        (tmp_path / "j.0").write_bytes(content[:-cut])
        calls.clear()
        assert run() == first
        assert calls == list(range(5 - len(calls), 5))
        assert 1 <= len(calls) < 5
    (tmp_path / "j.0").write_bytes(b"\x05\0\0\0\0\0\0\0nonsense")
    assert run() == first
