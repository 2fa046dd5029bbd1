"""What a fitted law recommends for a budget: a size, its data and its recipe."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import root_scalar

from llama_scale.bootstrap import percentile_interval
from llama_scale.config import CONFIGS, load_size
from llama_scale.cost.accounting import count_parameters
from llama_scale.cost.hardware import DEFAULT_MFU, HARDWARE
from llama_scale.errors import InputError, nearest
from llama_scale.scaling.fitting.checks import implausible_units, small_counts
from llama_scale.scaling.fitting.fitted_laws import FittedLaws, RunEstimate
from llama_scale.scaling.fitting.results.summarize import EMBEDDED, HEADED
from llama_scale.text import between, count, digits, power, signed
from llama_scale.training.recipe import ladder_width, lr_cap, step_law_batch, step_law_lr

HOUR = 3_600  # seconds
FURTHEST = 10  # times the compute of the runs that a law is trusted with
LEAST_WIDTH = 16  # of a model
TRUSTED_RATIO = 1.0, 10_000.0  # tokens per parameter
TOO_FAR = "more than ten times outside the runs, laws err by more than their intervals say"
USUAL_VOCABULARY = "  counted with a tied vocabulary of 32,000 tokens: the points name no one vocabulary of theirs"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A run: its size as the law counts it, tokens, Step Law recipe and the loss to expect."""

    model_size: float
    tokens: float
    batch_tokens: int
    steps: float
    lr: float
    loss: RunEstimate
    bits_per_byte: RunEstimate | None


@dataclass(frozen=True, kw_only=True)
class OptimalPlan(Plan):
    """The best use of a budget by the law, with the 95 % intervals of its size and tokens."""

    model_size_interval: list[float]
    tokens_interval: list[float]


@dataclass(frozen=True, kw_only=True)
class RungPlan(Plan):
    """The best use of a budget on the rung nearest to the best size."""

    size: str
    vocabulary_recorded: bool  # whether the points name what the rung's size depends on
    excess_percent: float  # of its loss over the best


@dataclass(frozen=True)
class Multiples:
    """A budget and its best size and tokens over those of the runs."""

    flops: float
    model_size: float
    tokens: float


@dataclass(frozen=True)
class Recommendation:
    """The best use of a budget, and what it is of the greatest runs (``beyond``) and of the least (``below``).

    Where the law cannot be trusted with the budget, ``best`` and ``rung`` are None, ``reason`` says why, and ``first``
    is the run to make before: at most ten times outside the runs, on tokens per parameter as they have.
    """

    flops: float
    convention: str
    gpu: str
    mfu: float
    gpu_hours: float
    best: OptimalPlan | None
    rung: RungPlan | None
    beyond: Multiples
    below: Multiples
    reason: str | None = None
    first: Plan | None = None


def budget(flops: float | None, gpu_hours: float | None, gpu: str, mfu: float) -> float:
    """Return training FLOPs of a budget given as one of FLOPs and GPU-hours."""
    given = {name: x for name, x in (("budget", flops), ("gpu_hours", gpu_hours)) if x is not None}
    if len(given) != 1:
        raise InputError("give one of a budget in FLOPs and gpu_hours")
    ((name, value),) = given.items()
    if not 0 < mfu <= 1:
        raise InputError(f"mfu: expected a share of the peak in (0, 1], found {mfu}")
    if not 0 < value < math.inf:
        raise InputError(f"{name}: expected a positive number, found {value}")
    return value if name == "budget" else value * HOUR * peak(gpu) * mfu


def peak(gpu: str) -> float:
    """Return the dense bf16 peak of a GPU by name, in FLOP/s."""
    if gpu.lower() not in HARDWARE:
        raise InputError(f"gpu: {gpu!r} is not known{nearest(gpu, HARDWARE)}; known: {', '.join(HARDWARE)}")
    return HARDWARE[gpu.lower()].peak


def recommend(laws: FittedLaws, C: float, gpu: str = "h200", mfu: float = DEFAULT_MFU) -> Recommendation:
    """Return the best use of C FLOPs: by the law, and on the rung nearest to it.

    Both spend C as the law's runs count it, in their vocabulary and context. More than ten times outside the runs, or
    where the law asks for fewer tokens than parameters or over 10,000 times as many, it is the run to make first
    instead (``Recommendation.first``). Raises InputError where the runs do not show an optimum or their units cannot
    be plain.
    """
    if not laws.best_frontier.determined:
        raise InputError(f"{laws.points.file}: {laws.best_frontier.reason}")
    check_units(laws)
    N, D = (float(x[0]) for x in laws.law.optimum(np.array([C]), laws.flops))
    runs = laws.fitted_flops, laws.column("model_size"), laws.column("tokens")  # (n,) each
    beyond, below = (
        Multiples(*(float(value / end(of_runs)) for value, of_runs in zip((C, N, D), runs, strict=True)))
        for end in (np.max, np.min)
    )
    reason = _distrusted(laws, N, D, beyond, below)
    best, rung = (None, None) if reason else _plans(laws, C, N, D)
    return Recommendation(
        flops=C,
        convention=laws.flops.name,
        gpu=gpu,
        mfu=mfu,
        gpu_hours=C / (peak(gpu) * mfu * HOUR),
        best=best,
        rung=rung,
        beyond=beyond,
        below=below,
        reason=reason,
        first=_first_run(laws, C) if reason else None,
    )


def check_units(laws: FittedLaws) -> None:
    """Raise InputError where the runs that a law was fitted to cannot have been counted plainly."""
    N, D, flops = laws.column("model_size"), laws.column("tokens"), laws.column("flops")  # (n,) each
    exactly = "exactly" in laws.conventions.flops  # as this project counts, head and attention included
    if found := implausible_units(N, D, None if exactly else flops):
        raise InputError(f"{laws.points.file}: run {laws.runs[found[0]].run}: {found[1]}, then fit again")
    if small := small_counts(N, D):
        raise InputError(f"{laws.points.file}: {small[0]} Write plain numbers, then fit again")


def _distrusted(laws: FittedLaws, N: float, D: float, beyond: Multiples, below: Multiples) -> str | None:
    """Return why the law's best N and D are no recipe; None where they are one."""
    if beyond.flops > FURTHEST:
        return f"the budget is {digits(beyond.flops)} times the compute of the largest run; {TOO_FAR}"
    if below.flops < 1 / FURTHEST:
        return f"the budget is {digits(below.flops)} times the compute of the smallest run; {TOO_FAR}"
    return below_embedding(laws, N) or untrusted_ratio(N, D)


def below_embedding(laws: FittedLaws, N: float) -> str | None:
    """Return that no model has so few parameters, where they count a table of tokens; None where one can."""
    vocabulary = laws.model.get("vocab_size")
    if EMBEDDED not in laws.conventions.model_size or not vocabulary:
        return None
    tables = (1 if laws.model.get("tie_embeddings", True) else 2) * vocabulary * LEAST_WIDTH
    if tables <= N:
        return None
    return (
        f"{count(N)} parameters are fewer than the embedding of {vocabulary:,} tokens alone takes at a width of "
        f"{LEAST_WIDTH} ({count(tables)})"
    )


def untrusted_ratio(N: float, D: float) -> str | None:
    """Return what is wrong with the tokens per parameter of a best N and D; None where models are trained so."""
    return f"the law asks for {odd}" if (odd := odd_ratio(N, D)) else None


def odd_ratio(N: float, D: float) -> str | None:
    """Return the tokens per parameter of N and D in words where no model is trained so, else None."""
    least, most = TRUSTED_RATIO
    if least <= D / N <= most:
        return None
    return f"{digits(D / N)} tokens per parameter, where no model is known to train well"


def _plans(laws: FittedLaws, C: float, N: float, D: float) -> tuple[OptimalPlan, RungPlan]:
    """Return the best use of C FLOPs, N parameters and D tokens, and that on the rung nearest to it."""
    samples = laws.resampled.optimum(np.array([C]), laws.flops)  # (S, 1) each
    sizes, tokens = ([float(end[0]) for end in percentile_interval(x)] for x in samples)
    best = OptimalPlan(**_recipe(laws, N, D), model_size_interval=sizes, tokens_interval=tokens)
    rungs = {path.stem: rung_size(laws, path.stem) for path in sorted(CONFIGS.glob("size/*.yaml"))}
    name, size = min(rungs.items(), key=lambda rung: abs(math.log(rung[1] / N)))
    values = _recipe(laws, size, C / float(laws.flops.per_token(size)))
    rung = RungPlan(
        **values,
        size=name,
        vocabulary_recorded=_vocabulary_recorded(laws),
        excess_percent=100 * (values["loss"].value / best.loss.value - 1),
    )
    if min(best.steps, rung.steps) < 1:
        raise InputError(
            f"{C:g} FLOPs buy {digits(D)} tokens of the best size and {digits(rung.tokens)} of the nearest rung, "
            f"{name}: less than one batch; the smallest run fitted took {laws.fitted_flops.min():.3g} FLOPs"
        )
    return best, rung


def _first_run(laws: FittedLaws, C: float) -> Plan:
    """Return the run to make before C FLOPs are spent by the law: as near to its optimum there as the runs reach.

    Its compute lies within ten times that of the runs, its tokens per parameter within those of the runs, as far as
    these are usual.
    """
    compute = float(np.clip(C, laws.fitted_flops.min() / FURTHEST, laws.fitted_flops.max() * FURTHEST))
    N, D = (float(x[0]) for x in laws.law.optimum(np.array([compute]), laws.flops))
    measured = laws.column("tokens") / laws.column("model_size")
    least, most = np.clip((measured.min(), measured.max()), *TRUSTED_RATIO)
    ratio = float(np.clip(D / N, least, most))
    if ratio != D / N:
        # The size whose tokens, at this compute, are ``ratio`` times as many: compute rises with it.
        cost = root_scalar(
            lambda n: laws.flops.per_token(np.exp(n)) * ratio * np.exp(n) / compute - 1, bracket=(0, 80), xtol=1e-12
        )
        N = math.exp(cost.root)
        D = compute / float(laws.flops.per_token(N))
    plan = Plan(**_recipe(laws, N, D))
    return plan if plan.steps >= 1 else _first_run(laws, float(laws.fitted_flops.max()))


def _recipe(laws: FittedLaws, N: float, D: float) -> dict[str, Any]:
    """Return the fields of a ``Plan`` of N parameters and D tokens."""
    loss, batch = laws.predict(N, D), step_law_batch(D)
    return {
        "model_size": N,
        "tokens": D,
        "batch_tokens": batch,
        "steps": D / batch,
        "lr": step_law_lr(N, D),
        "loss": loss,
        "bits_per_byte": laws.bits_per_byte(loss),
    }


def rung_size(laws: FittedLaws, name: str) -> int:
    """Return the parameters of a rung as the law counts them, with the models of its runs."""
    counted = count_parameters(load_size(name, **laws.model))
    if EMBEDDED in laws.conventions.model_size:
        return counted.total
    return counted.matmul if HEADED in laws.conventions.model_size else counted.non_embedding


def _vocabulary_recorded(laws: FittedLaws) -> bool:
    """Return whether the points name what the size of a rung depends on, as the law counts it."""
    needed = {EMBEDDED: ("vocab_size", "tie_embeddings"), HEADED: ("vocab_size",)}
    counted = laws.conventions.model_size
    names = [name for part, settings in needed.items() if part in counted for name in settings]
    return all(name in laws.model for name in names)


def recommendation_text(recommendation: Recommendation, counted: str) -> str:
    """Return a recommendation as text; ``counted`` says what the law's parameters count."""
    best, rung = recommendation.best, recommendation.rung
    lines = [
        f"{power(recommendation.flops)} FLOP ({recommendation.convention}): {digits(recommendation.gpu_hours)} hours "
        f"of one {recommendation.gpu} at {recommendation.mfu:.0%} of its bf16 peak",
        *(_plans_text(best, rung, counted) if best and rung else _first_text(recommendation, counted)),
        _multiples_text(recommendation.beyond, recommendation.below, with_plan=best is not None),
    ]
    return "\n".join(lines)


def _plans_text(best: OptimalPlan, rung: RungPlan, counted: str) -> list[str]:
    sizes, tokens = (", ".join(count(end) for end in ends) for ends in (best.model_size_interval, best.tokens_interval))
    return [
        f"  size    {count(best.model_size)} [{sizes}] ({counted})",
        f"  tokens  {count(best.tokens)} [{tokens}]",
        *_recipe_text(best),
        f"Nearest rung: {rung.size}, {count(rung.model_size)} parameters, "
        f"{count(rung.tokens)} tokens (loss {signed(rung.excess_percent)} from the best)",
        *_recipe_text(rung),
        *([] if rung.vocabulary_recorded else [USUAL_VOCABULARY]),
    ]


def _first_text(recommendation: Recommendation, counted: str) -> list[str]:
    first = recommendation.first
    if first is None:
        return []
    return [
        f"No recipe: {recommendation.reason}.",
        "Run this first, then fit again:",
        f"  size    {count(first.model_size)} ({counted})",
        f"  tokens  {count(first.tokens)}, {digits(first.tokens / first.model_size)} a parameter",
        *_recipe_text(first),
    ]


def _multiples_text(beyond: Multiples, below: Multiples, with_plan: bool) -> str:
    """Return where a budget lies among those of the runs, as text; its best size and tokens where they are told."""
    small = below.flops < 1
    times, run, most = (below, "smallest", "fewest") if small else (beyond, "largest", "most")
    verdict = "below" if small else "an extrapolation beyond" if beyond.flops > 1 else "within"
    best = f" (best size {digits(times.model_size)} times the {run}, tokens {digits(times.tokens)} times the {most})"
    return (
        f"This budget is {digits(times.flops)} times the compute of the {run} run fitted{best if with_plan else ''}, "
        f"{verdict} the compute measured."
    )


def _recipe_text(plan: Plan) -> list[str]:
    capped = plan.lr == lr_cap(ladder_width(plan.model_size))
    rate = f"{plan.lr:.2e} (Step Law{', capped by width' if capped else ''})"
    lines = [
        f"  batch   {count(plan.batch_tokens)} tokens, {count(plan.steps)} steps; rate {rate}",
        f"  loss    {between(plan.loss, digits, 'run_low', 'run_high')}",
    ]
    if plan.bits_per_byte:
        lines.append(f"  bits per byte {between(plan.bits_per_byte, digits, 'run_low', 'run_high')}")
    return lines
