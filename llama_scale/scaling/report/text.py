"""A fit in words and numbers that a person reads: the printed table and the answer in prose."""

import numpy as np

from llama_scale.scaling.fitting.fitted_laws import FittedLaws, FormChoice, HoldOutSummary
from llama_scale.scaling.fitting.points import Points
from llama_scale.scaling.forecasting.recommend import untrusted_ratio
from llama_scale.text import between, count, digits, power, signed

NEAR_BEST = 0.05
EXTRAPOLATES = 1.2  # times the compute fitted; below, a hold-out is no extrapolation
SMALL = 1e8
SUITES = {"humaneval": "HumanEval", "mbpp": "MBPP", "apps": "APPS"}


def held_out(laws: FittedLaws) -> str | None:
    """Return the hold-out in one sentence; None where there is none."""
    held = laws.holdout
    if not held:
        return None
    rows, reach = held.runs, held_out_reach(laws, held)
    if len(rows) > 1:
        return (
            f"The {len(rows)} runs left out, up to {reach}, "
            f"were predicted with a median error of {digits(held.median_absolute_error_percent, 2)} %; {held.covered} "
            f"of {len(rows)} measured losses lie inside their 95 % interval (±{digits(held_out_width(laws), 2)} %)."
        )
    row, largest = rows[0], "largest run" if held.compute_factor > 1 else "run"
    return (
        f"The {largest} ({row.run}, {reach}), left out of the fit, was predicted at {digits(row.predicted, 4)} "
        f"[{digits(row.low, 4)}, {digits(row.high, 4)}] and measured {digits(row.measured, 4)}: an error of "
        f"{signed(row.error_percent)}, {'inside' if row.covered else 'outside'} the 95 % interval "
        f"(±{digits(held_out_width(laws), 2)} %)."
    )


def held_out_reach(laws: FittedLaws, held: HoldOutSummary) -> str:
    """Return how far beyond the runs fitted those held out lie, in compute and, where that is little, in N and D."""
    reach = f"{digits(held.compute_factor)} times the compute of any run fitted"
    if held.compute_factor >= EXTRAPOLATES:
        return reach
    beyond = []
    for name, what in (("model_size", "size"), ("tokens", "tokens")):
        left_out = [getattr(run, name) for run in held.runs]
        fitted = [getattr(run, name) for run in laws.runs if not run.held_out]
        more, less = max(left_out) / max(fitted), min(left_out) / min(fitted)
        if more >= EXTRAPOLATES:
            beyond.append(f"up to {digits(more)} times the {what}")
        if less <= 1 / EXTRAPOLATES:
            beyond.append(f"down to {digits(less)} times the least {what}")
    return f"{reach}, but {' and '.join(beyond)}" if beyond else f"{reach}, so that nothing was extrapolated"


def why_chosen(choice: FormChoice) -> str:
    """Return which form of the law was taken, and what the rule went by."""
    errors = {
        row.form: row.validation_error_percent for row in choice.results if row.validation_error_percent is not None
    }
    if not errors:
        return f"{choice.chosen}: no form could be fitted without the runs that are to judge it"
    best = min(errors, key=lambda form: errors[form])
    judges = f"the largest {len(choice.validation_runs)} runs not held out"
    shown = {form: f"{digits(error, 2)} %" for form, error in errors.items()}
    if best == choice.chosen:
        return f"{best}, which predicts best {judges} (rms error {shown[best]})"
    return (
        f"{choice.chosen}: {best} does not predict {judges} clearly better (rms error {shown[best]} against "
        f"{shown[choice.chosen]})"
    )


def held_out_width(laws: FittedLaws) -> float | None:
    """Return half the (median) width of the held-out runs' intervals, in percent of the loss predicted."""
    if not laws.holdout:
        return None
    return float(np.median([50 * (row.high - row.low) / row.predicted for row in laws.holdout.runs]))


def noise(laws: FittedLaws) -> str | None:
    """Return the scatter of equal runs in one sentence; None where no run was repeated."""
    found = laws.noise
    if not found:
        return None
    return (
        f"Runs of equal size, tokens and settings scatter by {digits(found.percent, 2)} % of the loss "
        f"({found.runs} runs in {found.groups} groups; 95 % interval {digits(found.low, 2)} to "
        f"{digits(found.high, 2)} %): no law can predict one run better."
    )


def answer(laws: FittedLaws, points: Points) -> list[str]:
    """Return the study's answer as sentences made from its numbers."""
    frontier = laws.best_frontier
    here, then = frontier.largest, frontier.next
    law = laws.law
    halved = [100 * (1 - 2 ** -(law.k * exponent)) for exponent in (law.alpha, law.beta)]
    joint = " where nothing but size limits" if law.k != 1 else ""
    joint_data = " where nothing but data does" if law.k != 1 else ""
    gain = 100 * (1 - then.loss.value / here.loss.value)
    sizes = len(np.unique(points.N))
    sentences = [
        f"In this study of {len(points)} runs ({sizes} sizes of {count(points.N.min())} to {count(points.N.max())} "
        f"parameters, {count(points.D.min())} to {count(points.D.max())} training tokens) the validation loss falls as "
        f"a power of both: twice the parameters take {halved[0]:.0f} % off the part of the loss that size governs"
        f"{joint}, twice the tokens {halved[1]:.0f} % off the part that data governs{joint_data}.",
        f"Ten times the compute of the largest run ({power(then.C)} FLOP) is best spent on {count(then.N.value)} "
        f"parameters and {count(then.D.value)} tokens, and should take the best loss from {digits(here.loss.value)} to "
        f"{between(then.loss, digits, 'run_low', 'run_high')}, {gain:.0f} % lower.",
    ]
    if reason := untrusted_ratio(then.N.value, then.D.value):
        sentences[1] = f"For ten times the compute of the largest run ({power(then.C)} FLOP) {reason}: no recipe."
    if not frontier.determined:
        what = f"{len(points)} runs ({sizes} sizes, {len(np.unique(points.D))} numbers of tokens)"
        sentences = [f"The {what} do not show a law in both size and data: {frontier.reason}."]
    return [*sentences, *filter(None, [held_out(laws), noise(laws), *smallest(points)])]


def smallest(points: Points) -> list[str]:
    """Return what the smallest model that reaches a level is, for the levels the runs can show."""

    def cheapest(reached: np.ndarray) -> int:
        return min(np.flatnonzero(reached).tolist(), key=lambda i: (points.N[i], points.compute[i]))

    best = points.loss.min()
    first = cheapest(points.loss <= (1 + NEAR_BEST) * best)
    size, loss = count(points.N[first]), digits(points.loss[first])
    within = f"within {100 * NEAR_BEST:.0f} % of the best"
    sentences = [
        f"The smallest model {within} loss measured has {size} parameters ({loss} against {digits(best)})."
        if points.loss[first] > best
        else f"No smaller model is {within} loss measured, {loss} with {size} parameters."
    ]
    columns = [column for column in sorted(points.rows[0]) if points.has(column)]
    for column in (c for c in columns if c.endswith("_gold_bits_per_byte")):
        bits = points.numeric(column)
        best, suite = int(np.nanargmin(bits)), column.removesuffix("_gold_bits_per_byte")
        sentences.append(
            f"{SUITES.get(suite, suite)}'s reference solutions take {digits(np.nanmax(bits))} to {digits(bits[best])} "
            f"bits per byte, the fewest with {count(points.N[best])} parameters after {count(points.D[best])} tokens."
        )
    for column in (c for c in columns if c.endswith("_pass_at_1")):
        sentences.append(solved(column.removesuffix("_pass_at_1"), points.numeric(column), points.N.max() < SMALL))
    return sentences


def solved(suite: str, rate: np.ndarray, small: bool) -> str:
    """Return what pass@1 (n,) says, honest at zero; ``small``: no model could be expected to."""
    suite = SUITES.get(suite, suite)
    if np.nanmax(rate) == 0:
        expected = ", as expected of models this small: quality is read from bits per byte"
        return f"No run solved a {suite} task (pass@1 is 0 throughout){expected if small else ''}."
    return (
        f"{suite} pass@1 is above 0 for {(rate > 0).sum()} of {np.isfinite(rate).sum()} runs, at "
        f"most {100 * np.nanmax(rate):.1f} %."
    )


def table(laws: FittedLaws) -> str:
    """Return the short table that ``launch/scaling.py fit`` prints."""
    data, law, counted = laws.points, laws.surface, laws.conventions
    chosen = f", {data.where}" if data.where else ""
    lines = [
        f"{data.fitted} of {data.rows} runs of {data.file}{chosen}",
        f"N: {counted.model_size}; D: {counted.tokens}; loss: {counted.loss}",
        f"{law.formula}, with 95 % intervals from {law.bootstrap.resamples} resamples ({law.bootstrap.kind})",
    ]
    if laws.forms:
        lines.insert(2, f"Form of the law: {why_chosen(laws.forms)}")
    lines += [f"  {name:<6} {between(p, lambda v: digits(v, 4))}" for name, p in law.parameters.items()]
    lines += [f"  {name:<6} {between(p, lambda v: digits(v, 4))}" for name, p in law.limits.items()]
    check = law.second_optimizer.relative_excess
    lines += [
        f"  {law.objective.kind}: {law.objective.value:.8f} ({law.share_of_starts_at_optimum:.0%} of {law.starts} "
        f"starts end there; a second optimizer {'agrees' if abs(check) < 1e-6 else f'differs by {check:+.1e}'})",
        f"  residuals: rms {digits(law.residual_percent.rms, 2)} %",
        *filter(None, [noise(laws)]),
        "Compute-optimal size, N* ~ C^a:",
    ]
    for frontier in laws.frontier:
        then = frontier.next
        if not frontier.determined:
            lines.append(f"  C = {frontier.convention}: {frontier.reason}")
            continue
        lines.append(
            f"  C = {frontier.convention}: a = {between(frontier.exponent)}; at {power(then.C)} FLOP ({then.factor}x "
            f"the largest run) N* = {between(then.N, count)}, D* = {between(then.D, count)}, loss "
            f"{between(then.loss, digits, 'run_low', 'run_high')}"
        )
        if reason := untrusted_ratio(then.N.value, then.D.value):
            lines.append(f"    no recipe: {reason}")
    if laws.holdout:
        lines.append(f"Held out: {held_out(laws)}")
        for row in laws.holdout.runs:
            lines.append(
                f"  {row.run:<24} predicted {row.predicted:.4f} [{row.low:.4f}, {row.high:.4f}]  measured "
                f"{row.measured:.4f}  {signed(row.error_percent)}  {'inside' if row.covered else 'OUTSIDE'}"
            )
    lines += [f"warning: {text}" for text in laws.warnings]
    return "\n".join(lines)
