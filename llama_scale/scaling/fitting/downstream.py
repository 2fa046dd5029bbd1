"""From loss to what a model can do: score as a function of loss, with the link held to account.

pass@k is a smooth function of loss, but the form that is straight decides what a larger model is
promised: from the Codex models below 1B, log(-log p) predicts 37 % for 12B, logit 54 %, and
measured were 29 %. So every link is fitted without the best runs and chosen by how it predicts
them.
"""

import re
from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from llama_scale.scaling.fitting.fit import interval
from llama_scale.scaling.fitting.points import Points

RATE = re.compile(r"(?:.*_)?(?:pass_at_[0-9]+(?:_.*)?|parse_rate)(?<!_low)(?<!_high)")
BITS = re.compile(r"(?:.*_)?bits_per_byte")
HELD, LEAST = 0.25, 5
RESAMPLES = 500
FORMULA = {
    "log(-log p)": "-ln(-ln p) = a + b L",
    "logit": "ln(p / (1 - p)) = a + b L",
    "power": "ln p = a + b ln L",
    "linear": "score = a + b L",
}


@dataclass(frozen=True)
class Link:
    """A score as a straight line of loss under one link.

    ``sample`` (S, 2) are the resampled (a, b); ``r2`` is that of the line, ``held_error`` the
    median relative error of the scores of the best runs, predicted without them. ``n`` runs were
    fitted and ``zeros`` left out because a score of 0 or 1 has no finite image.
    """

    column: str
    name: str
    a: float
    b: float
    sample: np.ndarray
    r2: float
    held_error: float
    n: int
    zeros: int

    def score(self, loss: np.ndarray) -> np.ndarray:
        """Return the score expected at a loss."""
        return inverse(self.name, self.a + self.b * across(self.name, loss))

    def loss(self, score: float, sample: bool = False) -> np.ndarray:
        """Return the loss at which the score is expected: one, or (S,) of the resampled lines."""
        a, b = self.sample.T if sample else (self.a, self.b)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            x = (straight(self.name, np.asarray(score)) - a) / b
            return np.exp(x) if self.name == "power" else x


def straight(name: str, score: np.ndarray) -> np.ndarray:
    """Return the score under a link."""
    if name == "logit":
        return np.log(score / (1 - score))
    if name == "log(-log p)":
        return -np.log(-np.log(score))
    return np.log(score) if name == "power" else score


def inverse(name: str, value: np.ndarray) -> np.ndarray:
    """Return the score whose image under a link is ``value``; a rate is at most 1."""
    if name == "logit":
        return expit(value)
    if name == "log(-log p)":
        return np.exp(-np.exp(-value))
    return np.exp(np.minimum(value, 0)) if name == "power" else value


def across(name: str, loss: np.ndarray) -> np.ndarray:
    """Return what a link is straight in: loss, or its logarithm."""
    return np.log(loss) if name == "power" else np.asarray(loss)


def scores(points: Points) -> list[str]:
    """Return the columns of scores that the points have."""
    kinds = RATE, BITS
    return [c for c in points.rows[0] if any(k.fullmatch(c) for k in kinds) and points.has(c)]


def falls(points: Points, column: str) -> bool:
    """Return whether a column is a loss, so that lower is better."""
    return column == points.columns["loss"] or bool(BITS.fullmatch(column))


def fit_links(points: Points, column: str, seed: int = 0) -> tuple[list[Link], str | None]:
    """Return the links of a column, best first, or the reason why there are none."""
    score = points.numeric(column)
    if falls(points, column):
        names, usable = ["linear"], np.isfinite(score)
    else:
        names, usable = ["log(-log p)", "logit", "power"], (score > 0) & (score < 1)
    zeros = int((np.isfinite(score) & ~usable).sum())
    loss, score = points.loss[usable], score[usable]
    if len(np.unique(loss)) < LEAST:
        return [], f"{len(loss)} runs score between 0 and 1; a link needs {LEAST}"
    links = [_link(column, name, loss, score, zeros, seed) for name in names]
    return sorted(links, key=lambda link: link.held_error), None


def _link(
    column: str, name: str, loss: np.ndarray, score: np.ndarray, zeros: int, seed: int
) -> Link:
    x, y = across(name, loss), straight(name, score)
    b, a = np.polyfit(x, y, 1)
    kept = np.argsort(loss)[int(np.ceil(HELD * len(loss))) :]
    held = np.setdiff1d(np.arange(len(loss)), kept)
    slope, level = np.polyfit(x[kept], y[kept], 1)
    error = np.median(np.abs(inverse(name, level + slope * x[held]) / score[held] - 1))
    r2 = 1 - (y - a - b * x).var() / y.var() if y.var() else np.nan
    return Link(
        column, name, a, b, _resample(x, y, seed), float(r2), float(error), len(loss), zeros
    )


def _resample(x: np.ndarray, y: np.ndarray, seed: int) -> np.ndarray:
    """Return (a, b) of lines through resampled runs, (S, 2)."""
    rng = np.random.default_rng(seed)
    drawn = rng.integers(len(x), size=(RESAMPLES, len(x)))
    drawn = drawn[[len(np.unique(x[d])) >= 2 for d in drawn]]
    u, v = x[drawn], y[drawn]  # (S, n)
    u0, v0 = u.mean(1, keepdims=True), v.mean(1, keepdims=True)
    b = ((u - u0) * (v - v0)).sum(1) / ((u - u0) ** 2).sum(1)
    return np.stack([v0[:, 0] - b * u0[:, 0], b], axis=1)


def describe(link: Link) -> dict:
    """Return a link as plain numbers, its slope with a 95 % interval."""
    low, high = interval(link.sample[:, 1])
    return {
        "link": link.name,
        "formula": FORMULA[link.name],
        "a": link.a,
        "b": {"value": link.b, "low": low, "high": high},
        "r2": link.r2,
        "held_out_error_percent": 100 * link.held_error,
        "runs": link.n,
        "at_0_or_1": link.zeros,
    }
