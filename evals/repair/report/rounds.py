"""What changed from round to round: each repair as a difference to the program it went on from, with the words."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from evals.repair.figures import chains_of

Row = dict[str, Any]
MOST = 120  # chains that a page shows
MOST_LINES, LONGEST = 400, 400  # lines of a program that it shows, and characters of each


@dataclass(frozen=True)
class Round:
    """One program of a chain: its outcome, what the critic said of it, and its lines beside the program before."""

    title: str
    feedback: str
    lines: list[tuple[Literal["added", "removed", "same", "place"], str]]


@dataclass(frozen=True)
class Story:
    """A chain with what became of it."""

    task: str
    arm: str
    outcome: str
    rounds: list[Round]


def stories(rows: Sequence[Row], most: int = MOST) -> tuple[list[Story], int]:
    """Return the chains with a repair, those that gained first, then those that lost, and how many there are in all.

    Resampling has no repairs: each of its programs is new.
    """
    found = []
    for arm, chains in chains_of(rows).items():
        for chain in chains:
            if len(chain) > 1 and arm != "resample":
                kept = [row for row in chain if row["taken"]]
                change = kept[-1]["solved"] - chain[0]["solved"]
                order = {1: 0, -1: 1}.get(change, 2 if chain[-1]["passed"] else 3)
                found.append((order, chain[0]["number"], len(found), _story(chain)))
    return [story for *_, story in sorted(found, key=lambda item: item[:3])[:most]], len(found)


def _story(chain: Sequence[Row]) -> Story:
    rounds, before = [], None
    for row in chain:
        lines = difference(before["program"], row["program"]) if before else plain(row["program"])
        rounds.append(Round(_title(row), row["feedback"], lines))
        before = row if row["taken"] else before
    first, last = (_state(row) for row in (chain[0], [row for row in chain if row["taken"]][-1]))
    return Story(chain[0]["task_id"], chain[0]["arm"], f"{first} → {last}", rounds)


def _state(row: Row) -> str:
    if row["passed"]:
        return "solved" if row["solved"] else "shown, not solved"
    return "solved, not shown" if row["solved"] else row["reason"]


def _title(row: Row) -> str:
    parts = [f"round {row['round']}: {_state(row)}", f"{row['held']} of {row['tests']} visible tests hold"]
    if row["repeat_of"] is not None:
        parts.append(f"the program of round {row['repeat_of']} again")
    if row["renamed"]:
        parts.append(f"named {row['renamed']}")
    if not row["taken"]:
        parts.append("not taken, as it breaks a visible test")
    return "; ".join(parts)


def plain(program: str) -> list[tuple[Literal["added", "removed", "same", "place"], str]]:
    """Return a program's lines as they are."""
    return [("same", line) for line in lines_of(program)]


def lines_of(program: str) -> list[str]:
    """Return the lines of a program, as many and as much of each as a page shows.

    Characters that are not seen, or change the order of others, are shown as Python would write them.
    """
    lines = program.strip("\n").split("\n")
    more = [f"… {len(lines) - MOST_LINES:,} more lines"] if len(lines) > MOST_LINES else []
    shown = [line if len(line) <= LONGEST else f"{line[:LONGEST]}…" for line in lines[:MOST_LINES]]
    return ["".join(c if c.isprintable() or c == "\t" else repr(c)[1:-1] for c in line) for line in shown] + more


def difference(
    before: str, after: str, around: int = 3
) -> list[tuple[Literal["added", "removed", "same", "place"], str]]:
    """Return the lines of two programs as a unified difference without its head; nothing where they are equal."""
    kinds = {"+": "added", "-": "removed", " ": "same", "@": "place"}
    lines = list(difflib.unified_diff(lines_of(before), lines_of(after), lineterm="", n=around))[2:]
    return [(kinds[line[0]], line if line[0] == "@" else line[1:]) for line in lines]  # type: ignore[misc]
