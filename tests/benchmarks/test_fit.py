import numpy as np
import pytest

from benchmarks import fit
from llama_scale.scaling.fitting.chinchilla import BESIROGLU
from llama_scale.scaling.fitting.fit import objective


def test_synthetic_studies_are_the_law_with_its_noise():
    points = fit.synthetic(240, 0.002, seed=1)
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
    assert "pip install chinchilla" in fit.peer(fit.synthetic(24, 0.002, 0))["absent"]
