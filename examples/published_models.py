"""What published scores say about size: python examples/published_models.py [docs/results/published].

Reads code_models.csv of that folder (HumanEval of models whose sizes and scores are public, each row with its
source), writes models.json and figures/models.png beside it, and prints the answers. docs/results/published.md
tells what they mean.
"""

import csv
import math
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from llama_scale.bootstrap import percentile_interval
from llama_scale.files import write_json
from llama_scale.plotting.draw import save
from llama_scale.plotting.figure import Axis, Figure, Panel, Series, axis

TASKS = 164  # of HumanEval: the noise of a published rate is at most that of so many coins
RESAMPLES = 4000
# Families that differ in size alone; the sizes of phi-1 are three data sets, those of BigCode-MQA three budgets.
LADDERS = ("Codex", "CodeGen-Mono", "GPT-Neo", "PolyCoder", "Qwen2.5-Coder", "StarCoderBase")
LEVELS = (0.01, 0.05, 0.1, 0.2, 0.5)
COLORS = ("#0b6e99", "#b3541e", "#2d7d46", "#7a4fa3", "#a12d4e", "#6b7280", "#b8860b")
Model = dict[str, Any]


def read(path: Path) -> list[Model]:
    """Return the models, numbers as floats and what is not published as NaN."""
    numbers = ("n_params", "tokens", "pass_at_1", "pass_at_10", "pass_at_100")
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return [row | {name: float(row[name] or "nan") for name in numbers} for row in rows]


def link(p: np.ndarray) -> np.ndarray:
    """Return -ln(-ln p), in which the rate of the Codex ladder is nearly straight in log size."""
    return -np.log(-np.log(p))


def least_squares(models: list[Model], p: np.ndarray, terms: Callable[[np.ndarray], list[np.ndarray]]) -> np.ndarray:
    """Return the coefficients of ``terms`` (of log10 of billions of parameters) beside one level for each family."""
    families = sorted({m["draw"] for m in models})
    x = np.log10([m["n_params"] / 1e9 for m in models])
    levels = [np.array([float(m["draw"] == family) for m in models]) for family in families]
    columns = np.stack([*terms(x), *levels], axis=1)  # (models, terms + families)
    return np.linalg.lstsq(columns, link(p), rcond=None)[0][: len(terms(x))]


def estimate(models: list[Model], statistic: Callable[[list[Model], np.ndarray], Any], seed: int = 0) -> list[dict]:
    """Return each number of a statistic with a 95 % interval.

    A resample draws whole families with replacement, and each rate anew from its binomial of 164 tasks: an upper bound
    of what the choice of tasks adds, since a task is passed by some models and not by others, not at random.
    """
    random = np.random.default_rng(seed)
    families = sorted({m["family"] for m in models})
    value = np.atleast_1d(statistic([m | {"draw": m["family"]} for m in models], rates(models)))
    sample = []
    for _ in range(RESAMPLES):
        drawn = random.choice(families, len(families))
        again = [m | {"draw": i} for i, family in enumerate(drawn) for m in models if m["family"] == family]
        p = random.binomial(TASKS, rates(again)) / TASKS
        sample.append(np.atleast_1d(statistic(again, np.clip(p, 0.5 / TASKS, 1 - 0.5 / TASKS))))
    low, high = percentile_interval(np.array(sample)[np.isfinite(sample).all(axis=1)])
    return [{"value": float(v), "low": float(a), "high": float(b)} for v, a, b in zip(value, low, high, strict=True)]


def rates(models: list[Model]) -> np.ndarray:
    """Return pass@1 of the models, (models,)."""
    return np.array([m["pass_at_1"] for m in models])


def curvature(models: list[Model], p: np.ndarray) -> np.ndarray:
    """Return the slope at 1B and the curvature of the link in log10 size."""
    return least_squares(models, p, lambda x: [x, x**2])


def kink(size: float) -> Callable[[list[Model], np.ndarray], np.ndarray]:
    """Return a statistic: the slope below a size, and by how much it changes there."""
    return lambda models, p: least_squares(models, p, lambda x: [x, np.maximum(x - math.log10(size / 1e9), 0)])


def points_per_doubling(border: float) -> Callable[[list[Model], np.ndarray], np.ndarray]:
    """Return a statistic: points of pass@1 for a doubling of size below and above a border, and their difference."""

    def slopes(models: list[Model], p: np.ndarray) -> np.ndarray:
        x = np.log2([m["n_params"] for m in models])
        sums = {"below": [0.0, 0.0], "above": [0.0, 0.0]}
        for family in {m["draw"] for m in models}:
            order = sorted((i for i, m in enumerate(models) if m["draw"] == family), key=lambda i: x[i])
            for i, j in pairwise(order):
                # A step between two sizes counts where its middle lies.
                side = sums["below" if (x[i] + x[j]) / 2 < math.log2(border) else "above"]
                side[0] += 100 * (p[j] - p[i])
                side[1] += x[j] - x[i]
        below, above = (gain / doublings if doublings else np.nan for gain, doublings in sums.values())
        return np.array([below, above, above - below])

    return slopes


def by_size_and_tokens(models: list[Model], p: np.ndarray) -> np.ndarray:
    """Return the slopes of the link in log10 size and log10 tokens, over all families together."""
    x = np.log10([[m["n_params"], m["tokens"], 10.0] for m in models])  # (models, 3), the last is the level
    return np.linalg.lstsq(x, link(p), rcond=None)[0][:2]


def smallest(models: list[Model]) -> list[dict]:
    """Return for each level the smallest published model at or above it, and the smallest of each ladder."""
    rows = []
    for level in LEVELS:
        above = sorted((m for m in models if m["pass_at_1"] >= level), key=lambda m: m["n_params"])
        first = {m["family"]: m["model"] for m in reversed(above) if m["family"] in LADDERS}
        rows.append({"level": level, "smallest": above[0]["model"] if above else None, "of_each_ladder": first})
    return rows


def figure(models: list[Model]) -> Figure:
    """Return pass@1 against size and against tokens seen, a color a family."""
    named = [*LADDERS, "other"]
    panels = []
    for key, label in (("n_params", "parameters"), ("tokens", "tokens seen")):
        series = []
        for name, color in zip(named, COLORS, strict=True):
            rows = [m for m in models if (m["family"] if m["family"] in LADDERS else "other") == name]
            rows = sorted((m for m in rows if m[key] > 0), key=lambda m: m[key])
            if rows:
                x, y = np.array([m[key] for m in rows]), rates(rows)
                hover = [m["model"] for m in rows]
                series.append(Series(name, "points", x, y, color, hover=hover))
                if name != "other" and key == "n_params":
                    series.append(Series(name, "line", x, y, color, legend=False))
        across = axis(label, [s.x for s in series], show="count")
        up = Axis("HumanEval pass@1", False, (0.0, 0.65), [(v / 10, f"{10 * v} %") for v in range(7)])
        panels.append(Panel(key, across, up, series))
    return Figure("models", "Published HumanEval by size and by tokens seen", "", panels)


def main(folder: Path) -> None:
    """Answer the three questions, write and print them."""
    models = read(folder / "code_models.csv")
    ladders = [m for m in models if m["family"] in LADDERS]
    middle = [m for m in ladders if 1e8 <= m["n_params"] <= 3.1e9]
    small = [m for m in ladders if m["n_params"] <= 3.1e9]
    seen = [m for m in models if m["tokens"] > 0 and m["family"] != "phi-1"]
    slope, bend = estimate(middle, curvature)
    below, change = estimate(small, kink(5e8))
    per_doubling = estimate(ladders, points_per_doubling(3e9))
    size, tokens = estimate(seen, by_size_and_tokens)
    result = {
        "models": len(models),
        "curvature_100M_to_3B": {"models": len(middle), "slope_at_1B": slope, "curvature": bend},
        "kink_at_500M": {"models": len(small), "slope_below": below, "change_of_slope": change},
        "points_per_doubling": dict(zip(("below_3B", "above_3B", "difference"), per_doubling, strict=True)),
        "size_and_tokens": {"models": len(seen), "per_10x_parameters": size, "per_10x_tokens": tokens},
        "smallest": smallest(models),
    }
    write_json(folder / "models.json", result)
    save(figure(models), folder / "figures")
    for name, part in result.items():
        print(f"{name}: {part}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/results/published"))
