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


def test_coverage_counts_what_the_intervals_hold(tmp_path):
    rows, design = tmp_path / "rows.jsonl", fit.Design(24, 0.002)
    found = fit.coverage("a", design, replicates=3, resamples=100, rows=rows)
    shares = found["covered_percent"]
    assert set(shares) >= {"alpha, bootstrap", "beta, profile", "one run at 10x"} and "k, profile" not in shares
    assert all(round(share * 3 / 100, 9) in (0, 1, 2, 3) for share in shares.values())
    assert np.mean(list(shares.values())) > 60
    assert found["median_error"]["alpha"] <= found["largest_error"]["alpha"] < 0.2
    lines = rows.read_text().splitlines()
    rows.write_text("\n".join(lines[:2]) + "\n")
    assert fit.coverage("a", design, replicates=3, resamples=100, rows=rows) == found, "goes on where it stopped"
    assert rows.read_text().splitlines() == lines


def test_branches_of_a_trunk_err_together():
    design = fit.DESIGNS["joint, 7 trunks of 4, 1 % and .3 %"]
    points = [design.points(seed) for seed in range(60)]
    assert points[0].shares_trunks and points[0].trunks.max() == 6 and len(points[0]) == design.runs
    error = np.log([p.loss / design.law.loss(p.N, p.D) for p in points])  # (60, 28)
    trunk = error.reshape(60, 7, 4)
    assert trunk.mean(2).std() == pytest.approx(0.01, rel=0.15)
    assert (trunk - trunk.mean(2, keepdims=True)).std() == pytest.approx(0.003 * np.sqrt(3 / 4), rel=0.1)
    outcome = fit.outcome(design, seed=0, resamples=100)
    assert {"k, profile", "k, bootstrap"} <= set(outcome["covered"]) and outcome["errors"]["k"] < 0.3


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
