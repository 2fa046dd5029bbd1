"""Tables of measurements for people: aligned text for the terminal, Markdown for a file."""

from collections.abc import Sequence

GAP = "  "


def format_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return aligned lines: the first column to the left, the others to the right.

    Args:
        head: A name for each column, with its unit.
        rows: The cells, already formatted.
    """
    lines = [head, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    aligned = []
    for first, *others in lines:
        cells = [first.ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        aligned.append(GAP.join(cells).rstrip())
    return "\n".join(aligned)


def format_markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return the same cells as a table in Markdown."""
    return "\n".join([markdown_row(head), "|" + "---|" * len(head), *map(markdown_row, rows)])


def markdown_row(cells: Sequence[str]) -> str:
    """Return one line of a table in Markdown."""
    return "| " + " | ".join(cells) + " |"


def format_ratio(ratio: float, quartiles: Sequence[float] = ()) -> str:
    """Return how many times as fast, as ``1.28x`` or ``1.28x (1.25 to 1.35)`` with quartiles."""
    text = f"{ratio:.2f}x"
    if not quartiles:
        return text
    low, high = quartiles
    return f"{text} ({low:.2f} to {high:.2f})"
