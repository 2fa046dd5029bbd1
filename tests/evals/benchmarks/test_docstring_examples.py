"""The examples that a docstring gives of calls."""

from evals.benchmarks.docstring_examples import docstring_examples

DOCSTRING = """Return twice a number.

    >>> double(2)
    4
    >>> double(n)
    8
    >>> other(1)
    1
    double(3) -> 6
    double([1, (2)]) => [1, 2, 1, 2]   # a list
    double('a)') == 'a)a)'
    For example, double(5) returns 10 and double(6) should return 12.
    double(x) = 2 * x
    double(7) == 7 + 7 = 14
    double("b") == ""bb"
    double(2) -> 4
"""


def test_examples_of_a_docstring():
    assert docstring_examples(DOCSTRING, "double") == [
        "assert double(2) == 4",
        "assert double(3) == 6",
        "assert double([1, (2)]) == [1, 2, 1, 2]",
        "assert double('a)') == 'a)a)'",
        "assert double(5) == 10",
        "assert double(6) == 12",
    ]
    assert docstring_examples("", "f") == [] and docstring_examples(">>> f(1\n2\n", "f") == []
