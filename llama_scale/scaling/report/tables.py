"""The tables of a study, as heads and cells that the terminal and the report both show."""

import re
from collections.abc import Callable
from typing import Any

from llama_scale.plotting.table import Table
from llama_scale.scaling.fitting.fitted_laws import (
    TRUNKS,
    Bounds,
    Estimate,
    FittedLaws,
    ReachedEstimate,
    RepeatedTokens,
)
from llama_scale.scaling.fitting.results.downstream import NOT_REACHED
from llama_scale.scaling.forecasting.forecast import ScoredForecast
from llama_scale.text import between, count, digits, power, signed

PERCENT = "parse_rate", "pass_at"
TRIVIAL = re.compile(r"(?:.*_)?(?<!nontrivial_)parse_rate")  # of laws of before: see downstream.RATE
NOT_IDENTIFIED = (
    "Not identified: an end is open, the ends lie more than a factor of ten apart, or the trunks are too few."
)


def tables(laws: FittedLaws) -> list[Table]:
    """Return the tables that the study has something for."""
    makers = (parameters, forms, conventions, approaches, kaplan, repeats, thresholds, links)
    return [table for table in (make(laws) for make in makers) if table and table.body]


def parameters(laws: FittedLaws) -> Table:
    """Return the law's parameters with both kinds of interval."""
    law, body = laws.surface, []
    for name, p in law.parameters.items():
        profile = f"{_end(p.profile.low, 4)} to {_end(p.profile.high, 4)}"
        body.append([_greek(name), digits(p.value, 4), _ends(p), profile])
    body += [[_greek(name), digits(p.value, 4), _ends(p), "–"] for name, p in law.limits.items()]
    trunks = " The profile takes branches of a trunk for independent runs, so here believe the bootstrap."
    trunks = trunks if law.bootstrap.kind.startswith(TRUNKS) else ""
    limits = " kα and kβ are the exponents where size alone or data alone limits." if law.limits else ""
    return Table(
        "parameters",
        "The fitted law",
        f"{_greek(law.formula)} with 95 % intervals of two kinds: from {law.bootstrap.resamples} resamples "
        f"({law.bootstrap.kind}), and from the profile of the objective (how far a parameter moves, all others fitted "
        f"again, before the fit is clearly worse). “open” means that the points give no end.{limits}{trunks}",
        ["parameter", "value", "bootstrap", "profile"],
        body,
    )


def forms(laws: FittedLaws) -> Table | None:
    """Return the forms of the law, how each predicted runs that it had not seen, and which was taken."""
    choice = laws.forms
    if not choice:
        return None
    body = []
    for row in choice.results:
        errors = row.validation_error_percent, row.holdout_error_percent, row.residual_rms_percent
        percent = [f"{digits(error, 3)} %" if error is not None else "–" for error in errors]
        body.append([row.form + " *" * (row.form == choice.chosen), _greek(row.formula), *percent])
    runs = ", ".join(choice.validation_runs[:4]) + (" …" if len(choice.validation_runs) > 4 else "")
    tried = any(row.validation_error_percent is not None for row in choice.results)
    judged = (
        f"Predicted here: {runs}."
        if tried
        else f"Here no form could be fitted without them: {choice.results[0].reason}."
    )
    return Table(
        "forms",
        "Which form the law has",
        f"{choice.rule} {judged} * is the form taken; the held-out error had no part in it.",
        ["form", "law", "error of the rule's runs", "error of the held-out runs", "residual rms"],
        body,
    )


def conventions(laws: FittedLaws) -> Table:
    """Return the exponents under each way to count parameters and compute."""
    body = []
    for row in laws.side_by_side:
        exponents = map(between, (row.alpha, row.beta, row.exponent))
        best = [power(row.C), *(["not determined"] * 2)]
        if row.optimal_N:
            ends = row.optimal_D_interval
            tokens = f" [{count(ends.low)}, {count(ends.high)}]" if ends else ""
            best[1:] = between(row.optimal_N, count), count(row.optimal_D) + tokens
        body.append([row.N, row.compute, *exponents, *best])
    return Table(
        "side-by-side",
        "The same runs under each convention",
        "a is the exponent of the optimal size, N* ~ C^a, over the compute of the runs. What N and C count moves it by "
        "more than its interval, so compare only equal conventions. N* and D* are those at ten times the largest run.",
        ["N counts", "C counts", "α", "β", "a", "at FLOP", "N*", "D*"],
        body,
    )


def approaches(laws: FittedLaws) -> Table:
    """Return the exponents by each of the three approaches."""
    body = []
    for row in laws.approaches.table:
        exponents = [between(a) if a else "too few" for a in (row.exponent, row.exponent_D)]
        body.append([row.approach, row.compute, str(row.count), *exponents])
    return Table(
        "approaches",
        "Three ways to the compute-optimal exponent",
        "N* ~ C^a and D* ~ C^b: from the best run at each compute, from parabolas through runs of equal compute, and "
        "from the fitted surface. Where they differ by more than their intervals, the exponent is not settled.",
        ["approach", "C counts", "from", "a", "b"],
        body,
    )


def kaplan(laws: FittedLaws) -> Table:
    """Return the power laws of one quantity."""
    body = [
        [f"L({row.x})", str(row.runs), between(row.alpha), digits(row.scale), digits(row.r2, 4)] for row in laws.power
    ]
    return Table(
        "power",
        "Loss as a power of one quantity",
        "L = (x_c / x)^α along the best runs. Without a floor, these flatten where the loss nears "
        "E: do not extrapolate them far.",
        ["law", "runs", "α", "x_c", "R²"],
        body,
    )


def repeats(laws: FittedLaws) -> Table | None:
    """Return what repeated tokens are worth, where the runs vary in it."""
    fitted = laws.repeats
    if not fitted:
        return None
    unknown = "" if fitted.identified else NOT_IDENTIFIED
    return Table(
        "repeats",
        "What repeated tokens are worth",
        f"U unique tokens seen for e epochs count as U + U R (1 - exp(-(e - 1) / R)). {unknown} “open” means that the "
        "runs give no end.",
        ["R", "bootstrap", "profile", "identified"],
        [[digits(fitted.R), _open_ends(fitted.bootstrap), _open_ends(fitted), "no" if unknown else "yes"]],
    )


def thresholds(laws: FittedLaws) -> Table:
    """Return the smallest model and the least compute to pass each level."""
    body = []
    for row in (row for row in laws.thresholds if not TRIVIAL.fullmatch(row.score)):
        measured, expected = [NOT_REACHED] * 2, [f"no law: {row.reason}", "–"]
        if run := row.measured:
            measured = [f"{count(run.model_size)} ({run.run})", power(run.least_flops)]
        if row.N and row.C:
            expected = [_reach(row.N, count), _reach(row.C, power)]
        # A rate in percent, bits plain.
        rate = any(kind in row.score for kind in PERCENT)
        level = f"{100 * row.level:g} %" if rate else f"{row.level:g}"
        body.append([row.score, level, *measured, *expected])
    return Table(
        "thresholds",
        "The smallest model that …",
        "Measured: the smallest run, and the cheapest, that reached the level. Expected: the compute-optimal model, by "
        "the law and the link between loss and score, with 95 % intervals; an end beyond a hundred times the largest "
        "run is not reached, one with ≤ lies at or below a hundredth of the least compute of a run.",
        ["score", "level", "smallest run", "cheapest run (FLOP)", "expected N", "expected FLOP"],
        body,
    )


def links(laws: FittedLaws) -> Table:
    """Return the links between loss and each score."""
    body = []
    for score, by_link in laws.links.items():
        for row in [] if TRIVIAL.fullmatch(score) else by_link:
            runs = f"{row.runs} ({row.at_0_or_1} at 0 or 1)" if row.at_0_or_1 else f"{row.runs}"
            error = f"{digits(row.held_out_error_percent, 2)} %"
            body.append([score, row.formula, between(row.b), digits(row.r2, 4), error, runs])
    return Table(
        "links",
        "From loss to score",
        "Each score as a line in loss L under several links, the best first: the one that, fitted "
        "without the quarter of lowest loss, predicts that quarter best (median relative error).",
        ["score", "link", "b", "R²", "held-out error", "runs"],
        body,
    )


def outcome(scored: ScoredForecast) -> Table:
    """Return forecasts beside what was measured."""
    body = []
    for row in scored.runs:
        found = ["not measured yet", "–", "–"]
        if row.measured and row.error_percent is not None:
            found = [digits(row.measured, 4), signed(row.error_percent), "yes" if row.covered else "no"]
        forecast = between(row, lambda value: digits(value, 4), "run_low", "run_high")
        body.append([row.run, count(row.model_size), count(row.tokens), forecast, *found])
    return Table(
        "outcome",
        "Forecast against outcome",
        f"Forecasts written on {scored.written_at}, with 95 % intervals of one run.",
        ["run", "model_size", "tokens", "forecast", "measured", "error", "inside"],
        body,
    )


def sweeps(swept: dict[str, Any]) -> list[Table]:
    """Return the laws of a sweep and the best values that they were fitted to."""
    shown = []
    if rows := swept["by_batch"]:
        counts = "model_size", "tokens", "batch_tokens"
        body = [[*(count(row[name]) for name in counts), digits(row["lr"]), digits(row["loss"], 4)] for row in rows]
        head = ["model_size", "tokens", "batch_tokens", "best lr", "loss"]
        shown.append(Table("batches", "Best rate of each batch", "", head, body))
    for name, law in swept.items():
        if name in ("by_batch", "left_out", "warnings"):
            continue
        body = []
        for best in law["best"]:
            recipe = [digits(best["recipe"]), signed(best["recipe_excess_percent"])]
            sizes = [count(best["model_size"]), count(best["tokens"])]
            body.append([*sizes, digits(best["value"]), digits(best["loss"], 4), *recipe])
        head = ["model_size", "tokens", f"best {name}", "loss", "Step Law", "its excess loss"]
        power_of = "; ".join(
            f"{key} = {between(Estimate(**law[key]))}" if law[key] else f"{key} not identified"
            for key in ("c", "N", "D")
        )
        shown.append(Table(name, f"{name}* = c N^a D^b: {power_of}", "", head, body))
    return shown


def _greek(text: str) -> str:
    """Return a formula or a parameter's name with Greek letters: k alpha is kα."""
    return text.replace("k alpha", "kα").replace("k beta", "kβ").replace("alpha", "α").replace("beta", "β")


def _ends(estimate: Estimate) -> str:
    return f"{digits(estimate.low, 4)} to {digits(estimate.high, 4)}"


def _end(value: float | None, places: int = 3) -> str:
    return "open" if value is None else digits(value, places)


def _open_ends(bounds: Bounds | RepeatedTokens | None) -> str:
    return f"{_end(bounds.low)} to {_end(bounds.high)}" if bounds else "–"


def _reach(estimate: ReachedEstimate, show: Callable[[float], str]) -> str:
    """Return ``value [low, high]``, an end that is a bound after ≤; "not reached" without one."""

    ends = {name: getattr(estimate, name) for name in ("value", "low", "high")}
    value, low, high = (
        NOT_REACHED if end is None else "≤ " * (name in estimate.at_most) + show(end) for name, end in ends.items()
    )
    return value if estimate.value is None else f"{value} [{low}, {high}]"
