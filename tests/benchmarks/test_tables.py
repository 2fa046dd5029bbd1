"""Tables of measurements."""

from benchmarks.tables import format_markdown, format_ratio, format_table


def test_first_column_left_others_right():
    text = format_table(["name", "tokens/s"], [["a", "12,345"], ["longer", "7"]])
    assert text.splitlines() == ["name    tokens/s", "a         12,345", "longer         7"]


def test_markdown():
    assert format_markdown(["a", "b"], [["1", "2"]]) == "| a | b |\n|---|---|\n| 1 | 2 |"


def test_ratio():
    assert format_ratio(1.284) == "1.28x"
    assert format_ratio(1.284, [1.25, 1.349]) == "1.28x (1.25 to 1.35)"
