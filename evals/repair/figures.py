"""What sealed rows say: curves over rounds, programs and tokens, each figure with its interval, against resampling."""

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from evals.metrics.pass_at_k import paired_difference
from evals.repair.journal import SEALED, read_rows
from evals.repair.select import choose, rule_names
from llama_scale.comparison import exact_interval

Row = dict[str, Any]
Chain = list[Row]
PRICED = ("prompt_tokens", "tokens", "critic_prompt_tokens", "critic_tokens")  # by the million
ALL_SHOWN = (
    "as published: all tests were shown, and a process was believed that returned 0 and wrote nothing to standard "
    "error; shown but not solved are claims that are false"
)


def chains_of(rows: Iterable[Row]) -> dict[str, list[Chain]]:
    """Return the chains of each arm, by task and sample, each in the order of its rounds."""
    arms: dict[str, dict[tuple[int, int], Chain]] = {}
    for row in rows:
        arms.setdefault(row["arm"], {}).setdefault((row["number"], row["sample"]), []).append(row)
    return {
        arm: [sorted(found[place], key=lambda row: row["round"]) for place in sorted(found)]
        for arm, found in arms.items()
    }


def spent(row: Row) -> int | None:
    """Return all tokens of a step, prompts and critic included; None where any are not known."""
    counts = [row[name] for name in PRICED]
    return None if None in counts else sum(counts)


def tokens_of(chain: Chain) -> int | None:
    """Return all tokens of a chain."""
    counts = [spent(row) for row in chain]
    return None if None in counts else sum(count or 0 for count in counts)


def cost(chains: Sequence[Chain], prices: dict[str, float]) -> float | None:
    """Return what chains cost at prices of a million tokens of each kind; None where their number is not known."""
    total = 0.0
    for name, price in prices.items():
        counts = [row[name] for chain in chains for row in chain] if price else []
        if None in counts:
            return None
        total += price * sum(counts) / 1e6
    return total


def rate(values: Sequence[float]) -> Row:
    """Return a share of tasks with its 95 % interval (Clopper and Pearson's)."""
    return {"value": sum(values) / len(values), "interval": exact_interval(sum(values), len(values))}


def by_task(chains: Sequence[Chain], value: Callable[[Chain], float]) -> list[float]:
    """Return the mean of a value over the chains of each task."""
    groups = itertools.groupby(chains, key=lambda chain: chain[0]["number"])
    return [sum(found) / len(found) for found in ([value(c) for c in group] for _, group in groups)]


def point(chains: Sequence[Chain], rule: str) -> Row:
    """Return what one rule makes of chains as they are: solved, shown and not solved, programs and tokens spent.

    ``parses`` and ``holds`` are the shares of tasks whose program compiles and holds the visible tests: what tells
    models apart that solve nothing.
    """
    chosen = [choose(chain, rule) for chain in chains]
    held = [row for row in chosen if row["passed"]]
    known = [tokens_of(chain) for chain in chains]
    false = sum(not row["solved"] for row in held)
    return {
        "solved": sum(row["solved"] for row in chosen),
        "chains": len(chains),
        "rate": rate(by_task(chains, lambda chain: float(choose(chain, rule)["solved"]))),
        "parses": rate(by_task(chains, lambda chain: float(choose(chain, rule)["parses"]))),
        "holds": rate(by_task(chains, lambda chain: float(choose(chain, rule)["passed"]))),
        "holds_visible": len(held),
        "shown_not_solved": false,
        "shown_not_solved_interval": exact_interval(false, len(held)) if held else None,
        "programs": sum(map(len, chains)),
        "tokens": None if None in known else sum(count or 0 for count in known),
    }


def cut(chains: Sequence[Chain], programs: int) -> list[Chain]:
    """Return chains as they would be if only so many programs might be drawn: no critic speaks on the last of them."""
    unsaid = {"critic_prompt_tokens": 0, "critic_tokens": 0}
    return [
        chain if len(chain) <= programs else [*chain[: programs - 1], chain[programs - 1] | unsaid] for chain in chains
    ]


def arm_figures(chains: Sequence[Chain], rules: Sequence[str], budget: int) -> Row:
    """Return the figures of one arm: a curve by programs drawn at most, each rule at the full budget, what failed."""
    whole, rows = cut(chains, budget), [row for chain in chains for row in chain]
    repairs = [row for chain in chains for row in chain[1:]]
    criticized = [row for row in rows if row["critic"]]
    repeats = sum(row["repeat_of"] is not None for row in repairs)
    by_model, unparsed = [row for row in rows if row["critic"] == "model"], sum(not row["parses"] for row in rows)
    refused = sum(bool(row["refused"]) for row in by_model)
    final = [choose(chain, rules[0]) for chain in whole]
    return {
        "curve": [{"programs_at_most": n} | point(cut(chains, n), rules[0]) for n in range(1, longest(chains) + 1)],
        "selection": {rule: point(whole, rule) for rule in rules},
        "gain": gain(whole, rules[0]),
        "repairs": len(repairs),
        "repeats": repeats,
        "repeats_interval": exact_interval(repeats, len(repairs)) if repairs else None,
        "repairs_to_first_repeat": sum(map(to_first_repeat, chains)),
        "refused_feedback": dict(Counter(row["refused"] for row in criticized if row["refused"])),
        "feedback": len(criticized),
        "model_feedback": len(by_model),
        "garbage_interval": exact_interval(refused, len(by_model)) if by_model else None,
        "failed_at": {"syntax": unparsed, "tests": sum(row["parses"] and not row["passed"] for row in rows)},
        "not_taken": sum(not row["taken"] for row in rows),
        "renamed": sum(bool(row["renamed"]) for row in final),
        "solved_without_renaming": sum(row["solved"] and not row["renamed"] for row in final),
        "without_renaming": rate(by_task(whole, lambda chain: _named(choose(chain, rules[0])))),
        "prompts_truncated": sum(row["prompt_truncated"] for row in rows),
        "by_first_failure": by_first_failure(whole, rules[0]),
    }


def to_first_repeat(chain: Chain) -> int:
    """Return how many repairs are left of a chain that ends with its first repeat."""
    return next((n for n, row in enumerate(chain) if row["repeat_of"] is not None), len(chain) - 1)


def _named(row: Row) -> float:
    return float(row["solved"] and not row["renamed"])


def gain(chains: Sequence[Chain], rule: str) -> Row:
    """Return what the whole budget makes of the first programs: the difference, paired by task."""
    groups = [by_task(cut(chains, 1), lambda chain: float(chain[0]["solved"]))]
    groups.append(by_task(chains, lambda chain: float(choose(chain, rule)["solved"])))
    return paired(*groups)


def paired(first: Sequence[float], second: Sequence[float]) -> Row:
    """Return the mean difference of values of the same tasks with its interval.

    Where every task differs by as much a bootstrap has no width, as if few tasks could not have told otherwise. The
    interval is then that of a share of none, or of all, of so many tasks (Clopper and Pearson's).
    """
    gap, interval = paired_difference(first, second)
    gaps, count = {b - a for a, b in zip(first, second, strict=True)}, len(first)
    if gaps == {0.0}:
        bound = exact_interval(0, count)[1]
        interval = (-bound, bound)
    elif gaps in ({1.0}, {-1.0}):
        ends = exact_interval(count, count)
        interval = ends if gap > 0 else (-ends[1], -ends[0])
    return {"difference": gap, "interval": interval}


def longest(chains: Sequence[Chain]) -> int:
    """Return the most programs of a chain."""
    return max(map(len, chains))


def by_first_failure(chains: Sequence[Chain], rule: str) -> dict[str, Row]:
    """Return how many chains began with each kind of failure, and how many of them end solved."""
    kinds: dict[str, Row] = {}
    for chain in chains:
        if not chain[0]["solved"]:
            reason = chain[0]["reason"] if not chain[0]["passed"] else "shown but not solved"
            found = kinds.setdefault(reason, {"chains": 0, "solved": 0})
            found["chains"] += 1
            found["solved"] += choose(chain, rule)["solved"]
    for found in kinds.values():
        found["interval"] = exact_interval(found["solved"], found["chains"])
    return dict(sorted(kinds.items(), key=lambda item: -item[1]["chains"]))


def against_resample(chains: Sequence[Chain], others: Sequence[Chain], rule: str, budget: int) -> Row:
    """Return the difference of an arm to resampling, paired by task, at as many programs and at as many tokens.

    At equal programs both may draw ``budget`` of them. At equal tokens resampling may spend in all what the arm spent:
    every task's first program, then the second of those that go on, and so forth. A limit for each task would be wrong:
    where the arm holds the tests early it ends with little spent, and resampling would have to be as lucky there, so
    that of two equal arms the one that sets the limits seems better.
    """
    whole, fewer = cut(chains, budget), cut(others, budget)
    result = {
        "equal_programs": _difference(whole, fewer, rule) | {"programs": [sum(map(len, whole)), sum(map(len, fewer))]}
    }
    if any(tokens_of(chain) is None for chain in (*chains, *others)):
        return result
    allowed = sum(tokens_of(chain) or 0 for chain in whole)
    taken = first_programs(others, allowed)
    tokens = [allowed, sum(tokens_of(chain) or 0 for chain in taken)]
    used_up = sum(not chain[-1]["passed"] and part == chain for chain, part in zip(others, taken, strict=True))
    lacking = used_up if tokens[1] < 0.98 * allowed else 0
    result["equal_tokens"] = _difference(whole, taken, rule) | {"tokens": tokens, "tasks_that_lack_samples": lacking}
    return result


def first_programs(chains: Sequence[Chain], tokens: int) -> list[Chain]:
    """Return the programs that chains draw for about so many tokens together, round by round; one of each at least."""
    counts = [1] * len(chains)
    total = sum(spent(chain[0]) or 0 for chain in chains)
    later = sorted((turn, index) for index, chain in enumerate(chains) for turn in range(1, len(chain)))
    for turn, index in later:
        cost = spent(chains[index][turn]) or 0
        if abs(total + cost - tokens) >= abs(total - tokens):
            break
        total, counts[index] = total + cost, turn + 1
    return [chain[:count] for chain, count in zip(chains, counts, strict=True)]


def _difference(chains: Sequence[Chain], others: Sequence[Chain], rule: str) -> Row:
    solved = [by_task(group, lambda chain: float(choose(chain, rule)["solved"])) for group in (others, chains)]
    return paired(*solved) | {"resample": sum(solved[0]), "arm": sum(solved[1])}


def figures(rows: Sequence[Row], rules: Sequence[str], budget: int) -> Row:
    """Return everything that sealed rows say; ``budget`` is the programs that each arm may draw, of ``rules`` the first
    makes the curves."""
    arms = chains_of(rows)
    result: Row = {"arms": {arm: arm_figures(chains, rules, budget) for arm, chains in arms.items()}}
    for arm, chains in arms.items():
        if arm != "resample" and "resample" in arms:
            result["arms"][arm]["against_resample"] = against_resample(chains, arms["resample"], rules[0], budget)
    first = next(iter(arms.values()))
    result["n_tasks"] = len({chain[0]["number"] for chain in first})
    result["task_ids"] = list(dict.fromkeys(chain[0]["task_id"] for chain in first))
    result["samples"] = len(first) // result["n_tasks"]
    for name in ("served", "critic_served"):
        if served := Counter(row[name] for row in rows if row.get(name)):
            result[name] = dict(sorted(served.items()))
    return result


def summed_up(steps: Path) -> Row:
    """Return the result of sealed rows, from them alone."""
    head, rows = read_rows(steps, SEALED)
    if head.get("replay_sha256"):
        budget, rules = max(row["round"] for row in rows) + 1, ["first_visible", "first", "last", "most_visible"]
    else:
        budget, rules = head["plan"]["rounds"] + 1, rule_names(head["select"])
    about = {name: value for name, value in head.items() if name != "format"}
    result = {"format": "llama_scale.repair-result.v1"} | about | figures(rows, rules, budget)
    for arm, chains in chains_of(rows).items() if "prices" in head else ():
        result["arms"][arm]["cost"] = cost(cut(chains, budget), head["prices"])
    return result | {"in_words": lines(result)}


def standing(difference: Row) -> str:
    """Say whether an arm "beats", "loses to" or "cannot be told from" resampling."""
    low, high = difference["interval"]
    return "beats" if low > 0 else "loses to" if high < 0 else "cannot be told from"


def verdict_in_words(difference: Row, what: str) -> str:
    """Say in words whether an arm beat resampling, and by how much."""
    low, high = difference["interval"]
    points = f"{100 * difference['difference']:+.1f} points [{100 * low:+.1f}, {100 * high:+.1f}]"
    return f"{standing(difference)} resampling at equal {what}: {points}"


def headline(result: Row) -> str:
    """Say in a sentence which arms beat resampling, at equal tokens where they are known; "" without resampling."""
    known: dict[str, list[str]] = {"beats": [], "loses to": [], "cannot be told from": []}
    kinds = set()
    for name, arm in result["arms"].items():
        gaps = arm.get("against_resample", {})
        if gaps:
            kind = "tokens" if "equal_tokens" in gaps else "programs"
            kinds.add(kind)
            known[standing(gaps[f"equal_{kind}"])].append(name)
    if not kinds:
        return ""
    best, worse, alike = known.values()
    at = " and ".join(sorted(kinds))
    first = f"{_listed(best)} {'beat' if len(best) > 1 else 'beats'}" if best else "No arm that repairs beats"
    parts = [f"{first} resampling at equal {at}"]
    parts += [f"{_listed(worse)} {'lose' if len(worse) > 1 else 'loses'} to it"] if worse else []
    parts += [f"{_listed(alike)} cannot be told from it"] if alike else []
    return f"{'; '.join(parts)}."


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def lines(result: Row) -> list[str]:
    """Return the headline figures, the interval of small samples first."""
    found = [ALL_SHOWN] if result.get("protocol") == "published" else []
    for arm, data in result["arms"].items():
        first, last = data["curve"][0], next(iter(data["selection"].values()))
        low, high = last["rate"]["interval"]
        tokens = f", {last['tokens']:,} tokens" if last["tokens"] else ""
        tokens += f", cost {data['cost']:.4g}" if data.get("cost") is not None else ""
        found.append(
            f"{arm:<16} [{100 * low:.1f}, {100 * high:.1f}] {100 * last['rate']['value']:.1f} %: "
            f"{first['solved']} -> {last['solved']} of {last['chains']} solved"
            f"; {last['programs']:,} programs{tokens}"
            f"; shown but not solved {last['shown_not_solved']} of {last['holds_visible']}"
            f"; repeats {data['repeats']:,} of {data['repairs']:,}"
        )
        for kind, words in (("equal_programs", "programs"), ("equal_tokens", "tokens")):
            if kind in data.get("against_resample", {}):
                found.append(f"{'':<16} {verdict_in_words(data['against_resample'][kind], words)}")
    return [*found, *filter(None, [headline(result)])]
