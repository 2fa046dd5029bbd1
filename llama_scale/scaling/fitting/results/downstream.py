"""From loss to what a model can do: links from loss to score, and thresholds by size and compute.

pass@k is a smooth function of loss, but the form that is straight decides what a larger model is
promised: from the Codex models below 1B, log(-log p) predicts 37 % for 12B, logit 54 %, and
measured were 29 %. So every link is fitted without the best runs and chosen by how it predicts
them. A threshold is the smallest model, and the least compute, at which a score passes a level.
"""

import re
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import expit

from llama_scale.bootstrap import percentile_interval, resample_indices
from llama_scale.scaling.fitting.chinchilla import Flops
from llama_scale.scaling.fitting.fit import Fit
from llama_scale.scaling.fitting.fitted_laws import Estimate, MeasuredRun, ReachedEstimate, ScoreLink, Threshold
from llama_scale.scaling.fitting.points import Points

# Not parse_rate: blank lines, comments and a repeated line parse too, so that it falls while models improve.
RATE = re.compile(r"(?:.*_)?(?:pass_at_[0-9]+(?:_.*)?|nontrivial_parse_rate)")
# What stands beside a rate: ends of its interval, its error, the counts behind it.
BESIDE = "_low", "_high", "_se", "_std", "_stderr", "_n", "_count", "_tasks", "_total", "_samples"
BITS = re.compile(r"(?:.*_)?bits_per_byte")
HELD_OUT, MIN_LOSSES = 0.25, 5
RESAMPLES = 500
FURTHEST = 100.0
LEVELS = {"nontrivial_parse_rate": (0.5, 0.9), "pass_at": (0.01, 0.1, 0.5)}
STEPS = 121
NO_SIZES = "the runs determine no sizes"
WORSENS = "the score gets worse as the loss falls, or does not follow it"
NOT_REACHED, AT_OR_BELOW = "not reached", "at or below"
FORMULA = {
    "log(-log p)": "-ln(-ln p) = a + b L",
    "logit": "ln(p / (1 - p)) = a + b L",
    "power": "ln p = a + b ln L",
    "linear": "score = a + b L",
}


@dataclass(frozen=True)
class Link:
    """A score as a straight line a + b x of loss under one link."""

    name: str
    a: float
    b: float
    sample: np.ndarray  # resampled (a, b), (S, 2)
    r2: float  # of the line
    held_out_error: float  # median relative error of the scores of the best runs, predicted without them
    n: int  # runs fitted
    at_0_or_1: int  # runs left out because a score of 0 or 1 has no finite image

    def score(self, loss: np.ndarray) -> np.ndarray:
        """Return the score expected at a loss."""
        return inverse_transform(self.name, self.a + self.b * loss_axis(self.name, loss))

    def loss(self, score: float, sample: bool = False) -> np.ndarray:
        """Return the loss at which the score is expected: one, or (S,) of the resampled lines; NaN where at none."""
        a, b = self.sample.T if sample else (self.a, self.b)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            x = (transform(self.name, np.asarray(score)) - a) / b
            loss = np.exp(x) if self.name == "power" else x
        # By a line of the other slope a lower loss never gets there.
        return np.where(improves(self.name, b), loss, np.nan)


def transform(name: str, score: np.ndarray) -> np.ndarray:
    """Return the score under a link."""
    if name == "logit":
        return np.log(score / (1 - score))
    if name == "log(-log p)":
        return -np.log(-np.log(score))
    return np.log(score) if name == "power" else score


def inverse_transform(name: str, value: np.ndarray) -> np.ndarray:
    """Return the score whose image under a link is ``value``; a rate is at most 1."""
    if name == "logit":
        return expit(value)
    if name == "log(-log p)":
        return np.exp(-np.exp(-value))
    return np.exp(np.minimum(value, 0)) if name == "power" else value


def improves(name: str, b: np.ndarray | float) -> np.ndarray:
    """Return whether scores by a link with slope b get better as the loss falls: bits fall with it, rates rise."""
    return np.greater(b, 0) if name == "linear" else np.less(b, 0)


def loss_axis(name: str, loss: np.ndarray) -> np.ndarray:
    """Return what a link is straight in: loss, or its logarithm."""
    return np.log(loss) if name == "power" else np.asarray(loss)


def lower_is_better(points: Points, column: str) -> bool:
    """Return whether a column is a loss, so that lower is better."""
    return column == points.columns["loss"] or bool(BITS.fullmatch(column))


def fit_links(points: Points, column: str, seed: int = 0) -> tuple[list[Link], str | None]:
    """Return the links of a column, best first, or the reason why there are none."""
    score = points.numeric(column)
    if lower_is_better(points, column):
        names, usable = ["linear"], np.isfinite(score)
    else:
        names, usable = ["log(-log p)", "logit", "power"], (score > 0) & (score < 1)
    zeros = int((np.isfinite(score) & ~usable).sum())
    loss, score = points.loss[usable], score[usable]
    if len(loss) < MIN_LOSSES:
        what = "have a value" if names == ["linear"] else "score between 0 and 1"
        return [], f"{len(loss)} runs {what}; a link needs {MIN_LOSSES}"
    if len(np.unique(loss)) < MIN_LOSSES:
        return [], f"the runs with a value have {len(np.unique(loss))} different losses; a link needs {MIN_LOSSES}"
    links = [_link(name, loss, score, zeros, seed) for name in names]
    return sorted(links, key=lambda link: link.held_out_error), None


def _link(name: str, loss: np.ndarray, score: np.ndarray, zeros: int, seed: int) -> Link:
    x, y = loss_axis(name, loss), transform(name, score)
    b, a = np.polyfit(x, y, 1)
    # The quarter of lowest loss is left out of a second line and predicted by it.
    fitted = np.argsort(loss)[int(np.ceil(HELD_OUT * len(loss))) :]
    best = np.setdiff1d(np.arange(len(loss)), fitted)
    slope, level = np.polyfit(x[fitted], y[fitted], 1)
    error = np.median(np.abs(inverse_transform(name, level + slope * x[best]) / score[best] - 1))
    r2 = 1 - (y - a - b * x).var() / y.var() if y.var() else np.nan
    return Link(
        name=name,
        a=float(a),
        b=float(b),
        sample=_resampled_lines(x, y, seed),
        r2=float(r2),
        held_out_error=float(error),
        n=len(loss),
        at_0_or_1=zeros,
    )


def _resampled_lines(x: np.ndarray, y: np.ndarray, seed: int) -> np.ndarray:
    """Return (a, b) of lines through resampled runs, (S, 2)."""
    # A resample needs two different x for a slope: of 5 runs, 1 in 625 draws one run five times.
    drawn = resample_indices(len(x), RESAMPLES, seed)
    drawn = drawn[[len(np.unique(x[index])) >= 2 for index in drawn]]
    u, v = x[drawn], y[drawn]  # (S, n)
    u_mean, v_mean = u.mean(1, keepdims=True), v.mean(1, keepdims=True)  # (S, 1)
    b = ((u - u_mean) * (v - v_mean)).sum(1) / ((u - u_mean) ** 2).sum(1)
    return np.stack([v_mean[:, 0] - b * u_mean[:, 0], b], axis=1)


def link_record(link: Link) -> ScoreLink:
    """Return a link as laws.json holds it, its slope with a 95 % interval."""
    return ScoreLink(
        link=link.name,
        formula=FORMULA[link.name],
        a=link.a,
        b=Estimate.of(link.b, link.sample[:, 1]),
        r2=link.r2,
        held_out_error_percent=100 * link.held_out_error,
        runs=link.n,
        at_0_or_1=link.at_0_or_1,
    )


def thresholds(fit: Fit, flops: Flops) -> tuple[list[Threshold], dict[str, list[Link]]]:
    """Return the table of thresholds, and the links of every column of scores.

    Each level has the smallest run that reached it and, where a link is known, the compute at which the compute-optimal
    model is expected to, with a 95 % interval from resampled laws and links; nothing where the law determines no
    sizes. Beyond a hundred times the largest run an
    end of the interval is None: not reached. At a hundredth of the least compute it is a bound, at or below which the
    level is passed; ``at_most`` names those of ``value``, ``low`` and ``high``.
    """
    points, rows, links = fit.points, [], {}
    rates = [c for c in points.rows[0] if RATE.fullmatch(c) and not c.endswith(BESIDE)]
    scores = [c for c in points.rows[0] if (c in rates or BITS.fullmatch(c)) and points.has(c)]
    for column in dict.fromkeys([points.columns["loss"], *scores]):
        links[column], reason = fit_links(points, column, fit.seed)
        for level in threshold_levels(fit, column):
            threshold = Threshold(column, level, _measured(fit, column, level), reason=reason)
            if links[column] and not improves(links[column][0].name, links[column][0].b):
                threshold = replace(threshold, link=links[column][0].name, reason=WORSENS)
            elif links[column] and fit.determined:
                threshold = _expected(fit, flops, links[column][0], threshold)
            elif links[column]:
                threshold = replace(threshold, link=links[column][0].name, reason=NO_SIZES)
            rows.append(threshold)
    return rows, links


def threshold_levels(fit: Fit, column: str) -> list[float]:
    """Return the levels of a column: set ones for rates, round ones near the best for bits."""
    for kind, values in LEVELS.items():
        if kind in column:
            return list(values)
    best = float(np.nanmin(fit.points.numeric(column)))
    return [float(f"{share * best:.2g}") for share in (1.2, 1.0, 0.8)]


def _measured(fit: Fit, column: str, level: float) -> MeasuredRun | None:
    points, score = fit.points, fit.points.numeric(column)
    reached = np.flatnonzero(score <= level if lower_is_better(points, column) else score >= level)
    if not len(reached):
        return None
    # The smallest of those that reached it, the cheapest among equals.
    smallest = reached[np.lexsort((points.compute[reached], points.N[reached]))[0]]
    return MeasuredRun(**points.describe(int(smallest)), least_flops=float(points.compute[reached].min()))


def _expected(fit: Fit, flops: Flops, link: Link, threshold: Threshold) -> Threshold:
    """Return the threshold with the compute and size where the frontier's loss is the level's."""
    points = fit.points
    compute = 6 * points.N * points.D if flops.name == "6ND" else points.compute
    C = np.geomspace(compute.min() / FURTHEST, compute.max() * FURTHEST, STEPS)
    loss, loss_sample = float(link.loss(threshold.level)), link.loss(threshold.level, sample=True)
    N, D = fit.law.optimum(C, flops)
    value = _crossing_compute(C, fit.law.loss(N, D)[None], np.atleast_1d(loss))[0]
    sample_N, sample_D = fit.resampled.optimum(C, flops)  # (S, n)
    curves = fit.resampled.loss(sample_N, sample_D)
    # Each resampled law takes one resampled link: of 2,000 laws and 500 links, law 501 the first.
    budget = _crossing_compute(C, curves, np.resize(loss_sample, len(curves)))  # (S,)
    sizes = np.array([_size_at(c, C, n) for c, n in zip(budget, sample_N, strict=True)])
    reducible = loss - fit.law.E
    least_N = (fit.law.A / reducible ** (1 / fit.law.k)) ** (1 / fit.law.alpha) if reducible > 0 else np.inf
    return replace(
        threshold,
        link=link.name,
        loss=loss,
        C=_reached_estimate(value, budget, C[0]),
        N=_reached_estimate(_size_at(value, C, N), sizes, N[0]),
        least_N=float(least_N),
        beyond=float(max(value, C[0]) / compute.max()),
        status={0: AT_OR_BELOW, np.inf: NOT_REACHED}.get(value, ""),
    )


def _crossing_compute(C: np.ndarray, loss: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return where falling losses (S, n) over C (n,) meet levels (S,): 0 if below from the first, infinity if never."""
    crossing = np.full(len(loss), np.inf)
    for i, (curve, level) in enumerate(zip(loss, target, strict=True)):
        if np.isfinite(level) and curve[0] <= level:
            crossing[i] = 0
        elif np.isfinite(level) and curve[-1] <= level:
            # interp wants rising x: minus the falling losses, read at minus the level.
            crossing[i] = np.exp(np.interp(-level, -curve, np.log(C)))
    return crossing


def _size_at(budget: float, C: np.ndarray, N: np.ndarray) -> float:
    """Return the size (of N (n,) at C (n,)) at a budget; 0 and infinity stay what they are."""
    if budget in (0, np.inf):
        return budget
    return float(np.exp(np.interp(np.log(budget), np.log(C), np.log(N))))


def _reached_estimate(value: float, sample: np.ndarray, least: float) -> ReachedEstimate:
    """Return an estimate with its interval, ``least`` in place of 0 as a bound."""
    low, high = percentile_interval(sample, method="inverted_cdf")
    ends = {"value": value, "low": low, "high": high}
    bounds = [name for name, end in ends.items() if end == 0]
    return ReachedEstimate(**(ends | dict.fromkeys(bounds, least)), at_most=bounds)
