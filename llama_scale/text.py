"""Text for people and files: digits, counts, powers of ten, sizes, paths, characters that a file can hold."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
UNITS = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))


def writable(text: str) -> str:
    """Return a text whose lone surrogates, which no file can hold, are U+FFFD; pairs of them are their character."""
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def digits(value: float | None, count: int = 3) -> str:
    """Return a number to ``count`` significant digits, in full or as a power of ten."""
    if value is None or not math.isfinite(value):
        return "–"
    if value and not 1e-3 <= abs(value) < 1e6:
        return power(value, count)
    decimals = count - 1 - math.floor(math.log10(abs(value))) if value else 0
    return f"{round(value, decimals):,.{max(decimals, 0)}f}"


def count(value: float | None) -> str:
    """Return a count to three digits with its unit: 1.72M, 250k, 34."""
    if value is None or not math.isfinite(value):
        return "–"
    if value >= 1e15:
        return power(value)
    for size, unit in UNITS:
        if value >= 0.9995 * size:
            return f"{float(f'{value / size:.3g}'):g}{unit}"
    return f"{float(f'{value:.3g}'):g}"


def count_in_name(value: float, digits: int = 12) -> str:
    """Return a count as names of runs have it: 300000 is 300k, 1250000 is 1.25M.

    Folders are found by these names, so what it returns for a count never changes; where a name does not have to last,
    ``count`` reads better.
    """
    for size, unit in UNITS:
        if value >= size:
            return f"{value / size:.{digits}g}{unit}"
    return f"{value:.{digits}g}"


def power(value: float, count: int = 3) -> str:
    """Return a number in scientific notation: 3.2×10¹³."""
    mantissa, exponent = f"{value:.{count - 1}e}".split("e")
    mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
    prefix = "" if mantissa == "1" else f"{mantissa}×"
    return f"{prefix}10{str(int(exponent)).translate(SUPERSCRIPT)}"


def signed(percent: float) -> str:
    """Return a signed percentage: −1.21 %."""
    return f"{round(percent, 2) + 0.0:+.2f} %".replace("-", "−")


def between(estimate: Any, show: Callable[[float | None], str] = digits, low: str = "low", high: str = "high") -> str:
    """Return ``value [low, high]`` of what has these attributes, such as an ``Estimate``."""
    ends = (show(getattr(estimate, end)) for end in (low, high))
    return f"{show(estimate.value)} [{', '.join(ends)}]"


def megabytes(size: float, decimals: int = 1) -> str:
    """Return bytes in megabytes of 10^6: 12345678 is 12.3 MB."""
    return f"{size / 1e6:,.{decimals}f} MB"


def one_line(text: str) -> str:
    """Return a text with what cannot be shown in a line, such as a newline in a path, as Python escapes it."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def first_line(error: Exception) -> str:
    """Return the first line of what an error of a library says, or its kind where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def relative_path(path: Path, root: Path | None = None) -> Path:
    """Return ``path`` from ``root`` (the working directory) if it lies there, else as it is."""
    root = root or Path.cwd()
    return path.relative_to(root) if path.is_relative_to(root) else path
