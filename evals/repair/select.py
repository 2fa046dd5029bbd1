"""Which of a chain's programs is handed in; no rule can see a hidden test."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from llama_scale.errors import InputError, nearest

Row = dict[str, Any]
RULES = ("first_visible", "first", "last", "most_visible", "vote", "agreement")


def rule_names(text: str) -> list[str]:
    """Split a list of rules; raise InputError on an unknown one."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in RULES:
            raise InputError(f"select: unknown {name!r}{nearest(name, RULES)}; known: {', '.join(RULES)}")
    return names


def choose(rows: Sequence[Row], rule: str) -> Row:
    """Return the row of a chain's steps that a rule chooses.

    first: the first. last: the last that was taken. first_visible: the first that holds all visible tests, else the
    last that was taken. most_visible: the first of those that hold most of them. vote: of those, the first whose
    outputs on probes are the most frequent. agreement: of those that hold most visible tests, the one with the highest
    score of Chen et al. 2022 (CodeT): the root of the number of programs that hold the same generated tests, times how
    many these are.
    """
    taken = [row for row in rows if row["taken"]]
    if rule == "first":
        return rows[0]
    if rule == "last":
        return taken[-1]
    if rule == "first_visible":
        return next((row for row in rows if row["passed"]), taken[-1])
    most = max((row["parses"], row["held"], row["passed"]) for row in rows)
    best = [row for row in rows if (row["parses"], row["held"], row["passed"]) == most]
    if rule == "most_visible":
        return best[0]
    answers = [tuple(row.get("outputs" if rule == "vote" else "agrees") or ()) for row in best]
    counts = Counter(answers)
    scores = [counts[a] if rule == "vote" else counts[a] ** 0.5 * sum(map(bool, a)) for a in answers]
    return best[scores.index(max(scores))]
