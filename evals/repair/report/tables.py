"""The tables of a study: arms, selection, first failures, tasks, critics' words, repeats."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from evals.repair.figures import chains_of
from evals.repair.select import choose
from llama_scale.plotting.table import Table

Row = dict[str, Any]
MOST_WORDS = 20  # rows of the table of critics' words
CUT = 160  # characters of a text in a cell


def percent(rate: Row) -> str:
    """Return a rate with its interval: 20.0 % [10.0, 32.0]."""
    low, high = rate["interval"]
    return f"{100 * rate['value']:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


def points(gap: Row | None) -> str:
    """Return a difference with its interval: −6.0 [−14.0, 0.0]."""
    if gap is None:
        return "–"
    values = (gap["difference"], *gap["interval"])
    value, low, high = (f"{round(100 * v, 1) + 0.0:+.1f}".replace("-", "−") for v in values)
    return f"{value} [{low}, {high}]"


def share(part: int, whole: int, interval: Sequence[float] | None) -> str:
    """Return a count of others with its interval: 43 of 423 [7.4, 13.4] %."""
    if not interval:
        return f"{part:,} of {whole:,}"
    return f"{part:,} of {whole:,} [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}] %"


def tables(result: Row, rows: Sequence[Row]) -> list[Table]:
    """Return the tables that a study has something for."""
    found = (
        arms(result),
        stages(result),
        selection(result),
        first_failures(result),
        words(rows),
        repeats(result, rows),
    )
    return [table for table in (*found, tasks(result, rows)) if table.body]


def arms(result: Row) -> Table:
    """Return what each arm made of its budget, and against resampling."""
    body = []
    for name, arm in result["arms"].items():
        first, last = arm["curve"][0], next(iter(arm["selection"].values()))
        against = arm.get("against_resample", {})
        false = share(last["shown_not_solved"], last["holds_visible"], last["shown_not_solved_interval"])
        tokens = f"{last['tokens']:,}" if last["tokens"] else "–"
        tokens += f", cost {arm['cost']:.4g}" if arm.get("cost") is not None else ""
        gaps = [points(against.get(kind)) for kind in ("equal_programs", "equal_tokens")]
        body.append(
            [name, percent(first["rate"]), percent(last["rate"]), false, f"{last['programs']:,}", tokens, *gaps]
        )
    head = ["arm", "first program", "solved", "shown but not solved", "programs", "tokens"]
    return Table(
        "arms",
        "What each arm made of its budget",
        "Solved: the program handed in holds all tests. Shown but not solved: of the programs handed in that hold the "
        "visible tests, those that fail another. Against resampling: points, paired by task. Intervals are at 95 %.",
        [*head, "against resampling, equal programs", "equal tokens"],
        body,
    )


def stages(result: Row) -> Table:
    """Return how far the programs of each arm came: what tells models apart that solve nothing."""
    body = []
    for name, arm in result["arms"].items():
        last, failed = next(iter(arm["selection"].values())), arm["failed_at"]
        refused = share(sum(arm["refused_feedback"].values()), arm["model_feedback"], arm["garbage_interval"])
        body.append(
            [name, percent(last["parses"]), percent(last["holds"]), percent(last["rate"]),
             percent(arm["without_renaming"]), f"{failed['syntax']:,}", f"{failed['tests']:,}",
             refused if arm["model_feedback"] else "–"]
        )  # fmt: skip
    head = ["arm", "compiles", "holds visible tests", "solved", "solved under its own name", "do not compile"]
    caption = (
        "The programs handed in: what of them compiles, holds the visible tests, holds all, and holds all without "
        "having been given the function's name. Then, of all programs drawn, how many do not compile and how many fail "
        "a visible test; and of what a model said as a critic, what was empty, no text or an echo and not passed on."
    )
    return Table("stages", "How far programs come", caption, [*head, "fail a visible test", "words refused"], body)


def selection(result: Row) -> Table:
    """Return what each rule of selection makes of the same programs."""
    body = []
    for name, arm in result["arms"].items():
        for rule, found in arm["selection"].items():
            false = share(found["shown_not_solved"], found["holds_visible"], found["shown_not_solved_interval"])
            body.append([name, rule.replace("_", " "), percent(found["rate"]), false])
    caption = "Which program of a chain is handed in; no rule sees a hidden test. The first rule makes the curves."
    return Table("selection", "Selection", caption, ["arm", "rule", "solved", "shown but not solved"], body)


def first_failures(result: Row) -> Table:
    """Return what became of the chains by what was wrong with their first program."""
    body = []
    for name, arm in result["arms"].items():
        for reason, found in arm["by_first_failure"].items():
            body.append([name, reason, share(found["solved"], found["chains"], found["interval"])])
    caption = "Chains by what was wrong with their first program, and how many of them end solved."
    return Table("failures", "What can be repaired", caption, ["arm", "first program", "ends solved"], body)


def words(rows: Sequence[Row]) -> Table:
    """Return what critics said most often, and how often the next program held more visible tests."""
    said, better, refused = Counter(), Counter(), Counter()
    for arm, chains in chains_of(rows).items():
        for chain in chains:
            for row, after in zip(chain, [*chain[1:], None], strict=True):
                if row["critic"]:
                    key = arm, row["critic"], row["feedback"]
                    said[key] += 1
                    refused[key] += bool(row["refused"])
                    better[key] += bool(after and (after["passed"], after["held"]) > (row["passed"], row["held"]))
    body = [
        [arm, critic, f"{said[key]:,}", f"{better[key]:,}", f"{refused[key]:,}", cut(text)]
        for key, _ in said.most_common(MOST_WORDS)
        for arm, critic, text in [key]
    ]
    head = ["arm", "critic", "times", "then better", "raw words refused", "words"]
    caption = (
        f"The {MOST_WORDS} most frequent, as they stood in the next prompt. Then better: the next program held more "
    )
    return Table("words", "What critics said", caption + "visible tests.", head, body)


def repeats(result: Row, rows: Sequence[Row]) -> Table:
    """Return how many repairs of each arm were an earlier program of their chain, and how far back it lay."""
    body = []
    for name, arm in result["arms"].items():
        back = Counter(
            row["round"] - row["repeat_of"] for row in rows if row["arm"] == name and row["repeat_of"] is not None
        )
        far = ", ".join(f"{count:,} by {rounds}" for rounds, count in sorted(back.items())) or "–"
        share_of = share(arm["repeats"], arm["repairs"], arm["repeats_interval"])
        body.append([name, share_of, far, f"{arm['repairs_to_first_repeat']:,} of {arm['repairs']:,}"])
    caption = (
        "Programs after the first that are, white space at their ends aside, an earlier one of their chain; and how "
        "many would have been drawn if every chain ended with its first repeat."
    )
    head = ["arm", "repeats", "rounds back", "drawn up to the first repeat"]
    return Table("repeats", "Going round in circles", caption, head, body)


def tasks(result: Row, rows: Sequence[Row]) -> Table:
    """Return a row a task: what became of it in each arm, and with how many programs."""
    by_arm, cells = chains_of(rows), {}
    for arm, chains in by_arm.items():
        for chain in chains:
            cells.setdefault((chain[0]["number"], chain[0]["task_id"]), {}).setdefault(arm, []).append(fate(chain))
    body = [[name, *("; ".join(found.get(arm, ["–"])) for arm in by_arm)] for (_, name), found in sorted(cells.items())]
    caption = "The program handed in by the rule first visible, and after how many programs."
    return Table("tasks", "Task by task", caption, ["task", *by_arm], body)


def fate(chain: Sequence[Row]) -> str:
    """Say what became of a chain."""
    row = choose(chain, "first_visible")
    number = f"{row['round'] + 1} of {len(chain)}"
    if row["solved"]:
        return f"solved, {number}" if row["passed"] else f"solved, though not shown, {number}"
    return f"shown, not solved, {number}" if row["passed"] else f"{row['reason']}, {number}"


def cut(text: str, most: int = CUT) -> str:
    """Return a text on one line of at most so many characters."""
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most - 1]}…"
