"""One study under every convention and by every approach, side by side.

The exponent of the compute-optimal size depends on what N and C count more than on the noise of the runs (Porian et al.
2024, arXiv 2406.19146; Pearce and Song 2024, arXiv 2406.12907), so no exponent is given without both.
"""

from dataclasses import replace

import numpy as np

from llama_scale.bootstrap import percentile_interval
from llama_scale.scaling.fitting import fitted_laws as records
from llama_scale.scaling.fitting.chinchilla import Flops, Surface, fit_flops
from llama_scale.scaling.fitting.fit import Fit, common_line, fit_surface
from llama_scale.scaling.fitting.fitted_laws import ApproachExponent, Estimate
from llama_scale.scaling.fitting.points import NON_EMBEDDING, Points
from llama_scale.scaling.fitting.results.approaches import envelope_law, front_law, isoflop_law, isoflop_parabolas

SIZES = {
    **dict.fromkeys(NON_EMBEDDING, "non-embedding"),
    "n_params": "total",
    "n_params_matmul": "matrix products, head included",
}
# Points with this column count parameters and FLOPs as this project does.
OUR_COUNT = "n_params_matmul"
COMPUTE = {"flops": "exact, causal attention", "flops_full": "exact, full attention"}
RESAMPLES, STARTS = 500, 25
BEYOND = 10  # times the compute of the largest run, where the optima are given


def parameter_counts(points: Points) -> dict[str, np.ndarray]:
    """Return the ways to count parameters that the points have, (n,) each, the fitted one first."""
    fitted = points.columns["N"]
    if not points.has(OUR_COUNT):
        return {f"column {fitted!r}": points.N}
    counts = {SIZES.get(fitted, fitted): points.N}
    for column in (*NON_EMBEDDING, "n_params"):
        if points.has(column):
            counts.setdefault(SIZES[column], points.numeric(column))
    return counts


def compute_counts(points: Points, N: np.ndarray) -> list[tuple[Flops, np.ndarray]]:
    """Return the ways to count compute, (n,) each: 6ND, and columns that differ by over 1 %."""
    six_nd = 6 * N * points.D
    columns = {} if points.flops is None else {points.columns["flops"]: points.flops}
    if points.has("flops_full"):
        columns["flops_full"] = points.numeric("flops_full")
    known, counts = COMPUTE if points.has(OUR_COUNT) else {}, [(Flops("6ND"), six_nd)]
    for column, C in columns.items():
        if np.abs(C / six_nd - 1).max() > 0.01:
            name = known.get(column, f"column {column!r}")
            counts.append((fit_flops(name, N, points.D, C), C))
    return counts


def optimal_size_exponent(law: Surface, flops: Flops, C: np.ndarray) -> np.ndarray:
    """Return the mean exponent of N*(C) over the compute (n,) of the runs, () or (S,); of one compute, that there."""
    ends = np.array([C.min(), max(C.max(), 1.01 * C.min())])
    N, _ = law.optimum(ends, flops)
    return np.log(N[..., 1] / N[..., 0]) / np.log(ends[1] / ends[0])


def fit_each_convention(fit: Fit) -> list[records.ConventionFit]:
    """Return the surface and its optimum for each way to count parameters and compute."""
    rows = []
    for size_name, N in parameter_counts(fit.points).items():
        points = replace(fit.points, N=N)
        # The law that was fitted already, for its own N.
        own = fit if N is fit.points.N else fit_surface(points, RESAMPLES, fit.seed, STARTS, fit.form, fit.delta)
        for flops, C in compute_counts(points, N):
            budget = np.array([BEYOND * C.max()])
            size, tokens = own.law.optimum(budget, flops)
            size_sample, token_sample = own.resampled.optimum(budget, flops)  # (S, 1) each
            ends = records.Bounds(*map(float, percentile_interval(token_sample[:, 0])))
            exponents = (optimal_size_exponent(law, flops, C) for law in (own.law, own.resampled))
            law, sample = vars(own.law), vars(own.resampled)
            rows.append(
                records.ConventionFit(
                    N=size_name,
                    compute=flops.name,
                    **{name: Estimate.of(law[name], sample[name]) for name in ("alpha", "beta", "E")},
                    exponent=Estimate.of(*exponents),
                    C=float(budget[0]),
                    optimal_N=Estimate.of(size[0], size_sample[:, 0]) if own.determined else None,
                    optimal_D=float(tokens[0]) if own.determined else None,
                    optimal_D_interval=ends if own.determined else None,
                )
            )
    return rows


def compare_approaches(fit: Fit) -> records.Approaches:
    """Return the exponent of N*(C) by each approach, and parabolas of the count of compute that groups most runs."""
    points, rows, groups = fit.points, [], []
    on_line = common_line(points.N, points.D) is not None
    for flops, C in compute_counts(points, points.N):
        parabolas = isoflop_parabolas(points, C)
        if len(parabolas) > len(groups):
            groups = [replace(parabola, compute=flops.name) for parabola in parabolas]
        laws = {
            # Where the runs lie on one line each is the best, and only, one of its compute: the envelope is the line.
            "1: lower envelope of the runs": None if on_line else envelope_law(points, C, fit.seed),
            "2: IsoFLOP parabolas": isoflop_law(points, C, parabolas, fit.seed),
        }
        for approach, law in laws.items():
            if law is None or not law.settled:
                rows.append(ApproachExponent(approach, flops.name, count=0))
            else:
                ends = {"exponent": law.estimate(), "exponent_D": law.estimate(lambda a: 1 - a)}
                rows.append(ApproachExponent(approach, flops.name, len(law.x), **ends))
        a, sample = (optimal_size_exponent(law, flops, C) for law in (fit.law, fit.resampled))
        ends = {"exponent": Estimate.of(a, sample), "exponent_D": Estimate.of(1 - a, 1 - sample)}
        rows.append(ApproachExponent("3: surface L(N, D)", flops.name, len(points), **ends))
    return records.Approaches(rows, groups)


def power_laws(fit: Fit) -> list[records.PowerLaw]:
    """Return loss as a power of N, D and compute alone, along the best runs (Kaplan et al.): L = (x_c / x)^alpha."""
    points, laws = fit.points, []
    for name, x in {"N": points.N, "D": points.D, "C": points.compute}.items():  # (n,) each
        law = front_law(x, points.loss, points.loss, fit.seed)
        if law and law.settled:
            scale = float(np.exp(-law.level / law.slope)) if law.slope < 0 else None
            alpha = law.estimate(np.negative)
            laws.append(records.PowerLaw(name, runs=len(law.x), alpha=alpha, scale=scale, r2=law.r2))
    return laws
