"""laws.json: everything a fit says about a study, as plain numbers and words.

It holds no times and no paths, so equal points and settings give an equal file.
"""

import math
import re
from dataclasses import asdict
from typing import Any

import numpy as np

from llama_scale.scaling.fitting.chinchilla import Flops, fit_flops
from llama_scale.scaling.fitting.conventions import approaches, kaplan
from llama_scale.scaling.fitting.conventions import conventions as side_by_side
from llama_scale.scaling.fitting.downstream import describe
from llama_scale.scaling.fitting.fit import DELTA, LEVEL, PARAMETERS, USUAL, Fit, HoldOut, estimate
from llama_scale.scaling.fitting.points import NON_EMBEDDING, Points
from llama_scale.scaling.fitting.profile import Profile, profiles
from llama_scale.scaling.fitting.repeats import fit_repeats, varies
from llama_scale.scaling.fitting.thresholds import thresholds

FORMAT = "llama_scale.laws.v1"
EMBEDDED, HEADED = "embeddings included", "output head included"
NEXT = 10
DIGITS = 10
CURVE = 41
KEPT = 400


def summarise(fit: Fit, held: HoldOut | None, notes: list[str] | None = None) -> dict[str, Any]:
    """Return the contents of laws.json.

    Args:
        fit: The law of all points.
        held: The hold-out, or None where there is none.
        notes: Further warnings, such as why there is no hold-out.
    """
    points = fit.points
    compute = _flops(points)
    compared, repeats = approaches(fit), _repeats(fit)
    levels, links = thresholds(fit, compute[-1])
    profile = profiles(fit)
    warnings = [*points.warnings, *fit.warnings, *(notes or [])]
    warnings += [*_open(profile), *_disagree(compared["table"])]
    if repeats and not repeats["identified"]:
        warnings.append(
            "The worth of repeated tokens is not identified: the runs give R no end on one side "
            "or both."
        )
    warnings += _missed(fit, held) if held else []
    return plain(
        {
            "format": FORMAT,
            "points": {
                "file": points.file,
                "sha256": points.sha256,
                "rows": points.n_read,
                "fitted": len(points),
                "columns": points.columns,
                "where": points.where,
            },
            "conventions": conventions(points),
            "model": model(points),
            "laws": {"surface": _law(fit, profile), "power": kaplan(fit), "repeats": repeats},
            "side_by_side": side_by_side(fit),
            "approaches": compared,
            "links": {
                column: [describe(link) for link in found]
                for column, found in links.items()
                if column != points.columns["loss"]
            },
            "thresholds": levels,
            "frontier": [_frontier(fit, flops) for flops in compute],
            "holdout": _held(held) if held else None,
            "runs": _runs(fit, held),
            "warnings": warnings,
        }
    )


def _flops(points: Points) -> list[Flops]:
    """Return the ways to count the FLOPs of a token: 6ND, then the file's where it differs."""
    found = [Flops("6ND")]
    if points.flops is None:
        return found
    name = f"exact, {points.compute_name}" if _own(points) else points.compute_name
    if np.abs(points.flops / (6 * points.N * points.D) - 1).max() > 0.01:
        found.append(fit_flops(name, points.N, points.D, points.flops))
    return found


def _missed(fit: Fit, held: HoldOut) -> list[str]:
    """Return the warnings of the hold-out's fit that are not the fit's, and of its intervals."""
    known = {_kind(text) for text in fit.warnings}
    warnings = [f"Hold-out fit: {w}" for w in held.fit.warnings if _kind(w) not in known]
    if len(held.points) >= 4 and held.covered.mean() < 0.8:
        warnings.append(
            f"Only {held.covered.sum()} of {len(held.points)} held-out runs lie inside their "
            "95 % interval: so far beyond the fitted runs the law errs by more than its "
            "intervals say."
        )
    return warnings


def _kind(warning: str) -> str:
    return re.sub(r"[-+.\de]*\d", "", warning)


def conventions(points: Points) -> dict[str, str]:
    """Return what N, D, loss and compute mean in these points, in words."""
    own = _own(points)
    column = points.columns["N"]
    meaning = {
        **dict.fromkeys(NON_EMBEDDING, "non-embedding parameters"),
        "n_params": f"all parameters, {EMBEDDED}",
        "n_params_matmul": f"parameters of matrix products, {HEADED}",
    }
    unit = " in nats per token" if own and points.columns["loss"] == "loss" else ""
    return {
        "N": meaning.get(column, f"column {column!r}") if own else f"column {column!r}",
        "D": f"training tokens, column {points.columns['D']!r}"
        if "D" in points.columns
        else f"{points.columns['flops']} / 6N",
        "loss": f"column {points.columns['loss']!r}{unit}",
        "compute": "6ND, for lack of a column of counted FLOPs"
        if points.flops is None
        else f"{points.compute_name}: training FLOPs as counted"
        + (" exactly, with attention (causal) and output head" if own else " in the file"),
    }


def model(points: Points) -> dict[str, Any]:
    """Return what all models of a study's runs have in common beside their size."""
    found: dict[str, Any] = {}
    if not _own(points):
        return found
    for name in ("vocab_size", "context_length"):
        values = np.unique(points.numeric(name)) if points.has(name) else []
        if len(values) == 1 and np.isfinite(values[0]):
            found[name] = int(values[0])
    if points.has("tie_embeddings"):
        tied = points.match("tie_embeddings==true")
        if tied.all() or not tied.any():
            found["tie_embeddings"] = bool(tied[0])
    return found


def _own(points: Points) -> bool:
    """Return whether a study of this project wrote the points, so that its conventions hold."""
    sizes = any(map(points.has, NON_EMBEDDING)), points.has("n_params")
    return points.has("run") and points.has("n_params_matmul") and all(sizes)


def _repeats(fit: Fit) -> dict[str, Any] | None:
    if not varies(fit.points) or len(fit.points) < len(PARAMETERS) + 2:
        return None
    found = fit_repeats(fit)
    return {
        "formula": "D' = U + U R (1 - exp(-(epochs - 1) / R)), U = D / epochs",
        "R": found.R,
        "low": found.low,
        "high": found.high,
        "identified": found.identified,
        "parameters": asdict(found.law),
        "objective": found.objective,
    }


def _open(profile: dict[str, Profile]) -> list[str]:
    """Return a warning for each parameter whose profile has no end on a side."""
    sides = {
        name: [side for side in ("low", "high") if getattr(found, side) is None]
        for name, found in profile.items()
    }
    words = {"low": "below", "high": "above"}
    return [
        f"The profile of {name} is flat: the points do not bound it "
        f"{' or '.join(words[side] for side in found)}."
        for name, found in sides.items()
        if found
    ]


def _disagree(table: list[dict[str, Any]]) -> list[str]:
    """Return a warning for each approach whose interval lies clear of the surface's."""
    warnings = []
    surface = {row["compute"]: row["exponent"] for row in table if row["approach"][0] == "3"}
    for row in table:
        own, other = row["exponent"], surface[row["compute"]]
        if own and (own["high"] < other["low"] or own["low"] > other["high"]):
            warnings.append(
                f"Approach {row['approach']} gives the exponent of the optimal size as "
                f"{own['value']:.3f} (C = {row['compute']}), clear of the surface's "
                f"{other['value']:.3f}: the exponent is not settled."
            )
    return warnings


def _law(fit: Fit, profile: dict[str, Profile]) -> dict[str, Any]:
    bootstrap = {"resamples": len(fit.resampled.E), "seed": fit.seed, "level": LEVEL}
    return {
        "formula": "L(N, D) = E + A N^-alpha + B D^-beta",
        "parameters": {
            name: estimate(getattr(fit.law, name), getattr(fit.resampled, name))
            | {"profile": {"low": profile[name].low, "high": profile[name].high}}
            for name in PARAMETERS
        },
        "sample": {name: getattr(fit.resampled, name)[:KEPT] for name in PARAMETERS},
        "objective": {"kind": f"sum of Huber({DELTA}) of log loss", "value": fit.objective},
        "starts": fit.starts,
        "share_of_starts_at_optimum": fit.at_optimum,
        "second_optimiser": {
            "kind": "SciPy L-BFGS-B then Nelder-Mead, no gradient",
            "objective": fit.check.objective,
            "relative_excess": fit.check.excess,
            "parameters": asdict(fit.check.law),
        },
        "bootstrap": {"kind": "runs resampled with replacement, percentiles", **bootstrap},
        "residual_percent": {
            "rms": 100 * np.sqrt(np.mean(fit.residual**2)),
            "median_absolute": 100 * np.median(np.abs(fit.residual)),
            "largest": 100 * np.abs(fit.residual).max(),
        },
    }


def _frontier(fit: Fit, flops: Flops) -> dict[str, Any]:
    """Return the compute-optimal sizes from the least compute fitted to ten times the greatest."""
    points = fit.points
    compute = 6 * points.N * points.D if flops.name == "6ND" else points.compute
    top = compute.max()
    C = np.append(np.geomspace(compute.min(), NEXT * top, CURVE), [top, NEXT * top])
    N, D = fit.law.optimum(C, flops)
    sample_N, sample_D = fit.resampled.optimum(C, flops)  # (S, n)
    curves = {
        "N": estimate(N, sample_N),
        "D": estimate(D, sample_D),
        "loss": estimate(fit.law.loss(N, D), fit.resampled.loss(sample_N, sample_D)),
    }

    def exponent(sizes: np.ndarray) -> np.ndarray:
        return np.log(sizes[..., -1] / sizes[..., -2]) / np.log(NEXT)

    def at(index: int) -> dict[str, Any]:
        found = {k: {s: v[index] for s, v in curve.items()} for k, curve in curves.items()}
        run = fit.predict(N[index], D[index])
        found["loss"] |= {s: run[s][0] for s in ("run_low", "run_high")}
        return {"C": C[index], **found}

    return {
        "convention": flops.name,
        "determined": all(USUAL[0] <= x <= USUAL[1] for x in (fit.law.alpha, fit.law.beta)),
        "flops_per_token": flops.formula(),
        "flops": {"c": flops.c, "g": flops.g, "power": flops.power},
        "largest_deviation": flops.error,
        "exponent": estimate(exponent(N), exponent(sample_N)),
        "C": C[:CURVE],
        **{k: {s: v[:CURVE] for s, v in curve.items()} for k, curve in curves.items()},
        "largest": at(-2),
        "next": {"factor": NEXT, **at(-1)},
    }


def _held(held: HoldOut) -> dict[str, Any]:
    points = held.points
    rows = [
        {
            "run": points.label(i),
            "N": points.N[i],
            "D": points.D[i],
            "compute": points.compute[i],
            "measured": points.loss[i],
            "predicted": held.predicted["value"][i],
            "low": held.predicted["run_low"][i],
            "high": held.predicted["run_high"][i],
            "error_percent": 100 * held.error[i],
            "covered": held.covered[i],
        }
        for i in range(len(points))
    ]
    return {
        "fitted_runs": len(held.fit.points),
        "compute_factor": held.factor,
        "interval": f"{LEVEL} % for one run: bootstrap of the law times a residual drawn at random",
        "parameters": asdict(held.fit.law),
        "runs": rows,
        "median_absolute_error_percent": 100 * np.median(np.abs(held.error)),
        "covered": held.covered.sum(),
    }


def _runs(fit: Fit, held: HoldOut | None) -> list[dict[str, Any]]:
    points = fit.points
    out = set() if held is None else set(held.points.numbers.tolist())
    fitted = fit.law.loss(points.N, points.D)
    return [
        {
            "run": points.label(i),
            "row": points.numbers[i],
            "N": points.N[i],
            "D": points.D[i],
            "compute": points.compute[i],
            "loss": points.loss[i],
            "fitted": fitted[i],
            "residual_percent": 100 * (points.loss[i] / fitted[i] - 1),
            "held_out": int(points.numbers[i]) in out,
        }
        for i in range(len(points))
    ]


def plain(value: Any) -> Any:
    """Return ``value`` as JSON types, numbers to 10 digits, not-a-numbers as None."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [plain(item) for item in value]
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    if isinstance(value, (int, np.integer)):
        return int(value)
    if isinstance(value, (float, np.floating)):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
    return value
