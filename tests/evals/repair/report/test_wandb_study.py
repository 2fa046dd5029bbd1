"""A repair study in Weights & Biases, read back from the files that it writes offline."""

import json

import pytest

from evals.repair.report.page import read_study
from evals.repair.report.tables import tables
from evals.repair.report.wandb_study import mirror_study
from tests.evals.repair.helpers import mixed, study, write_tasks
from tests.llama_scale.training.helpers import read_run

pytestmark = pytest.mark.usefixtures("no_wandb_settings")


def of(folder):
    return read_study(folder / "repair-mbpp-steps.jsonl.gz"), folder, folder / "repair-mbpp-report.html"


def test_what_is_written_offline_are_the_figures_of_the_result(tmp_path, capfd):
    result, _, _ = study(tmp_path, mixed, 4, **{"plan.rounds": 2, "plan.arms": "resample,tests,generic"})
    capfd.readouterr()
    identity = mirror_study(*of(tmp_path), "proof")
    assert capfd.readouterr() == ("", "")
    run = read_run(tmp_path / "wandb", identity)
    assert (run["project"], run["job"]) == ("proof", "repair")
    assert run["config"]["plan"] == result["plan"] and run["config"]["backend"] == result["backend"]
    assert run["axes"]["*"] == "programs" and run["axes"]["by_tokens/tests"] == "tests/tokens"
    rows = [row for row in run["history"] if "resample/solved" in row]
    assert [row["programs"] for row in rows] == list(range(1, len(rows) + 1)) and len(rows) >= 3
    for name, arm in result["arms"].items():
        for point, row in zip(arm["curve"], rows, strict=False):
            told = [row[f"{name}/solved{end}"] for end in ("", "_low", "_high")]
            assert told == [point["rate"]["value"], *point["rate"]["interval"]]
            assert row[f"by_tokens/{name}"] == point["rate"]["value"] and row.get(f"{name}/tokens") == point["tokens"]
        assert run["summary"][f"{name}/repeats"] == arm["repeats"]
        last = arm["selection"]["first_visible"]
        assert run["summary"][f"{name}/selection/first_visible/solved"] == last["solved"]
    gap = result["arms"]["tests"]["against_resample"]["equal_programs"]
    path = "tests/against/equal_programs"
    told = [run["summary"][f"{path}/{end}"] for end in ("difference", "interval_low", "interval_high")]
    assert told == [gap["difference"], *gap["interval"]]
    (folder,) = (tmp_path / "wandb").glob(f"offline-run-*-{identity}")
    shown = {file.name.split("_")[0]: json.loads(file.read_text()) for file in folder.rglob("*.table.json")}
    found = read_study(tmp_path / "repair-mbpp-steps.jsonl.gz")
    for table in tables(found.result, found.rows):
        assert shown[table.key] == {"columns": table.head, "data": table.body}
    assert len(list(folder.rglob("*.png"))) == 1
    (page,) = folder.rglob("*.html")
    assert page.read_text() == (tmp_path / "repair-mbpp-report.html").read_text()
    # Built again, the same study takes its own place.
    assert mirror_study(*of(tmp_path), "proof") == identity
    assert len(list((tmp_path / "wandb").glob("offline-run-*"))) == 1


def test_the_command_mirrors_where_it_is_asked_to(tmp_path, launch, monkeypatch):
    """A log of replies needs no model. A mode that W&B lacks is told before anything is asked."""
    study(tmp_path, mixed, 2, **{"plan.rounds": 1, "plan.arms": "resample,tests", "select": "first_visible"})
    argv = ["--backend.model", tmp_path / "repair-mbpp-replies.jsonl", "--mbpp.data", write_tasks(tmp_path / "t", 2)]
    argv += ["--rounds=1", "--arms=resample,tests", "--select=first_visible", "--timeout=2", "--execution.workers=1"]
    argv += ["--out", tmp_path / "again", "--wandb", "proof"]
    monkeypatch.setenv("WANDB_MODE", "ofline")
    code, _, err = launch("repair.py", *argv)
    assert code == 2 and "WANDB_MODE: 'ofline' (did you mean 'offline'?)" in err
    assert not (tmp_path / "again").exists()
    monkeypatch.setenv("WANDB_MODE", "disabled")
    code, _, err = launch("repair.py", *argv)
    assert code == 0 and not (tmp_path / "again" / "wandb").exists(), err
    monkeypatch.delenv("WANDB_MODE")
    code, out, err = launch("repair.py", *argv)
    assert code == 0 and "already done" in out, err
    (file,) = (tmp_path / "again" / "wandb").glob("offline-run-*/run-*.wandb")
    run = read_run(tmp_path / "again" / "wandb", file.stem.removeprefix("run-"))
    assert run["project"] == "proof" and "tests/gain/difference" in run["summary"]
