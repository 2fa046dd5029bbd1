import numpy as np
import pytest

from benchmarks import fit
from llama_scale.scaling.fitting.chinchilla import BESIROGLU
from llama_scale.scaling.fitting.fit import objective


def test_synthetic_studies_are_the_law_with_its_noise():
    points = fit.synthetic_points(240, 0.002, seed=1)
    residual = np.log(points.loss / BESIROGLU.loss(points.N, points.D))
    assert residual.std() == pytest.approx(0.002, rel=0.15)
    assert len(points) == 240
    ratio = points.D / points.N
    assert ratio.min() > 0.5 and ratio.max() < 500
    assert len(np.unique(np.round(np.log(points.compute), 6))) == 9
    assert objective(BESIROGLU, points) > 0


def test_coverage_counts_what_the_intervals_hold():
    found = fit.coverage(24, 0.002, replicates=3, resamples=100)
    shares = found["covered_percent"]
    assert set(shares) >= {"alpha, bootstrap", "beta, profile", "one run at 10x"}
    assert all(round(share * 3 / 100, 9) in (0, 1, 2, 3) for share in shares.values())
    assert np.mean(list(shares.values())) > 60
    assert found["median_error"]["alpha"] <= found["largest_error"]["alpha"] < 0.2


def test_absent_peer_is_said(monkeypatch):
    def missing(name):
        raise fit.PackageNotFoundError(name)

    monkeypatch.setattr(fit, "version", missing)
    peer = fit.compare_with_chinchilla(fit.synthetic_points(24, 0.002, 0))
    assert "pip install chinchilla" in peer["absent"]


def test_tables():
    speed = {"runs": 240, "fit_s": 0.2, "bootstrap_4000_s": 2.114}
    peer = {
        "release": "0.2.0", "runs": 240, "ours_s": 0.72, "theirs_s": 27.3, "ratio": 37.9,
        "ours_objective": 0.000695159591, "theirs_objective": 0.000695159608,
    }  # fmt: skip
    design = {
        "replicates": 500,
        "covered_percent": {"alpha, bootstrap": 96.0, "one run at 10x": 93.2},
        "median_error": {"alpha": 0.0021, "beta": 0.0016, "E": 0.0032},
        "largest_error": {"alpha": 0.0115, "beta": 0.0092, "E": 0.0168},
    }
    result = {"speed": speed, "peer": peer, "coverage": {"240 runs, .2 %": design}}
    assert fit.table(result).splitlines() == [
        "fit of 240 runs               seconds       objective  llama_scale is",
        "llama_scale                      0.72  0.000695159591           1.00x",
        "chinchilla 0.2.0                27.30  0.000695159608          37.90x",
        "llama_scale, 4,000 resamples     2.11               -               -",
        "",
        "covered by 95 % intervals (500 studies), %  240 runs, .2 %",
        "alpha, bootstrap                                      96.0",
        "one run at 10x                                        93.2",
        "",
        "absolute error, median (largest)   240 runs, .2 %",
        "alpha                             0.0021 (0.0115)",
        "beta                              0.0016 (0.0092)",
        "E                                 0.0032 (0.0168)",
    ]
    absent = fit.table({"speed": speed, "peer": {"absent": "chinchilla is not installed"}})
    assert absent.splitlines() == [
        "fit of 240 runs               seconds",
        "llama_scale                      0.20",
        "llama_scale, 4,000 resamples     2.11",
        "",
        "chinchilla is not installed",
    ]
