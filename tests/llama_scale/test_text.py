"""Numbers and paths as text."""

from pathlib import Path

import pytest

from llama_scale.text import count, count_in_name, digits, first_line, megabytes, relative_path, signed


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (164_000, "164k"),
        (999_600, "1M"),
        (3.096e6, "3.1M"),
        (2.5e13, "25T"),
        (34.2, "34.2"),
        (7e18, "7×10¹⁸"),
        (None, "–"),
    ],
)
def test_counts(value, text):
    assert count(value) == text


def test_numbers():
    assert digits(0.28231) == "0.282"
    assert digits(25793.9, 4) == "25,790"
    assert digits(0.0000123) == "1.23×10⁻⁵"
    assert digits(0.0) == "0"
    assert signed(-1.2149) == "−1.21 %"
    assert signed(-0.001) == "+0.00 %"
    assert megabytes(12_345_678) == "12.3 MB"


def test_counts_in_names():
    exact = [count_in_name(n) for n in (300_000, 1e6, 2.5e6, 1234567, 5e9, 12, 999)]
    assert exact == ["300k", "1M", "2.5M", "1.234567M", "5B", "12", "999"]


@pytest.mark.parametrize(
    ("number", "text"),
    [(950, "950"), (1.5e6, "1.5M"), (20_480, "20.5k"), (7e9, "7B"), (1e12, "1T"),
     (999_936, "1e+03k")],
)  # fmt: skip
def test_counts_in_names_of_folders_stay_as_they_were(number, text):
    assert count_in_name(number, digits=3) == text


def test_paths_from_a_folder(tmp_path, monkeypatch):
    assert relative_path(tmp_path / "a/b", tmp_path) == Path("a/b")
    assert relative_path(Path("/elsewhere/c"), tmp_path) == Path("/elsewhere/c")
    monkeypatch.chdir(tmp_path)
    assert relative_path(Path.cwd() / "a") == Path("a")


def test_the_first_line_of_an_error_is_never_empty():
    assert first_line(ValueError("\n two\nlines")) == "two"
    assert first_line(OSError()) == "OSError"
