"""The tables of a fine-tuning study, each with the differences that it could have found."""

from llama_scale.plotting.table import Table
from llama_scale.scaling.study.finetune.comparison import ArmResult, Comparison, Contrast, Estimate, Family
from llama_scale.scaling.study.finetune.scores import ENDPOINTS, GAIN, PRIMARY
from llama_scale.text import count, digits, megabytes

NAMES = {endpoint.key: endpoint.name for endpoint in (*ENDPOINTS, GAIN)}
APART = 2.0  # half widths of two means that a difference has to exceed, about: sqrt(2) (1.96 + .84) / 1.96
LEAST_BETA = 0.015  # at the least exponent tried the floor is anywhere
KINDS = {
    "third": ("Simple and complex functions", "third by cyclomatic complexity"),
    "paradigm": ("Paradigms", "paradigm, told by the syntax tree"),
}
SHARES = {endpoint.key for endpoint in ENDPOINTS if endpoint.share}


def tuning_tables(found: Comparison) -> list[Table]:
    """Return the claims, the arms, a table for each family of contrasts, and the forecast of the rank."""
    shown = [claims(found), arms(found), *(contrasts(family) for family in found.families), costs(found)]
    shown += [sizes(found)] if found.sizes else []
    shown += [kinds(found, name) for name in dict.fromkeys(row.field for row in found.strata)]
    shown += [ranks(found)] if found.ranks else []
    shown += [orderings(found)] if found.orderings else []
    shown += [rates(found)] if found.rates else []
    shown += [baselines(found)] if found.baselines else []
    return [table for table in shown if table.body]


def claims(found: Comparison) -> Table:
    """Return the claims of the published studies."""
    body = [[claim.claim, claim.study, claim.verdict, claim.text] for claim in found.claims]
    caption = (
        "Study A tuned GPT-2 by rank, number of samples and language; study B compared LoRA with full fine-tuning. "
        "Undecided says that these data cannot tell, not that it is false."
    )
    return Table(
        "claims", "What these data decide of the published claims", caption, ["claim", "study", "verdict", "by"], body
    )


def _cell(estimate: Estimate | None, key: str) -> str:
    if estimate is None:
        return "–"
    factor = 100 if key in SHARES else 1
    return f"{digits(factor * estimate.value)} [{digits(factor * estimate.low)}, {digits(factor * estimate.high)}]"


def arms(found: Comparison) -> Table:
    """Return each arm's scores with their intervals."""
    keys = [e.key for e in ENDPOINTS if any(e.key in arm.scores for arm in found.arms)]
    head = ["arm", "pairs", "runs", "steps", "rate"]
    head += [f"{NAMES[key]}{' (%)' if key in SHARES else ''}" for key in keys]
    body = [
        [
            arm.name, count(arm.examples) if arm.examples else "–", str(arm.runs), f"{arm.steps:.0f}",
            f"{arm.lr:.2g}" if arm.lr else "–", *(_cell(arm.scores.get(key), key) for key in keys),
        ]
        for arm in found.arms
    ]  # fmt: skip
    against_base = [one for f in found.families if f.key == "base" for one in f.of(PRIMARY.key)]
    least = max((one.detectable or 0.0 for one in against_base), default=0.0)
    caption = (
        "Means with 95 % intervals over runs and tasks together; bits per byte are the mean over "
        f"{found.tasks} held-out references, teacher-forced. Of a single run the interval is over tasks alone, of "
        "shares the exact one. – is not measured. Tasks differ more than arms do: compare arms by the tables of "
        f"differences, not by these intervals. Differences to the base below {digits(least, 2)} bits per byte may have "
        "been missed."
    )
    return Table("arms", "Arms", caption, head, body)


def contrasts(family: Family) -> Table:
    """Return a family's contrasts; its caption says which arms cannot be told from the best."""
    head = ["arm", "less", "by", "difference", "Holm p", "would be found", "gained", "lost", "McNemar p"]
    body = [_contrast(one) for one in family.contrasts]
    best = ", ".join(family.best)
    caption = (
        "Paired by task; intervals over runs and tasks together, p adjusted by Holm for the contrasts by the same "
        "endpoint. 'Would be found' is the difference that a repetition finds in four of five cases: smaller ones say "
        "nothing here. Gained and lost are tasks of the first run of each."
    )
    caption += f" Not to be told from the best in bits per byte: {best}." if best else ""
    return Table(family.key, family.title, caption, head, body)


def _contrast(one: Contrast) -> list[str]:
    factor, unit = (100, " points") if one.endpoint in SHARES else (1, "")
    mean, low, high = (digits(factor * v) for v in (one.mean, one.low, one.high))
    least = digits(factor * one.detectable) if one.detectable else "–"
    changed = [str(one.gained), str(one.lost), digits(one.mcnemar, 2)] if one.gained is not None else ["", "", ""]
    return [
        one.arm,
        one.control,
        NAMES[one.endpoint],
        f"{mean} [{low}, {high}]{unit}",
        digits(one.holm, 2),
        least,
        *changed,
    ]


def costs(found: Comparison) -> Table:
    """Return what each arm cost and forgot."""
    head = ["arm", "trained", "of all", "seconds", "peak memory", "on disk", "forgotten (bits per byte)"]
    body = [
        [
            arm.name, count(arm.trainable_params), f"{100 * arm.trainable_params / arm.n_params:.2f} %",
            digits(arm.seconds), megabytes(arm.peak_memory), megabytes(arm.weights_bytes, 2), _forgotten(arm),
        ]
        for arm in found.arms
        if arm.trained
    ]  # fmt: skip
    caption = (
        "Parameters that are trained, time of the training steps, the process's peak memory on a CPU (of tensors on a "
        "GPU), the file of weights, and the rise of the loss on the base's own validation text, with its 95 % interval "
        "over runs."
    )
    spread = [arm.forgotten_spread for arm in found.arms if arm.forgotten_spread]
    if spread:
        caption += f" Two arms that forget as differently as {digits(max(spread) * APART, 2)} would be told apart."
    return Table("costs", "What it costs", caption, head, body)


def _forgotten(arm: ArmResult) -> str:
    if arm.forgotten is None or arm.forgotten_spread is None:
        return digits(arm.forgotten)
    return f"{digits(arm.forgotten)} ± {digits(arm.forgotten_spread, 2)}"


def sizes(found: Comparison) -> Table:
    """Return how the loss falls with the number of pairs, and from which number on more of the samples parse."""
    head = ["budget", "pairs", "bits per byte", "floor", "beta", "parses more rarely", "parses more often from"]
    body = []
    for row in found.sizes:
        first = found.arm(row.arms[0])
        beta = "–" if row.beta is None else f"{row.beta:.2f} [{digits(row.beta_low, 2)}, {digits(row.beta_high, 2)}]"
        worse = "–" if row.worse is None else ", ".join(map(count, row.worse)) or "none"
        above = "–" if row.worse is None else count(row.above) if row.above else "not reached"
        what = f"{first.budget}, {f'rank {first.rank}' if first.rank else 'full'}, {first.language}"
        losses = ", ".join(digits(value, 4) for value in row.loss)
        floor = digits(row.floor, 4) if row.beta and row.beta > LEAST_BETA else "–"
        body.append([what, ", ".join(map(count, row.sizes)), losses, floor, beta, worse, above])
    caption = (
        "Bits per byte are floor + scale n^-beta of n pairs, by least squares through four sizes and more, with the "
        "interval over runs and tasks; – is an end that the runs do not bound. At .01, the least tried, the loss falls "
        "as a logarithm or faster and shows no floor. In a complexity trap a larger set parses more rarely than "
        "the smallest (Holm p below .05). The last column is the least number from which on "
        "the interval of the difference to the smallest set is above 0: the true one is that or lies between it and "
        "the number before. At equal epochs a larger set has more steps, too."
    )
    return Table("sizes", "What more pairs buy", caption, head, body)


def kinds(found: Comparison, field: str) -> Table:
    """Return what each arm gains on held-out functions of each kind: by complexity, or by paradigm."""
    rows = [row for row in found.strata if row.field == field]
    tasks = {row.value: row.tasks for row in rows}
    cells = {(row.arm, row.value): f"{digits(row.mean)} [{digits(row.low)}, {digits(row.high)}]" for row in rows}
    arms = list(dict.fromkeys(row.arm for row in rows))
    body = [[arm, *(cells.get((arm, value), "–") for value in tasks)] for arm in arms]
    least = max((row.detectable or 0.0 for row in rows), default=0.0)
    caption = (
        f"Bits per byte less the base's on the held-out functions of each {KINDS[field][1]} (and their number), with "
        "intervals over runs and tasks. Arms that are trained on one kind alone show here what it is worth to the "
        f"others. Differences to the base below {digits(least, 2)} may have been missed."
    )
    return Table(field, KINDS[field][0], caption, ["arm", *(f"{name} ({n})" for name, n in tasks.items())], body)


def orderings(found: Comparison) -> Table:
    """Return which measure orders the arms as passing does."""
    body = [
        [NAMES[row.measure], f"{digits(row.tau, 2)} [{digits(row.low, 2)}, {digits(row.high, 2)}]"]
        for row in sorted(found.orderings, key=lambda row: -row.tau)
    ]
    one = found.orderings[0]
    caption = (
        f"Kendall's tau of the order of {one.arms} arms by a measure with their order by tests passed, the better one "
        f"first in both, on {one.tasks} tasks; intervals over arms and tasks. At 1 a measure picks the arm that passes "
        "most, at 0 it says nothing of that; one whose interval holds 0 has shown nothing here."
    )
    return Table("orderings", "Does a measure order the arms as passing does?", caption, ["measure", "tau"], body)


def rates(found: Comparison) -> Table:
    """Return the rates that were tried for each arm."""
    head, body = ["arm", "chosen", "tried: bits per byte"], []
    for name in dict.fromkeys(row.arm for row in found.rates):
        own = [row for row in found.rates if row.arm == name]
        tried = "; ".join(
            f"{row.lr:.2g}: {'diverged' if row.bits_per_byte is None else digits(row.bits_per_byte, 4)}" for row in own
        )
        body.append([name, f"{own[0].chosen:.2g}", tried])
    caption = (
        "On held-out pairs that nothing else is scored on, with one draw. The rate is the minimum of a parabola in its "
        "logarithm through the best and its neighbors, in which a rate that diverged has no part."
    )
    return Table("rates", "Learning rates", caption, head, body)


def ranks(found: Comparison) -> Table:
    """Return the forecasts of the rank and their outcomes."""
    head = ["pairs", "bits", "a rank", "forecast", "written", "ranks tried", "not told from the best", "outcome"]
    body = []
    for row in found.ranks:
        outcome = {True: "right", False: "wrong", None: "not decided"}[row.right]
        if row.difference is not None:
            shown = f"rank {row.at} less the largest: {digits(row.difference)} [{digits(row.low)}, {digits(row.high)}]"
            outcome = f"{outcome}: {shown}"
        body.append([
            count(row.examples), count(row.bits), count(row.parameters_a_rank), str(row.forecast), row.written_at,
            ", ".join(map(str, row.ranks)), ", ".join(map(str, row.best)), outcome,
        ])  # fmt: skip
    caption = (
        "A rank suffices when its parameters, at 2 bits each, hold the bits of the data by the base's own reckoning. "
        "Written before any rank was tried; right when the least rank tried at or above it is within the margin of the "
        "largest."
    )
    return Table("ranks", "The rank that the data need, forecast", caption, head, body)


def baselines(found: Comparison) -> Table:
    """Return the parse rate of completions that need no model."""
    body = [[name, "not measured" if rate is None else f"{100 * rate:.1f} %"] for name, rate in found.baselines.items()]
    caption = "A parse rate that does not exceed these shows nothing."
    return Table("baselines", "Samples that need no model", caption, ["completion", "parses"], body)
