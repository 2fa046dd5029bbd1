"""A study in Weights & Biases, read back from the files that it writes offline."""

import json

import matplotlib.image
import numpy as np
import pytest

from llama_scale.errors import InputError
from llama_scale.files import write_json
from llama_scale.scaling.fitting.fitted_laws import FittedLaws
from llama_scale.scaling.report.page import write_report
from llama_scale.scaling.report.tables import tables
from llama_scale.scaling.report.wandb_study import mirror_study
from tests.conftest import run_here, run_script
from tests.llama_scale.scaling.helpers import fit_study
from tests.llama_scale.training.helpers import read_run

pytestmark = pytest.mark.usefixtures("no_wandb_settings")


@pytest.fixture
def study(tmp_path):
    """A finished study of two runs."""
    study = tmp_path / "studies" / "toy"
    (study / "figures").mkdir(parents=True)
    names = ["Q1-1M-seed0", "Q2-1M-seed0"]
    for size, name in enumerate(names, start=1):
        run = study / "runs" / name
        run.mkdir(parents=True)
        (run / "result.json").write_text(json.dumps({"run": name, "n_params": size * 1000}))
        rows = [{"step": s, "tokens": 100 * s, "flops": 6e5 * s, "loss": 7.0 - s} for s in (1, 2, 4)]
        rows[-1] |= {"val_loss": 2.5, "val_bits_per_byte": 1.25}
        (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines = [f"{name},{i},2.5,True" for i, name in enumerate(names)]
    (study / "points.csv").write_text("\n".join(["run,N,loss,annealed", *lines, ""]))
    (study / "laws.json").write_text(json.dumps({"laws": {"surface": {"alpha": 0.5, "of": "x"}}}))
    matplotlib.image.imsave(study / "figures" / "frontier.png", np.zeros((4, 4)))
    (study / "report.html").write_text("<html><body>a report</body></html>")
    return study


def test_mirror_offline(study, capfd):
    ids = mirror_study(study)
    assert list(ids) == ["Q1-1M-seed0", "Q2-1M-seed0", "toy"]
    run = read_run(study / "wandb", ids["Q2-1M-seed0"])
    assert (run["name"], run["group"], run["project"]) == ("Q2-1M-seed0", "toy", "llama_scale")
    assert run["config"] | {"run": "Q2-1M-seed0", "n_params": 2000} == run["config"]
    assert run["axes"]["*"] == "tokens" and run["axes"]["by_flops/val_loss"] == "flops"
    logged = [{k: v for k, v in row.items() if not k.startswith("_")} for row in run["history"]]
    assert logged[0] == {
        "step": 1, "tokens": 100, "flops": 6e5, "loss": 6.0, "by_flops/loss": 6.0
    }  # fmt: skip
    assert [row["_step"] for row in run["history"]] == [1, 2, 4]
    assert logged[-1]["val_loss"] == logged[-1]["by_flops/val_loss"] == 2.5

    whole = read_run(study / "wandb", ids["toy"])
    assert (whole["job"], whole["group"]) == ("study", "toy")
    assert whole["summary"]["laws/laws/surface/alpha"] == 0.5
    logged = {key for row in whole["history"] for key in row}
    assert {"points/nrows", "figures/frontier/path", "report/path"} <= logged
    (folder,) = (study / "wandb").glob(f"offline-run-*-{ids['toy']}")
    (table,) = folder.rglob("*.table.json")
    assert json.loads(table.read_text()) == {
        "columns": ["run", "N", "loss", "annealed"],
        "data": [["Q1-1M-seed0", 0, 2.5, True], ["Q2-1M-seed0", 1, 2.5, True]],
    }
    assert len(list(folder.rglob("*.png"))) == 1 and len(list(folder.rglob("*.html"))) == 1
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")

    # Built again: the same ids, in place of what was there; a changed run is another run.
    assert mirror_study(study) == ids
    assert len(list((study / "wandb").glob("offline-run-*"))) == 3
    with open(study / "runs/Q1-1M-seed0/metrics.jsonl", "a") as file:
        file.write('{"step": 5, "tokens": 500, "flops": 3e6, "loss": 1.0}\n')
    again = mirror_study(study)
    assert again["Q1-1M-seed0"] != ids["Q1-1M-seed0"]
    assert again["Q2-1M-seed0"] == ids["Q2-1M-seed0"]


def test_disabled_and_unknown_modes(study, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert mirror_study(study) == {}
    assert not (study / "wandb").exists()
    monkeypatch.setenv("WANDB_MODE", "ofline")
    with pytest.raises(InputError, match=r"WANDB_MODE: 'ofline' \(did you mean 'offline'\?\)"):
        mirror_study(study)


def test_launch_script(study, tmp_path):
    done = run_script("track.py", study, cwd=tmp_path, WANDB_MODE="disabled")
    assert done.returncode == 0 and "disabled" in done.stdout
    done = run_here("track.py", tmp_path / "nowhere", cwd=tmp_path)
    assert done.returncode == 2
    assert "nowhere/points.csv: no such file; run launch/study.py first" in done.stderr


def test_online_without_an_account_is_written_offline(study, capfd):
    ids = mirror_study(study, "online")
    assert read_run(study / "wandb", ids["toy"])["summary"]["laws/laws/surface/alpha"] == 0.5
    err = capfd.readouterr().err
    assert err.count("writing offline") == 1 and "log in" in err


def test_every_table_and_figure_of_a_fitted_study_arrives(tmp_path):
    study = tmp_path / "studies" / "fitted"
    study.mkdir(parents=True)
    fit_study(study)
    write_report(study)
    for line in (study / "points.csv").read_text().splitlines()[1:]:
        run = study / "runs" / line.split(",")[0]
        run.mkdir(parents=True)
        write_json(run / "result.json", {"run": run.name})
        (run / "metrics.jsonl").write_text(json.dumps({"step": 1, "tokens": 1, "flops": 1}) + "\n")
    identity = mirror_study(study)["fitted"]
    shown = read_run(study / "wandb", identity)
    logged = {key for row in shown["history"] for key in row}
    expected = tables(FittedLaws.read(study))
    assert len(expected) > 4
    (folder,) = (study / "wandb").glob(f"offline-run-*-{identity}")
    stored = [json.loads(path.read_text()) for path in folder.rglob("*.table.json")]
    for table in expected:
        assert f"tables/{table.key}/nrows" in logged
        wanted = json.loads(json.dumps({"columns": table.head, "data": table.body}))
        assert wanted in stored, table.key
    figures = sorted(path.stem for path in (study / "figures").glob("*.png"))
    assert len(figures) > 5 and {f"figures/{name}/path" for name in figures} <= logged
    images = {path.read_bytes() for path in folder.rglob("*.png")}
    assert images == {(study / "figures" / f"{name}.png").read_bytes() for name in figures}
    (page,) = folder.rglob("*.html")
    assert page.read_bytes() == (study / "report.html").read_bytes()
