"""What a program wrote beside what it should have written: same_output(output, expected, judge)."""

from decimal import Decimal
from typing import Any


def as_text(lines: Any) -> str:
    """Return the text of a case's input or output, which may be published as lines, or as numbers of any length."""
    if isinstance(lines, list):
        return "\n".join(map(as_text, lines))
    return str(Decimal(lines)) if type(lines) is int else str(lines)


def same_output(output: str, expected: Any, judge: str) -> bool:
    """Compare standard output: line by line, ends of lines and of the text aside.

    ``judge`` is strict or legacy, which also takes lines or words in any order and nearly equal numbers.
    """
    lines = [[line.rstrip() for line in text.rstrip().split("\n")] for text in (output, as_text(expected))]
    if lines[0] == lines[1]:
        return True
    if judge == "strict":
        return False
    words = [[line.split() for line in text if line.split()] for text in lines]
    if words[0] == words[1] or sorted(words[0]) == sorted(words[1]):
        return True
    if {frozenset(line) for line in words[0]} == {frozenset(line) for line in words[1]}:
        return True
    flat = [[word for line in text for word in line] for text in words]
    return len(flat[0]) == len(flat[1]) and all(map(_close, *flat))


def _close(a: str, b: str) -> bool:
    """Whether two words are nearly the same number; one without bounds is near itself alone, one that is none to none.

    As numpy.allclose, without its rounding: to a float all numbers from 1e309 on are the same.
    """
    try:
        x, y = Decimal(a), Decimal(b)
        if not (x.is_finite() and y.is_finite()):
            return not x.is_nan() and x == y
        return abs(x - y) <= Decimal("1e-8") + Decimal("1e-5") * abs(y)
    except ArithmeticError:
        return False
