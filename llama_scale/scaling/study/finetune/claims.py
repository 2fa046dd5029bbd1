"""Claims of the two published studies, and what a study's own data say of each: supported, contradicted or undecided.

Study A tuned GPT-2 with LoRA by rank, number of samples and language; study B compared LoRA with full fine-tuning. A
claim is decided where an interval over runs and tasks decides it, and undecided where this study has no such data.
"""

from llama_scale.scaling.study.finetune.comparison import Claim, Comparison, Contrast, Family
from llama_scale.text import count, digits

SUPPORTED, CONTRADICTED, UNDECIDED = "supported", "contradicted", "undecided"
PRIMARY = "bits_per_byte"
LARGEST_PUBLISHED = 300  # pairs of study A's sizes


def claims(found: Comparison) -> list[Claim]:
    """Return the claims with what ``found`` says of them."""
    return [
        _rank(found),
        _underfits(found),
        _trap(found),
        _power_law(found),
        _size_or_steps(found),
        _language(found),
        _full(found),
        _memory(found),
        _execution(found),
        _similarity(found),
    ]


def _families(found: Comparison, kind: str) -> list[Family]:
    return [family for family in found.families if family.key.startswith(kind)]


def in_words(one: Contrast, unit: str = "bits per byte") -> str:
    """Return a contrast as a sentence's part, with its interval, Holm's p and what would have been found."""
    scale = 100 if unit == "points" else 1
    low, mean, high = (digits(scale * value) for value in (one.low, one.mean, one.high))
    least = f"{digits(scale * one.detectable)} would be found" if one.detectable else "no task differs"
    shown = f"{one.arm} less {one.control}: {mean} [{low}, {high}] {unit}"
    return f"{shown} (Holm p {digits(one.holm, 2)}; {least})"


def _rank(found: Comparison) -> Claim:
    claim = "The rank makes a difference, and 16 is the best one (saturation)"
    families = _families(found, "rank")
    if not families:
        return Claim("A", claim, UNDECIDED, "This study has one rank.")
    contrasts = [one for family in families for one in family.of(PRIMARY)]
    best = [sorted(found.arm(name).rank or 0 for name in family.best) for family in families]
    alike = "; ".join(", ".join(map(str, ranks)) for ranks in best)
    text = "; ".join(in_words(one) for one in contrasts) + f". Not to be told from the best: rank {alike}."
    if not any(one.differs for one in contrasts):
        return Claim("A", claim, UNDECIDED, f"No rank differs from the least one. {text}")
    tried = {found.arm(name).rank for one in contrasts for name in (one.control, one.arm)}
    if 16 in tried and not any(16 in ranks for ranks in best):
        return Claim("A", claim, CONTRADICTED, f"Ranks differ, and 16 is not the best. {text}")
    alone = all(ranks == [16] for ranks in best)
    return Claim("A", claim, SUPPORTED if alone else UNDECIDED, f"Ranks differ{' and 16 is best' * alone}. {text}")


def _underfits(found: Comparison) -> Claim:
    claim = "Rank 4 underfits: it has too few parameters for the data"
    one = next((one for one in found.ranks if 4 in one.ranks[:-1]), None)
    if one is None:
        return Claim("A", claim, UNDECIDED, "This study forecast no rank, or did not try rank 4 and a larger one.")
    capacity = 2 * one.parameters_a_rank
    small, large = (f"{count(rank * capacity)} bits" for rank in (4, one.ranks[-1]))
    text = (
        f"{one.examples} examples are at most {count(one.bits)} bits for this base, and an adapter of rank 4 can store "
        f"{small} (2 a parameter): rank {one.forecast} was forecast to do, on {one.written_at[:10]}, before any was "
        "tried."
    )
    names = dict(zip(one.ranks, one.arms, strict=True))
    contrasts = [c for family in _families(found, "rank") for c in family.of(PRIMARY)]
    behind = next((c for c in contrasts if (c.control, c.arm) == (names[4], names[one.ranks[-1]])), None)
    if behind is None:
        return Claim("A", claim, UNDECIDED, f"{text} Rank 4 is not compared with rank {one.ranks[-1]}.")
    text += f" Measured: {in_words(behind)}."
    if not behind.down:
        return Claim("A", claim, CONTRADICTED if behind.low > -found.margin else UNDECIDED, text)
    if 4 * capacity >= one.bits:
        return Claim("A", claim, CONTRADICTED, f"{text} Rank 4 is behind, and not for want of parameters.")
    full = [c for f in _families(found, "method") for c in f.of(PRIMARY) if c.arm == behind.arm and c.up]
    if full and one.ranks[-1] * capacity >= one.bits:
        text += (
            f" But rank {one.ranks[-1]}, which can store {large}, is behind full fine-tuning by {digits(full[0].mean)}"
        )
        return Claim("A", claim, UNDECIDED, f"{text}, so that it is not the number of parameters alone.")
    return Claim("A", claim, SUPPORTED, text)


def _trap(found: Comparison) -> Claim:
    claim = "Complexity trap: with more samples the syntax rate falls, until there are many"
    sizes = [one for f in _families(found, "size") for one in f.of("parses") if "step" in found.arm(one.arm).budget]
    if not sizes:
        return Claim("A", claim, UNDECIDED, "This study does not compare syntax rates at equal steps.")
    text = "At equal steps " + "; ".join(in_words(one, "points") for one in sizes) + "."
    from_here = [row.above for row in found.sizes if "step" in found.arm(row.arms[0]).budget]
    text += "".join(f" From {count(n)} pairs on every set parses more often than the smallest." for n in from_here if n)
    runs = min(found.arm(one.arm).scores["parses"].runs for one in sizes)
    if runs < 2:
        text += " One run of each arm was sampled, so that a change may be that of its draw."
    if any(one.down for one in sizes):
        return Claim("A", claim, SUPPORTED if runs > 1 else UNDECIDED, text)
    if all(one.low > 0 for one in sizes) and runs > 1:
        return Claim("A", claim, CONTRADICTED, f"Every larger set has a higher rate than the smallest. {text}")
    return Claim("A", claim, UNDECIDED, f"No fall beyond chance. {text}")


def _power_law(found: Comparison) -> Claim:
    claim = "Scaling laws do not hold for code: more samples are not steadily better"
    known = [row for row in found.sizes if row.beta is not None]
    if not known:
        return Claim("A", claim, UNDECIDED, "This study has not four numbers of pairs at one budget.")
    texts = []
    for row in known:
        ends = ", ".join("–" if end is None else f"{end:.2f}" for end in (row.beta_low, row.beta_high))
        texts.append(
            f"{found.arm(row.arms[0]).budget} of {', '.join(map(count, row.sizes))} pairs: {row.beta:.2f} [{ends}]"
        )
    text = f"Exponent of n in floor + scale n^-beta bits per byte: {'; '.join(texts)}."
    falls = all(row.beta_low is not None for row in known)
    return Claim("A", claim, CONTRADICTED if falls else UNDECIDED, text)


def _size_or_steps(found: Comparison) -> Claim:
    claim = "What 50, 150 and 300 samples differ by is the data (3 epochs each)"
    budgets, sizes = _families(found, "budget"), _families(found, "size")
    if not budgets or not sizes:
        return Claim("A", claim, UNDECIDED, "This study has not both equal epochs and equal steps.")
    pairs = []
    for most in (LARGEST_PUBLISHED, None):
        found_pair = [_largest(found, sizes, budget, most) for budget in ("epoch", "step")]
        pairs += [found_pair] if all(found_pair) and found_pair not in pairs else []
    if not pairs:
        return Claim("A", claim, UNDECIDED, "Equal epochs and equal steps are not of the same sizes.")
    texts, shares = [], []
    for epochs, steps in pairs:
        assert epochs and steps
        shares.append(steps.mean / epochs.mean if epochs.differs else None)
        texts.append(f"Equal epochs: {in_words(epochs)}. Equal steps: {in_words(steps)}.")
        if shares[-1] is not None:
            texts.append(f"Data alone makes {shares[-1]:.0%} of the difference; the rest is the number of steps.")
    share, text = shares[0], " ".join(texts)
    if share is None:
        return Claim("A", claim, UNDECIDED, text)
    return Claim("A", claim, CONTRADICTED if share < 0.5 else SUPPORTED if share > 0.8 else UNDECIDED, text)


def _largest(found: Comparison, sizes: list[Family], budget: str, most: int | None) -> Contrast | None:
    """Return the contrast of the largest set, of at most so many pairs, with the smallest under a kind of budget."""
    contrasts = [one for family in sizes for one in family.of(PRIMARY) if budget in found.arm(one.arm).budget]
    contrasts = [one for one in contrasts if most is None or (found.arm(one.arm).examples or 0) <= most]
    return max(contrasts, key=lambda one: found.arm(one.arm).examples or 0, default=None)


def _language(found: Comparison) -> Claim:
    claim = "Java is learned best (syntax rate 100 %), Python worst"
    languages = sorted({arm.language for arm in found.arms})
    if len(languages) < 2:
        text = f"This study has {languages[0]} alone. (The published 100 % is of a compiler that was not there.)"
        return Claim("A", claim, UNDECIDED, text)
    rows = [arm for arm in found.arms if arm.trained and "parses" in arm.scores]
    text = "; ".join(
        f"{arm.name} {100 * arm.scores['parses'].value:.1f} % "
        f"[{100 * arm.scores['parses'].low:.1f}, {100 * arm.scores['parses'].high:.1f}]" for arm in rows
    )  # fmt: skip
    gains = [one for family in _families(found, "language") for one in family.of("gain")]
    text = f"Syntax rates by the languages' own parsers: {text or 'not measured'}. "
    if not gains:
        text += "What cut text a parser accepts differs by language, and the tasks are not the same."
        return Claim("A", claim, UNDECIDED, text)
    text += f"Gained over the base on the same tasks: {'; '.join(in_words(one) for one in gains)}."
    return Claim("A", claim, SUPPORTED if all(one.up for one in gains) else UNDECIDED, text)


def _full(found: Comparison) -> Claim:
    claim = "LoRA is about as good as full fine-tuning"
    families = _families(found, "method")
    if not families:
        return Claim("B", claim, UNDECIDED, "This study has no full fine-tuning beside adapters.")
    contrasts = families[0].of(PRIMARY)
    text = "; ".join(in_words(one) for one in contrasts) + ", each at a rate of its own."
    base = {one.arm: one.mean for family in _families(found, "base") for one in family.of(PRIMARY)}
    control = contrasts[0].control
    gain = -base.get(control, 0.0)
    worst = max(one.high for one in contrasts)
    if gain > 0 and worst < 0.1 * gain:
        return Claim("B", claim, SUPPORTED, f"{text} Full fine-tuning gains {digits(gain)}.")
    if all(one.up for one in contrasts):
        return Claim("B", claim, CONTRADICTED, f"{text} Full fine-tuning gains {digits(gain)} and every adapter less.")
    return Claim("B", claim, UNDECIDED, f"{text} Full fine-tuning gains {digits(gain)}.")


def _memory(found: Comparison) -> Claim:
    claim = "LoRA needs much less memory and time"
    full = next((arm for arm in found.arms if arm.method == "full"), None)
    lora = [
        arm for arm in found.arms if full and arm.rank and (arm.examples, arm.budget) == (full.examples, full.budget)
    ]
    if full is None or not lora:
        return Claim("B", claim, UNDECIDED, "This study has no full fine-tuning beside adapters.")
    text = "; ".join(
        f"{arm.name}: {arm.peak_memory / full.peak_memory:.2f} times the peak memory of {full.name}, "
        f"{arm.seconds / full.seconds:.2f} times the time, {arm.weights_bytes / full.weights_bytes:.2f} times the file"
        for arm in lora
    )
    if full.n_params < 1e8:
        text += f". A model of {count(full.n_params)} parameters cannot decide it: the process outweighs its states"
        return Claim("B", claim, UNDECIDED, f"{text}.")
    less = all(arm.peak_memory < 0.7 * full.peak_memory and arm.seconds < full.seconds for arm in lora)
    return Claim("B", claim, SUPPORTED if less else CONTRADICTED, f"{text}.")


def _execution(found: Comparison) -> Claim:
    claim = "Fine-tuning reaches an execution pass rate of 40 %"
    measured = [arm for arm in found.arms if arm.trained and "passed" in arm.scores]
    if not measured:
        text = "No task here has tests. That a definition runs is no pass: it runs wherever it parses."
        return Claim("B", claim, UNDECIDED, f"{text} (39.58 % is 19 of 48, 26 to 55 %.)")
    best = max(measured, key=lambda arm: arm.scores["passed"].value)
    share = best.scores["passed"]
    text = f"{best.name} passes {100 * share.value:.1f} % [{100 * share.low:.1f}, {100 * share.high:.1f}]."
    return Claim("B", claim, SUPPORTED if share.low > 0.35 else CONTRADICTED if share.high < 0.35 else UNDECIDED, text)


def _similarity(found: Comparison) -> Claim:
    claim = "BLEU and ROUGE-L say which model writes better code"
    known = [one for one in found.agreement if one.value is not None]
    if not known:
        text = "No task has both passing and failing samples, so that no similarity can be held against passing."
        return Claim("A, B", claim, UNDECIDED, text)
    text = "; ".join(f"{one.metric} {digits(one.value)} [{digits(one.low)}, {digits(one.high)}]" for one in known)
    low = max(one.low or 0.0 for one in known)
    verdict = SUPPORTED if low > 0.8 else UNDECIDED
    return Claim("A, B", claim, verdict, f"Chance that the passing one of two samples has the higher value: {text}.")
