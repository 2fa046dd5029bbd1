"""What a fitted law advises: a size, its data and recipe for a budget, and forecasts of runs."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from llama_scale.config import CONFIGS, load_size
from llama_scale.cost.accounting import count_parameters
from llama_scale.cost.hardware import DEFAULT_MFU, HARDWARE
from llama_scale.errors import InputError, nearest
from llama_scale.files import read_json, sha256, write_json
from llama_scale.scaling.fitting.chinchilla import Flops, Surface
from llama_scale.scaling.fitting.fit import PARAMETERS, interval, predict
from llama_scale.scaling.fitting.laws_file import EMBEDDED, FORMAT, HEADED
from llama_scale.scaling.fitting.points import Points
from llama_scale.text import between, count, digits, power, signed
from llama_scale.training.recipe import LR_CAP, step_law_batch, step_law_lr

FORECAST = "llama_scale.forecast.v1"
SAME_N, SAME_D = 5e-3, 2e-2
HOUR = 3_600
UNDETERMINED = "an exponent lies outside the usual range, so no best size can be given"
SHIPPED = (
    "  counted with a tied vocabulary of 32,000 tokens: the points name no one vocabulary of theirs"
)


@dataclass(frozen=True)
class Fitted:
    """A law read back from laws.json: the optimum, its resamples (S,) and residuals (n,)."""

    laws: dict[str, Any]
    path: Path
    law: Surface
    resampled: Surface
    residual: np.ndarray
    flops: Flops

    def predict(self, N: np.ndarray, D: np.ndarray) -> dict[str, np.ndarray]:
        """Return what ``Fit.predict`` does."""
        seed = self.laws["laws"]["surface"]["bootstrap"]["seed"]
        return predict(self.law, self.resampled, self.residual, seed, N, D)

    def column(self, name: str) -> np.ndarray:
        """Return N, D, compute or loss of the fitted runs, (n,)."""
        return np.array([run[name] for run in self.laws["runs"]])

    def bits(self, loss: dict[str, float]) -> dict[str, float] | None:
        """Return bits per byte of a loss and its ends; None where the runs had none."""
        link = self.laws["links"].get("bits_per_byte")
        if not link:
            return None
        return {k: link[0]["a"] + link[0]["b"]["value"] * v for k, v in loss.items()}


def read_laws(path: str | Path) -> Fitted:
    """Read laws.json, or that of a study's folder; raise InputError where it is none."""
    path = Path(path)
    path = path / "laws.json" if path.is_dir() else path
    laws = read_json(path)
    if not isinstance(laws, dict) or laws.get("format") != FORMAT:
        raise InputError(f"{path}: not {FORMAT}; run launch/scaling.py fit again")
    try:
        surface, best = laws["laws"]["surface"], laws["frontier"][-1]
        law = Surface(**{name: surface["parameters"][name]["value"] for name in PARAMETERS})
        sample = Surface(**{name: np.array(surface["sample"][name]) for name in PARAMETERS})
        flops = Flops(best["convention"], **best["flops"])
        residual = np.log1p(np.array([run["residual_percent"] for run in laws["runs"]]) / 100)
    except KeyError as error:
        raise InputError(f"{path}: no {error}; run launch/scaling.py fit again") from None
    return Fitted(laws, path, law, sample, residual, flops)


def budget(flops: float | None, gpu_hours: float | None, gpu: str, mfu: float) -> float:
    """Return training FLOPs of a budget given as one of FLOPs and GPU-hours."""
    if (flops is None) == (gpu_hours is None):
        raise InputError("give one of --budget FLOPS and --gpu-hours HOURS")
    if not 0 < mfu <= 1:
        raise InputError(f"--mfu: expected a share of the peak in (0, 1], found {mfu}")
    given = flops if flops is not None else gpu_hours
    if not 0 < given < math.inf:
        flag = "--budget" if flops is not None else "--gpu-hours"
        raise InputError(f"{flag}: expected a positive number, found {given}")
    return given if flops is not None else given * HOUR * peak(gpu) * mfu


def peak(gpu: str) -> float:
    """Return the dense bf16 peak of a GPU by name, in FLOP/s."""
    if gpu.lower() not in HARDWARE:
        names = ", ".join(HARDWARE)
        raise InputError(f"--gpu: {gpu!r} is not known{nearest(gpu, HARDWARE)}; known: {names}")
    return HARDWARE[gpu.lower()].peak


def recommend(
    fitted: Fitted, C: float, gpu: str = "h200", mfu: float = DEFAULT_MFU
) -> dict[str, Any]:
    """Return the best use of C FLOPs: by the law, and on the rung nearest to it.

    Both spend C as the law's runs count it, in their vocabulary and context. ``beyond`` compares
    it to the greatest and ``below`` to the least of the runs. Raises InputError where the runs do
    not show an optimum, or where C buys less than one batch.
    """
    if not fitted.laws["frontier"][-1]["determined"]:
        raise InputError(f"{fitted.path}: {UNDETERMINED}")
    N, D = (float(x[0]) for x in fitted.law.optimum(np.array([C]), fitted.flops))
    ends = [interval(x[:, 0]) for x in fitted.resampled.optimum(np.array([C]), fitted.flops)]
    best = _plan(fitted, N, D) | {
        "N_interval": [float(end) for end in ends[0]],
        "D_interval": [float(end) for end in ends[1]],
    }
    name, size = _rung(fitted, N)
    rung = {"size": name} | _plan(fitted, size, C / float(fitted.flops.per_token(size)))
    if min(best["steps"], rung["steps"]) < 1:
        raise InputError(
            f"{C:g} FLOPs buy {digits(D)} tokens of the best size and {digits(rung['D'])} of the "
            f"nearest rung, {name}: less than one batch; the smallest run fitted took "
            f"{_compute(fitted).min():.3g} FLOPs"
        )
    rung["vocabulary_recorded"] = _recorded(fitted)
    rung["excess_percent"] = 100 * (rung["loss"]["value"] / best["loss"]["value"] - 1)
    return {
        "C": C,
        "convention": fitted.flops.name,
        "gpu": gpu,
        "mfu": mfu,
        "gpu_hours": C / (peak(gpu) * mfu * HOUR),
        "best": best,
        "rung": rung,
        "beyond": _against(fitted, np.max, C, N, D),
        "below": _against(fitted, np.min, C, N, D),
    }


def _against(
    fitted: Fitted, end: Callable[[np.ndarray], float], C: float, N: float, D: float
) -> dict[str, float]:
    """Return C, N and D over the greatest, or the least, of the runs."""
    return {
        "compute": float(C / end(_compute(fitted))),
        "N": float(N / end(fitted.column("N"))),
        "D": float(D / end(fitted.column("D"))),
    }


def _compute(fitted: Fitted) -> np.ndarray:
    if fitted.flops.name == "6ND":
        return 6 * fitted.column("N") * fitted.column("D")
    return fitted.column("compute")


def _plan(fitted: Fitted, N: float, D: float) -> dict[str, Any]:
    loss = {name: float(value[0]) for name, value in fitted.predict(N, D).items()}
    batch = step_law_batch(D)
    return {
        "N": N,
        "D": D,
        "batch_tokens": batch,
        "steps": D / batch,
        "lr": step_law_lr(int(N), D),
        "loss": loss,
        "bits_per_byte": fitted.bits(loss),
    }


def _counted(fitted: Fitted, name: str) -> int:
    """Return the size of a rung as the law counts it, with the models of the fitted runs."""
    counted = count_parameters(load_size(name, **fitted.laws.get("model", {})))
    means = fitted.laws["conventions"]["N"]
    if EMBEDDED in means:
        return counted.total
    return counted.matmul if HEADED in means else counted.non_embedding


def _rung(fitted: Fitted, N: float) -> tuple[str, int]:
    names = sorted(path.stem for path in CONFIGS.glob("size/*.yaml"))
    rungs = [(name, _counted(fitted, name)) for name in names]
    return min(rungs, key=lambda rung: abs(math.log(rung[1] / N)))


def _recorded(fitted: Fitted) -> bool:
    """Return whether the points name what the size of a rung depends on, as the law counts it."""
    means, known = fitted.laws["conventions"]["N"], fitted.laws.get("model", {})
    needed = {EMBEDDED: ("vocab_size", "tie_embeddings"), HEADED: ("vocab_size",)}
    return all(name in known for text, names in needed.items() if text in means for name in names)


def advise(found: dict[str, Any], means: str) -> str:
    """Return a recommendation as text."""
    best, rung = found["best"], found["rung"]
    sizes, data = (", ".join(count(x) for x in best[f"{k}_interval"]) for k in ("N", "D"))
    lines = [
        f"{power(found['C'])} FLOP ({found['convention']}): {digits(found['gpu_hours'])} hours of "
        f"one {found['gpu']} at {found['mfu']:.0%} of its bf16 peak",
        f"  size    {count(best['N'])} [{sizes}] ({means})",
        f"  tokens  {count(best['D'])} [{data}]",
        *_recipe(best),
        f"Nearest rung: {rung['size']}, {count(rung['N'])} parameters, {count(rung['D'])} tokens "
        f"(loss {signed(rung['excess_percent'])} from the best)",
        *_recipe(rung),
        *([] if rung["vocabulary_recorded"] else [SHIPPED]),
        *_place(found["beyond"], found["below"]),
    ]
    return "\n".join(lines)


def _place(beyond: dict[str, float], below: dict[str, float]) -> list[str]:
    """Return where a budget lies among those of the runs, as text."""
    small = below["compute"] < 1
    times, run = (below, "smallest") if small else (beyond, "largest")
    verdict = "below" if small else "an extrapolation beyond" if beyond["compute"] > 1 else "within"
    lines = [
        f"This is {digits(times['compute'])} times the compute of the {run} run fitted "
        f"({digits(times['N'])} times its size, {digits(times['D'])} times its tokens), "
        f"{verdict} the compute measured."
    ]
    if beyond["compute"] > 10 or below["compute"] < 0.1:
        lines.append(
            "warning: more than ten times outside the runs, laws err by more than their intervals "
            "say; run a rung in between first"
        )
    return lines


def _recipe(plan: dict[str, Any]) -> list[str]:
    capped = f", capped at {LR_CAP:g}" if plan["lr"] == LR_CAP else ""
    lines = [
        f"  batch   {count(plan['batch_tokens'])} tokens, {count(plan['steps'])} steps; rate "
        f"{plan['lr']:.2e} (Step Law{capped})",
        f"  loss    {between(plan['loss'], digits, 'run_low', 'run_high')}",
    ]
    if plan["bits_per_byte"]:
        bits = between(plan["bits_per_byte"], digits, "run_low", "run_high")
        lines.append(f"  bits per byte {bits}")
    return lines


def forecast(fitted: Fitted, runs: str, now: datetime | None = None) -> dict[str, Any]:
    """Return a dated forecast of runs given as ``SIZE:TOKENS,SIZE:TOKENS``.

    A size is a number of parameters as the law counts them or a rung's name. Raises InputError
    when a run is one of those fitted: what is known cannot be forecast.
    """
    rows = []
    for part in runs.split(","):
        size, colon, tokens = (text.strip() for text in part.partition(":"))
        try:
            D = float(tokens)
            N = float(size) if size[:1].isdigit() else _counted(fitted, size)
        except InputError:
            raise
        except ValueError:
            colon = ""
        if not colon or not (0 < N < math.inf and 0 < D < math.inf):
            raise InputError(
                f"--runs: {part.strip()!r}: expected SIZE:TOKENS, as M2:2e9 or 76e6:2e9"
            )
        known = np.flatnonzero(_same(fitted.column("N"), fitted.column("D"), N, D))
        if len(known):
            run = fitted.laws["runs"][known[0]]["run"]
            raise InputError(f"--runs: {part.strip()}: the law was fitted to it ({run})")
        loss = {name: float(value[0]) for name, value in fitted.predict(N, D).items()}
        per_token = fitted.flops.per_token(N)
        rows.append({"run": part.strip(), "N": N, "D": D, "compute": per_token * D} | loss)
    return {
        "format": FORECAST,
        "made": (now or datetime.now(UTC)).isoformat(timespec="seconds"),
        "laws_sha256": sha256(fitted.path),
        "points_sha256": fitted.laws["points"]["sha256"],
        "conventions": fitted.laws["conventions"],
        "largest_compute_fitted": float(_compute(fitted).max()),
        "runs": rows,
    }


def keep(made: dict[str, Any], out: Path) -> Path:
    """Write a forecast and return its file: ``out``, or TIME.json in the folder ``out``.

    A folder that has the same runs forecast by the same law keeps that file and its date; another
    forecast of the same second is TIME_2.json. Raises InputError where the file ``out`` exists: a
    forecast is not written over.
    """
    if out.suffix == ".json":
        if out.exists():
            raise InputError(f"--out: {out} exists; a forecast is not written over")
    else:
        for path in sorted(out.glob("*.json")):
            if {**read_forecast(path), "made": made["made"]} == made:
                return path
        folder, time, number = out, made["made"].replace(":", "").split("+")[0], 1
        out = folder / f"{time}.json"
        while out.exists():
            number += 1
            out = folder / f"{time}_{number}.json"
    write_json(out, made)
    return out


def _same(N: np.ndarray, D: np.ndarray, size: float, data: float) -> np.ndarray:
    return (np.abs(N / size - 1) < SAME_N) & (np.abs(D / data - 1) < SAME_D)


def read_forecast(path: str | Path) -> dict[str, Any]:
    """Read a forecast; raise InputError where it is none."""
    found = read_json(path)
    if not isinstance(found, dict) or found.get("format") != FORECAST:
        raise InputError(f"{path}: not {FORECAST}; launch/scaling.py forecast writes one")
    return found


def score(forecast: dict[str, Any], points: Points) -> dict[str, Any]:
    """Return a forecast with what was measured, the signed errors and whether they are covered.

    A run is matched by its N and D; one of several seeds takes their mean loss. Its interval is
    that of one run. What is not measured yet is None.
    """
    rows = []
    for row in forecast["runs"]:
        found = _same(points.N, points.D, row["N"], row["D"])
        loss = float(points.loss[found].mean()) if found.any() else None
        error = 100 * (row["value"] / loss - 1) if loss else None
        covered = row["run_low"] <= loss <= row["run_high"] if loss else None
        rows.append(row | {"measured": loss, "error_percent": error, "covered": covered})
    done = [row for row in rows if row["measured"]]
    return forecast | {
        "runs": rows,
        "measured": len(done),
        "covered": sum(row["covered"] for row in done),
        "scored_points_sha256": points.sha256,
    }
