"""Studies with a known law, as points in memory, as a points.csv and as a fitted folder."""

import csv

import numpy as np

from llama_scale.scaling.fitting.chinchilla import Surface
from llama_scale.scaling.fitting.fit import fit_surface, try_hold_out
from llama_scale.scaling.fitting.points import Points, read_points
from llama_scale.scaling.fitting.results.summarize import summarize
from tests.conftest import ROOT

SHARED = ROOT.parent / "shared" / "data" / "scaling"
TRUE = Surface(E=1.1, A=60.0, alpha=0.30, B=400.0, beta=0.42)
SIZES = {"S1": (164_000, 64), "S2": (554_000, 96), "S3": (1_280_000, 128), "S4": (3_100_000, 192)}
NASTY = "</script><b>s1 & co"
TOY = {
    "name": "toy",
    "data": "configs/data/installed.yaml",
    "device": "cpu",
    "threads": 1,
    "runs": [{"sizes": ["S1", "S2"], "tokens": [300_000, 1e6]},
             {"sizes": ["S1"], "tokens": [2.5e6], "seeds": [0, 1]}],
    "train": {"model.vocab_size": 1024, "model": {"context_length": 128}, "optim": {"lr": 1e-3}},
    "suites": ["perplexity", "humaneval"],
    "evaluate": {"humaneval": {"n_tasks": 5}},
    "fit": {"resamples": 500},
}  # fmt: skip


def points(N, D, loss) -> Points:
    rows = [dict(zip(("N", "D", "loss"), map(str, row), strict=True)) for row in zip(N, D, loss, strict=True)]
    names = {"N": "N", "D": "D", "loss": "loss"}
    return Points(N, D, loss, None, rows, np.arange(1, len(N) + 1), "x.csv", "", len(N), names)


def grid(sizes=5, budgets=4, noise=0.005, seed=0, law=TRUE) -> Points:
    N, D = np.meshgrid(np.geomspace(8e4, 1.7e6, sizes), np.geomspace(2.5e5, 4e6, budgets))
    N, D = N.ravel(), D.ravel()
    scatter = np.random.default_rng(seed).standard_normal(len(N))
    return points(N, D, law.loss(N, D) * np.exp(noise * scatter))


def write_points(path, drop=()):
    """Write a study's points.csv: 4 sizes by 4 numbers of tokens, scores included."""
    rng, rows = np.random.default_rng(7), []
    for name, (N, d) in SIZES.items():
        for D in (250_000, 630_000, 1_580_000, 4_000_000):
            loss = TRUE.loss(N, D) * np.exp(0.005 * rng.standard_normal())
            rows.append(
                {
                    "run": f"{name}-{D}" if rows else NASTY,
                    "size": name,
                    "N": N,
                    "n_params": N + 1024 * d,
                    "n_params_matmul": N + 1024 * d,
                    "D": D,
                    "flops": 6 * D * (N + 1024 * d + 256 * 6 * d),
                    "epochs": 1.5,
                    "annealed": "True",
                    "loss": f"{loss:.6f}",
                    "bits_per_byte": f"{loss / 2:.6f}",
                    "humaneval_gold_bits_per_byte": f"{loss / 1.8:.6f}",
                    "humaneval_parse_rate": 0.5,
                    "humaneval_nontrivial_parse_rate": f"{max(0, 0.9 - loss / 5):.4f}",
                    "humaneval_pass_at_1": 0.0,
                }
            )
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, [name for name in rows[0] if name not in drop], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return path


def fit_study(folder, holdout="largest", drop=()):
    """Write and fit a study's points in ``folder``; return them and its laws."""
    points = read_points(write_points(folder / "points.csv", drop))
    laws = summarize(fit_surface(points, 200), *try_hold_out(points, holdout, 200))
    laws.write(folder / "laws.json")
    return points, laws
