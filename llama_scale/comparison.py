"""Arms of a study compared on the same held-out tasks: what differs, what cannot be told apart, what could have been.

An arm is scored by several runs (draws of the examples, seeds) on the same tasks. Both vary, so both are resampled: a
bootstrap over runs and tasks together. Scores of one task by several runs are never taken for independent.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from llama_scale.bootstrap import LEVEL, RESAMPLES, TAIL, percentile_interval, resample_counts, resample_indices
from llama_scale.errors import InputError

POWER = 0.8


class Difference(NamedTuple):
    """Mean of an arm less that of its control, with a 95 % interval, a two-sided p value and the standard error."""

    mean: float
    low: float
    high: float
    p: float
    error: float

    @property
    def detectable(self) -> float:
        """The difference that a repetition would find in four of five cases."""
        return (normal_quantile((1 + LEVEL) / 2) + normal_quantile(POWER)) * self.error


class Discordance(NamedTuple):
    """Tasks that only the second of two arms passes, that only the first does, and McNemar's exact p value."""

    gained: int
    lost: int
    p: float


def normal_quantile(share: float) -> float:
    """Return the value that a standard normal variable stays below with this probability."""
    from scipy.special import ndtri  # of scipy.stats, without importing all of that

    return float(ndtri(share))


def exact_interval(successes: float, trials: int) -> tuple[float, float]:
    """95 % interval of Clopper and Pearson (1934) for ``successes``, maybe a sum of shares, out of ``trials`` tasks.

    Wider than it need be, never too narrow; at no success its upper end is 1 - .025^(1/trials).
    """
    from scipy.special import betaincinv  # the quantile of scipy.stats.beta, without importing all of that

    left = trials - successes
    low = betaincinv(successes, left + 1, TAIL) if successes > 0 else 0.0
    high = betaincinv(successes + 1, left, 1 - TAIL) if left > 1e-12 else 1.0
    return float(low), float(high)


def run_width(runs: int) -> float:
    """Return by how much a bootstrap over so few runs is too narrow.

    A sample of n spreads by sqrt((n - 1) / n) too little, and its error is unknown, so that t stands where the
    percentile interval has z (Hesterberg 2015, 1411.5279: the expanded interval). For 3 runs the factor is 2.69, for 5
    it is 1.58; of a single run nothing is known.
    """
    from scipy.special import stdtrit

    if runs < 2:
        return 1.0
    share = (1 + LEVEL) / 2
    return math.sqrt(runs / (runs - 1)) * float(stdtrit(runs - 1, share)) / normal_quantile(share)


def bootstrap_means(arms: Sequence[np.ndarray], paired_runs: bool, seed: int) -> np.ndarray:
    """Return the means of the arms in each resample of runs and tasks, (RESAMPLES, arms).

    Each of ``arms`` is (runs, tasks). All have the same tasks, and where ``paired_runs`` is set row i of each is of the
    same draw, so that all arms resample the same rows. With one run an arm, tasks alone vary.
    """
    tasks = arms[0].shape[1]
    task_counts = resample_counts(tasks, RESAMPLES, seed).astype(np.float64)  # (RESAMPLES, tasks)
    means = []
    for number, scores in enumerate(arms):
        runs = len(scores)
        run_counts = resample_counts(runs, RESAMPLES, seed + 1 + (0 if paired_runs else number))  # (RESAMPLES, runs)
        of_run = scores.mean(1)  # (runs,)
        # How far a run as a whole lies from the mean of the runs is stretched, as few of them are.
        stretched = scores + ((run_width(runs) - 1) * (of_run - of_run.mean()))[:, None]  # (runs, tasks)
        sums = task_counts @ stretched.T  # (RESAMPLES, runs), of a run over the tasks of a resample
        means.append((sums * run_counts).sum(1) / (runs * tasks))  # (RESAMPLES,)
    return np.stack(means, axis=1)


def check_arms(arms: Mapping[str, np.ndarray], paired_runs: bool) -> dict[str, np.ndarray]:
    """Return the scores as float64; raise InputError unless they are finite, of the same tasks and fit."""
    scores = {name: np.asarray(values, dtype=np.float64) for name, values in arms.items()}
    first, *_ = scores
    for name, values in scores.items():
        if values.ndim != 2 or not values.size:
            raise InputError(f"{name}: scores should be runs x tasks, found the shape {values.shape}")
        if values.shape[1] != scores[first].shape[1]:
            tasks = f"{values.shape[1]} tasks beside {scores[first].shape[1]} of {first}"
            raise InputError(f"{name}: {tasks}; score the same tasks")
        if paired_runs and len(values) != len(scores[first]):
            raise InputError(f"{name}: {len(values)} runs beside {len(scores[first])} of {first}; they are not paired")
        if not np.isfinite(values).all():
            raise InputError(f"{name}: a score is not finite; score its runs again")
    return scores


def difference(control: np.ndarray, arm: np.ndarray, paired_runs: bool, seed: int = 0) -> Difference:
    """Compare the scores of an ``arm`` (runs, tasks) with those of a ``control`` on the same tasks.

    ``paired_runs`` says that row i of both is of the same draw of examples. Raises InputError where the two do not fit.
    """
    scores = check_arms({"control": control, "arm": arm}, paired_runs)
    if paired_runs:  # the spread of runs is that of their differences
        sample = bootstrap_means([scores["arm"] - scores["control"]], paired_runs, seed)[:, 0]  # (RESAMPLES,)
    else:
        means = bootstrap_means([scores["control"], scores["arm"]], paired_runs, seed)
        sample = means[:, 1] - means[:, 0]  # (RESAMPLES,)
    mean = float(scores["arm"].mean() - scores["control"].mean())
    low, high = percentile_interval(sample, (1 - LEVEL) / 2)
    beyond = min((sample <= 0).sum(), (sample >= 0).sum())
    p = min(1.0, 2 * (int(beyond) + 1) / (RESAMPLES + 1))
    return Difference(mean, float(low), float(high), p, float(sample.std(ddof=1)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p values adjusted for their number (Holm 1979), in their order.

    The smallest of n is multiplied by n, the next by n - 1 and so on, and none is less than one before it: .01, .04
    and .03 become .03, .06 and .06.
    """
    adjusted, largest = [0.0] * len(p_values), 0.0
    for done, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, p_values[index] * (len(p_values) - done)))
        adjusted[index] = largest
    return adjusted


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> Discordance:
    """Compare which of the same tasks two arms pass (McNemar 1947, with the exact binomial p value).

    Where nothing differs, each task that only one arm passes is as likely to be the one's as the other's.
    """
    from scipy.special import bdtr

    if len(first) != len(second):
        raise InputError(f"compare: {len(first)} tasks beside {len(second)}; score the same tasks")
    before, after = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    gained, lost = int((after & ~before).sum()), int((before & ~after).sum())
    p = min(1.0, 2 * float(bdtr(min(gained, lost), gained + lost, 0.5))) if gained + lost else 1.0
    return Discordance(gained, lost, p)


def paired_tasks_needed(gap: float, discordance: float) -> float:
    """Return how many tasks McNemar's test needs to find a ``gap`` of two pass rates with 80 % power (Connor 1987).

    ``discordance`` is the share of tasks that one arm alone passes; a gap cannot be larger. 5 points at 20 % take 626.
    """
    if not 0 < abs(gap) <= discordance <= 1:
        raise InputError(f"a gap of {gap:g} at a discordance of {discordance:g}: needs 0 < gap <= discordance <= 1")
    null = normal_quantile((1 + LEVEL) / 2) * math.sqrt(discordance)
    return ((null + normal_quantile(POWER) * math.sqrt(discordance - gap**2)) / gap) ** 2


def detectable_gap(tasks: int, discordance: float) -> float | None:
    """Return the least gap of two pass rates that so many paired tasks find with 80 % power, None if there is none."""
    if not 0 < discordance <= 1 or paired_tasks_needed(discordance, discordance) > tasks:
        return None
    low, high = 0.0, discordance  # of these the tasks find the second
    while high - low > 1e-9:
        middle = (low + high) / 2
        low, high = (low, middle) if paired_tasks_needed(middle, discordance) <= tasks else (middle, high)
    return high


def best_set(
    arms: Mapping[str, np.ndarray], *, lower_is_better: bool, paired_runs: bool, seed: int = 0
) -> dict[str, float]:
    """Return the arms that cannot be told from the best, each with the p value at which it would leave.

    The model confidence set of Hansen, Lunde and Nason 2011: the arm that is worst against the mean of those left, in
    standard errors, leaves as long as such a distance would be rare if all were equal. It holds the best arm in 95 of
    100 repetitions, whatever that is; the best of a table is not that. Raises InputError where the arms do not fit.
    """
    scores = check_arms(arms, paired_runs)
    sign = 1.0 if lower_is_better else -1.0
    observed = sign * np.array([values.mean() for values in scores.values()])  # (arms,)
    sample = sign * bootstrap_means(list(scores.values()), paired_runs, seed)  # (RESAMPLES, arms)
    sample += observed - sample.mean(0)  # (RESAMPLES, arms), about what was observed
    names, left, reached = list(scores), list(range(len(scores))), 0.0
    while len(left) > 1:
        distance = observed[left] - observed[left].mean()  # (left,)
        noise = sample[:, left] - sample[:, left].mean(1, keepdims=True) - distance  # (RESAMPLES, left)
        error = np.maximum(noise.std(0), np.finfo(float).tiny)  # (left,)
        worst = int((distance / error).argmax())
        rare = ((noise / error).max(1) >= (distance / error)[worst]).mean()
        reached = max(reached, float(rare))
        if reached > 1 - LEVEL:
            return {names[i]: reached for i in left}
        left.pop(worst)
    return {names[left[0]]: 1.0}


def kendall_tau(first: np.ndarray, second: np.ndarray, seed: int = 0) -> tuple[float, float, float] | None:
    """Return Kendall's tau-b of how two measures order arms, with the ends of its 95 % interval.

    Both are (arms, tasks) over the same tasks. The interval resamples arms and tasks together; draws in which a measure
    is the same for all arms have no order and are left out. None where there is no order, or of under 3 arms.
    """
    arms, tasks = first.shape
    tau = _tau(first.mean(1)[None], second.mean(1)[None])[0]
    if arms < 3 or not math.isfinite(tau):
        return None
    rows = resample_indices(arms, RESAMPLES, seed)  # (RESAMPLES, arms)
    counts = resample_counts(tasks, RESAMPLES, seed + 1) / tasks  # (RESAMPLES, tasks)
    means = (
        (counts @ scores.T)[np.arange(RESAMPLES)[:, None], rows] for scores in (first, second)
    )  # (RESAMPLES, arms)
    drawn = _tau(*means)
    low, high = percentile_interval(drawn[np.isfinite(drawn)], TAIL)
    return float(tau), float(low), float(high)


def _tau(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return tau-b of each row of two arrays (S, arms), (S,): NaN where one of them has no order.

    The pairs that both order alike, less those that they order differently, over the geometric mean of those that each
    orders at all.
    """
    a, b = (np.sign(values[:, :, None] - values[:, None, :]) for values in (first, second))  # (S, arms, arms)
    with np.errstate(invalid="ignore"):
        return (a * b).sum((1, 2)) / np.sqrt((a**2).sum((1, 2)) * (b**2).sum((1, 2)))
