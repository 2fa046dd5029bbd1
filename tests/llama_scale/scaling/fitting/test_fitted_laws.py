"""laws.json: what is written is what is read, under its names and those of older files."""

import copy
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from llama_scale import scaling
from llama_scale.errors import InputError
from llama_scale.files import read_json
from llama_scale.scaling.fitting.fit import fit_surface
from llama_scale.scaling.fitting.fitted_laws import FORMAT, FittedLaws
from llama_scale.scaling.fitting.points import read_points
from tests.conftest import ROOT
from tests.llama_scale.scaling.helpers import TRUE, fit_study, write_points

V1 = Path(__file__).parent / "laws_v1.json"


def values(tree, names=()):
    """Return every number and word in nested JSON, with the names that lead to it."""
    if isinstance(tree, dict):
        return {k: v for name in tree for k, v in values(tree[name], (*names, name)).items()}
    if isinstance(tree, list):
        return {k: v for i, item in enumerate(tree) for k, v in values(item, (*names, i)).items()}
    return {names: tree}


def test_a_file_of_the_first_format_is_read_with_all_its_values():
    """The runs of a study, the parabola of another, and thresholds with and without a link."""
    old, laws = json.loads(V1.read_text()), FittedLaws.read(V1)
    new = laws.to_dict()
    assert new["format"] == FORMAT
    renamed = {
        "D": "tokens", "compute": "flops", "C": "flops", "least_compute": "least_flops",
        "N": "model_size", "second_optimiser": "second_optimizer", "centre": "center",
        "from": "count",
    }  # fmt: skip
    found = values(new)
    for names, value in values(old).items():
        if names == ("format",):
            continue
        other = tuple(renamed.get(name, name) for name in names)
        other = next(path for path in (names, (*names[:-1], other[-1]), other) if path in found)
        assert found[other] == value, names
    assert laws.law.loss(1e5, 1e6) < laws.law.loss(1e4, 1e6)
    assert laws.flops.name == "exact, column 'flops'" and len(laws.resampled.E) == 12
    first, run = old["runs"][0], laws.runs[0]
    assert (run.model_size, run.tokens, run.flops) == (first["N"], first["D"], first["compute"])
    assert laws.approaches.isoflop[0].center == old["approaches"]["isoflop"][0]["centre"]
    assert laws.thresholds[-1].C is None and laws.thresholds[-1].reason
    without = FittedLaws.from_dict({name: old[name] for name in old if name != "model"})
    assert without == replace(laws, model={}), "files older still do not name the model"


def test_what_is_written_is_read_back(tmp_path):
    _, laws = fit_study(tmp_path)
    assert FittedLaws.read(tmp_path) == FittedLaws.read(tmp_path / "laws.json") == laws
    with pytest.raises(InputError, match=r"laws\.json: no such file"):
        FittedLaws.read(tmp_path / "absent" / "laws.json")
    written = read_json(tmp_path / "laws.json")
    del written["laws"]["surface"]["bootstrap"]["seed"]
    (tmp_path / "laws.json").write_text(json.dumps(written))
    with pytest.raises(InputError, match=r"laws\.json: no 'surface\.bootstrap\.seed'; run launch"):
        FittedLaws.read(tmp_path)
    (tmp_path / "laws.json").write_text("[]")
    with pytest.raises(InputError, match=r"laws\.json: not llama_scale\.laws\.v2; run launch"):
        FittedLaws.read(tmp_path)


def test_laws_foretell_what_the_fit_does(tmp_path):
    points, laws = fit_study(tmp_path)
    fit = fit_surface(points, 200)
    N, D = laws.law.optimum(np.array([1e15]), laws.flops)
    own = fit.predict(N, D)
    assert laws.predict(N[0], D[0]).run_high == pytest.approx(own["run_high"][0], rel=1e-6)
    loss = laws.predict(N[0], D[0])
    assert laws.bits_per_byte(loss).value == pytest.approx(loss.value / 2, rel=1e-4)
    assert pytest.approx(10 * points.compute.max()) == laws.best_frontier.next.C
    np.testing.assert_allclose(laws.fitted_flops, points.compute)


def test_fit_is_one_call(tmp_path):
    path = write_points(tmp_path / "points.csv")
    laws = scaling.fit(path, where="N>2e5", holdout="D>3e6", resamples=100, seed=3)
    alpha = laws.surface.parameters["alpha"]
    assert alpha.low < TRUE.alpha < alpha.high
    assert len(laws.runs) == 12 and len(laws.holdout.runs) == 3
    assert laws.surface.bootstrap.seed == 3
    laws.write(tmp_path / "laws.json")
    assert FittedLaws.read(tmp_path) == laws
    again = scaling.fit(
        path, {"loss": "bits_per_byte"}, holdout="none", resamples=100, against="E=9,A=1,alpha=1,B=1,beta=1"
    )
    assert again.holdout is None
    assert any("The stated law is no optimum" in text for text in again.warnings)
    with pytest.raises(InputError, match="no column 'x'"):
        scaling.fit(path, {"N": "x"})


def test_the_import_is_light():
    code = (
        "import sys; from llama_scale.scaling import fit; "
        "sys.exit(any(name in sys.modules for name in ('torch', 'scipy', 'matplotlib')))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_parameters_and_tokens_are_found_under_either_name(tmp_path):
    path = write_points(tmp_path / "old.csv")
    header, *rows = path.read_text().splitlines()
    new = header.replace(",N,", ",n_params_non_embedding,").replace(",D,", ",tokens,")
    assert new != header
    (tmp_path / "new.csv").write_text("\n".join([new, *rows]) + "\n")
    old, points = read_points(path), read_points(tmp_path / "new.csv", where="N>2e5,D>3e5")
    assert points.columns["N"] == "n_params_non_embedding" and points.columns["D"] == "tokens"
    assert points.of_this_project and old.of_this_project
    np.testing.assert_array_equal(points.N, old.select((old.N > 2e5) & (old.D > 3e5)).N)
    laws = scaling.fit(tmp_path / "new.csv", resamples=100)
    assert laws.conventions.model_size == "non-embedding parameters"
    assert [row.N for row in laws.side_by_side] == [row.N for row in scaling.fit(path, resamples=100).side_by_side]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """What the laws.json of a study holds."""
    folder = tmp_path_factory.mktemp("written")
    fit_study(folder)
    return read_json(folder / "laws.json")


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("laws.surface.parameters.alpha.value", "0.3", "expected a number, found '0.3'"),
        ("laws.surface.parameters.alpha.value", None, "alpha.value: expected a positive number, found None"),
        ("laws.surface.parameters.A.value", -3, "A.value: expected a positive number, found -3"),
        ("laws.surface.parameters", {}, "surface: no parameter 'E'"),
        ("laws.surface.sample.beta", [], "surface: no parameter 'beta' or no resamples of it"),
        ("laws.surface.sample.beta", [0.4], "parameters have different numbers of resamples"),
        ("laws.surface.sample", {}, "surface: no parameter 'E'"),
        ("runs", [], "no runs"),
        ("frontier", [], "no frontier"),
        ("runs.0.tokens", 0, "runs.tokens: expected a positive number, found 0"),
        ("runs.0.model_size", True, r"runs\[0\].model_size: expected a number, found True"),
        ("conventions.flops", None, "conventions.flops: expected text, found None"),
        ("warnings", "none", "warnings: expected a list, found 'none'"),
    ],
)
def test_a_law_changed_by_hand_is_read_or_refused_in_words(written, tmp_path, place, value, message):
    """Without its seal the file is as somebody left it: what cannot be reckoned with is named, before it is."""
    written = copy.deepcopy(written)
    *way, last = place.split(".")
    at = written
    for name in way:
        at = at[int(name) if name.isdigit() else name]
    at[int(last) if last.isdigit() else last] = value
    (tmp_path / "laws.json").write_text(json.dumps(written))
    with pytest.raises(InputError, match=message):
        FittedLaws.read(tmp_path)
