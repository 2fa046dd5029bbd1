"""A progress line changes nothing that goes through it."""

import pytest

from data_tools.progress import with_progress


def test_items_pass_through_and_a_pipe_stays_clean(capsys):
    assert list(with_progress(iter("abc"), "reading", 3, "file")) == ["a", "b", "c"]
    assert list(with_progress("ab", "encoding", 5, "B", [2, 3])) == ["a", "b"]
    assert list(with_progress([], "verifying")) == []
    assert capsys.readouterr() == ("", "")


def test_items_and_amounts_must_be_as_many():
    with pytest.raises(ValueError, match="shorter"):
        list(with_progress("ab", "encoding", 5, "B", [5]))
