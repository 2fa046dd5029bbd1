"""One study under every convention and by every approach, side by side.

The exponent of the compute-optimal size depends on what N and C count more than on the noise of
the runs (Porian et al. 2024, arXiv 2406.19146; Pearce and Song 2024, arXiv 2406.12907), so no
exponent is given without both.
"""

from dataclasses import replace
from typing import Any

import numpy as np

from llama_scale.scaling.fitting.approaches import envelope, isoflop, isoflops, single
from llama_scale.scaling.fitting.chinchilla import Flops, Surface, fit_flops
from llama_scale.scaling.fitting.fit import Fit, estimate, fit_surface, interval
from llama_scale.scaling.fitting.points import NON_EMBEDDING, Points

SIZES = {
    **dict.fromkeys(NON_EMBEDDING, "non-embedding"),
    "n_params": "total",
    "n_params_matmul": "matrix products, head included",
}
COMPUTE = {"flops": "exact, causal attention", "flops_full": "exact, full attention"}
RESAMPLES, STARTS = 500, 25
FURTHER = 10


def sizes(points: Points) -> dict[str, np.ndarray]:
    """Return the ways to count parameters that the points have, the fitted one first."""
    first = points.columns["N"]
    own = points.has("n_params_matmul")
    found = {SIZES.get(first, first) if own else f"column {first!r}": points.N}
    for column in (*NON_EMBEDDING, "n_params") if own else ():
        if column != first and points.has(column):
            found[SIZES[column]] = points.numeric(column)
    return found


def computes(points: Points, N: np.ndarray) -> dict[str, np.ndarray]:
    """Return the ways to count compute, (n,) each: 6ND, and columns that differ by over 1 %."""
    own, plain = points.has("n_params_matmul"), 6 * N * points.D
    columns = {}
    if points.flops is not None:
        columns[points.columns["flops"]] = points.flops
    if points.has("flops_full"):
        columns["flops_full"] = points.numeric("flops_full")
    return {"6ND": plain} | {
        COMPUTE[name] if own and name in COMPUTE else f"column {name!r}": C
        for name, C in columns.items()
        if np.abs(C / plain - 1).max() > 0.01
    }


def exponent(law: Surface, flops: Flops, C: np.ndarray) -> np.ndarray:
    """Return the mean exponent of N*(C) over the compute (n,) of the runs, () or (S,).

    Runs of one compute have the exponent there: of the next percent.
    """
    ends = np.array([C.min(), max(C.max(), 1.01 * C.min())])
    N, _ = law.optimum(ends, flops)
    return np.log(N[..., 1] / N[..., 0]) / np.log(ends[1] / ends[0])


def conventions(fit: Fit) -> list[dict[str, Any]]:
    """Return the surface and its optimum for each way to count parameters and compute."""
    rows = []
    for kind, N in sizes(fit.points).items():
        points = replace(fit.points, N=N)
        own = fit if N is fit.points.N else fit_surface(points, RESAMPLES, fit.seed, STARTS)
        for name, C in computes(points, N).items():
            flops = Flops("6ND") if name == "6ND" else fit_flops(name, N, points.D, C)
            budget = np.array([FURTHER * C.max()])
            size, data = own.law.optimum(budget, flops)
            sample, _ = own.resampled.optimum(budget, flops)
            low, high = interval(sample[:, 0])
            rows.append(
                {
                    "N": kind,
                    "compute": name,
                    "alpha": estimate(own.law.alpha, own.resampled.alpha),
                    "beta": estimate(own.law.beta, own.resampled.beta),
                    "E": estimate(own.law.E, own.resampled.E),
                    "exponent": estimate(
                        exponent(own.law, flops, C), exponent(own.resampled, flops, C)
                    ),
                    "C": budget[0],
                    "optimal_N": {"value": size[0], "low": low, "high": high},
                    "optimal_D": data[0],
                }
            )
    return rows


def approaches(fit: Fit) -> dict[str, Any]:
    """Return the exponent of N*(C) by each approach, and the IsoFLOP parabolas."""
    points, rows, groups = fit.points, [], []
    for name, C in computes(points, points.N).items():
        flops = Flops("6ND") if name == "6ND" else fit_flops(name, points.N, points.D, C)
        parabolas = isoflops(points, C)
        if len(parabolas) > len(groups):
            groups = [_group(points, p) | {"compute": name} for p in parabolas]
        found = {
            "1: lower envelope of the runs": envelope(points, C, fit.seed),
            "2: IsoFLOP parabolas": isoflop(points, C, parabolas, fit.seed),
        }
        for approach, law in found.items():
            known = law is not None and len(law.sample) > 0
            rows.append(
                {
                    "approach": approach,
                    "compute": name,
                    "from": len(law.x) if known else 0,
                    "exponent": law.estimate() if known else None,
                    "exponent_D": law.estimate(lambda a: 1 - a) if known else None,
                }
            )
        a, sample = exponent(fit.law, flops, C), exponent(fit.resampled, flops, C)
        rows.append(
            {
                "approach": "3: surface L(N, D)",
                "compute": name,
                "from": len(points),
                "exponent": estimate(a, sample),
                "exponent_D": estimate(1 - a, 1 - sample),
            }
        )
    return {"table": rows, "isoflop": groups}


def kaplan(fit: Fit) -> list[dict[str, Any]]:
    """Return loss as a power of N, D and compute alone: L = (x_c / x)^alpha."""
    return [
        {
            "x": name,
            "runs": len(law.x),
            "alpha": law.estimate(np.negative),
            "scale": float(np.exp(-law.level / law.slope)) if law.slope < 0 else None,
            "r2": law.r2,
        }
        for name, law in single(fit.points, fit.seed).items()
    ]


def _group(points: Points, parabola: Any) -> dict[str, Any]:
    return {
        "C": parabola.C,
        "rows": points.numbers[parabola.index],
        "coefficients": parabola.coefficients,
        "centre": parabola.centre,
        "N": parabola.N,
        "D": parabola.D,
        "loss": parabola.loss,
        "inside": parabola.inside,
    }
