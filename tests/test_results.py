"""The laws that docs/results states are those that ``fit`` makes of the points beside them."""

import hashlib
import json

import pytest

from tests.conftest import ROOT, run_here

RESULTS = ROOT / "docs" / "results"
# A folder of results, its points, and how its page says that the law was fitted.
FITS = [
    ("evening", "points.csv", ["--columns=N=n_params"]),
    ("evening/first-plan", "points.csv", ["--holdout=D>1e7"]),
    ("published", "bigcode_python.csv", ["--columns=N=n_params,D=tokens,loss=python_val_loss"]),
]


@pytest.mark.parametrize(("folder", "points", "flags"), FITS)
def test_committed_points_give_the_committed_law(tmp_path, folder, points, flags):
    stated = json.loads((RESULTS / folder / "laws.json").read_text())
    path = RESULTS / folder / points
    assert stated["points"]["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    done = run_here("scaling.py", "fit", path, *flags, "--resamples=100", "--out=out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "out" / "laws.json").read_text())
    assert found["conventions"] == stated["conventions"]
    surfaces = [laws["laws"]["surface"] for laws in (found, stated)]
    assert surfaces[0]["formula"] == surfaces[1]["formula"]
    for name, parameter in surfaces[1]["parameters"].items():
        assert surfaces[0]["parameters"][name]["value"] == pytest.approx(parameter["value"], rel=1e-3), name
    for ours, theirs in zip(found["holdout"]["runs"], stated["holdout"]["runs"], strict=True):
        assert ours["run"] == theirs["run"] and ours["measured"] == theirs["measured"]
        assert ours["predicted"] == pytest.approx(theirs["predicted"], rel=1e-6)
