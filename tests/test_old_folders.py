"""Folders of version 0.1 still open: a build, two runs and a study that its code wrote.

fixtures/version_0_1 has the names of then: keep, optim.clip, licence, N and D in points.csv, held
and ended_by in samples. It was made on a CPU from two small packages by

    launch/study.py study.yaml
    launch/scaling.py forecast studies/old --runs 50e3:1e6

and by the first run's own command in another folder, runs/stopped, ended by SIGTERM in step 7.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from llama_scale.data.documents import read_documents
from llama_scale.data.shards import open_tokens
from llama_scale.files import read_json, read_jsonl
from llama_scale.scaling.fitting.points import read_points
from llama_scale.scaling.study.plan import read_study
from llama_scale.scaling.study.runner import check_same_study
from tests.conftest import run_here

FIXTURE = Path(__file__).parent / "fixtures" / "version_0_1"
RUN, STOPPED = "runs/old/Q1-8k-seed0", "runs/stopped"
STEPS = 16
ENVIRONMENT = {"WANDB_MODE": "disabled"}


@pytest.fixture
def old(tmp_path) -> Path:
    """A working directory with the old folders."""
    return Path(shutil.copytree(FIXTURE, tmp_path / "old", symlinks=True))


def run(old: Path, *argv: object) -> str:
    """Run a launch script in the working directory; return what it printed."""
    done = run_here(*argv, cwd=old, **ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    return done.stdout


def command_of(folder: Path) -> list[str]:
    """Return the flags that a run was started with, which are in its provenance.json."""
    flags = read_json(folder / "provenance.json")["command"][1:]
    assert {"--keep", "--optim.clip"} < set(flags)
    return flags


def test_a_finished_run_is_left_alone(old):
    config = yaml.safe_load((old / RUN / "config.yaml").read_text())
    assert config["keep"] == 1 and config["optim"]["clip"] == 0.9
    assert "already finished" in run(old, "train.py", *command_of(old / RUN))


def test_a_stopped_run_ends_like_the_whole_one(old):
    """Weights, moments, the spike window and the losses since the last row are taken over."""
    flags = command_of(old / STOPPED)
    printed = run(old, "train.py", *flags)
    assert f"continuing from {STOPPED}/checkpoints/step-00000008" in printed
    whole, rows = (read_jsonl(old / name / "metrics.jsonl") for name in (RUN, STOPPED))
    assert [row["step"] for row in rows] == [row["step"] for row in whole]
    for row, expected in zip(rows, whole, strict=True):
        for name in ("loss", "grad_norm", "val_loss", "val_bits_per_byte"):
            if name in expected:
                assert row[name] == pytest.approx(expected[name], abs=1e-4), row["step"]
        assert (row["lr"], row["skips"]) == (expected["lr"], expected["skips"])
    results = [read_json(old / name / "result.json") for name in (RUN, STOPPED)]
    assert set(results[0]) <= set(results[1])
    again = yaml.safe_load((old / STOPPED / "config.yaml").read_text())
    assert again["keep_last"] == 1 and again["optim"]["grad_clip"] == 0.9


def test_a_checkpoint_loads_and_samples(old):
    argv = ["--prompt", "def f(x):", "--temperature", "0", "--max_new_tokens", "8"]
    printed = run(old, "sample.py", RUN, *argv, "--device", "cpu")
    assert printed.startswith("def f(x):") and len(printed) > len("def f(x):\n")


def test_scores_are_done(old):
    folder = f"{RUN}/evals/step-{STEPS:08d}"
    before = {path: path.read_bytes() for path in (old / folder).iterdir()}
    flags = ["--config", "eval.yaml", "--device", "cpu", "--threads", "1"]
    printed = run(old, "evaluate.py", RUN, *flags, "--compare", folder)
    assert printed.count("already scored with these settings") == 2
    assert printed.count("by an earlier judge, some of whose verdicts differ: delete it to score again") == 1
    assert "pass@1 minus that of" in printed and "+0.0000" in printed
    assert {path: path.read_bytes() for path in (old / folder).iterdir()} == before


def test_scores_again_from_the_old_verdicts(old):
    """Without its result the suite is scored again: the old cache of verdicts is read."""
    folder = old / RUN / "evals" / f"step-{STEPS:08d}"
    before = read_json(folder / "humaneval.json")
    verdicts = (folder / "verdicts.jsonl").read_bytes()
    for name in ("humaneval.json", "humaneval-samples.jsonl.gz"):
        (folder / name).unlink()
    flags = ["--config", "eval.yaml", "--device", "cpu", "--threads", "1"]
    run(old, "evaluate.py", RUN, *flags, "--suites", "humaneval")
    after = read_json(folder / "humaneval.json")
    for name in ("parse_rate", "gold_bits_per_byte", "n_tasks", "n_samples", "pass_at_k"):
        assert after[name] == pytest.approx(before[name], rel=1e-4), name
    assert (folder / "verdicts.jsonl").read_bytes().startswith(verdicts)


def test_a_build_opens(old):
    assert "already prepared" in run(old, "prepare.py", "--config", "data.yaml")
    manifest = read_json(old / "data/old/manifest.json")
    for split in ("train", "val"):
        tokens = open_tokens(old / "data/old", split)
        assert tokens.n_tokens == manifest["splits"][split]["tokens"]
    documents = list(read_documents(old / "data/old"))
    assert len(documents) == sum(split["documents"] for split in manifest["splits"].values())


def test_a_study_is_the_same_study(old, monkeypatch):
    monkeypatch.chdir(old)
    study = read_study(old, ["study.yaml"])
    assert [planned.config.keep_last for planned in study.runs] == [1] * 9
    assert {planned.config.optim.grad_clip for planned in study.runs} == {0.9}
    check_same_study(study)
    assert "Q1-8k-seed0" in run(old, "study.py", "study.yaml", "--dry-run")


def test_a_study_is_collected_again(old):
    run(old, "collect.py", "studies/old", "--out", "new.csv")
    before, after = (read_points(old / name) for name in ("studies/old/points.csv", "new.csv"))
    assert len(before.loss) == 9
    for name in ("N", "D", "loss", "compute"):
        np.testing.assert_array_equal(getattr(before, name), getattr(after, name))


def test_points_laws_and_forecasts_are_read(old):
    points = "studies/old/points.csv"
    run(
        old,
        "scaling.py",
        "fit",
        points,
        "--out",
        "new",
        "--holdout",
        "none",
        "--form",
        "additive",
        "--resamples",
        "100",
    )
    losses = []
    for laws in ("studies/old", "new"):
        printed = run(old, "scaling.py", "recommend", laws, "--budget", "1e10", "--json")
        losses.append(json.loads(printed)["best"]["loss"]["value"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    (forecast,) = (old / "studies/old/forecasts").glob("*.json")
    printed = run(old, "scaling.py", "score", forecast, "--points", points)
    assert "not measured yet" in printed and "0 of 1 measured" in printed


def test_a_report_is_written_again(old):
    run(old, "scaling.py", "report", "studies/old")
    assert "Q1-8k-seed0" in (old / "studies/old/report.html").read_text()
    assert (old / "studies/old/figures/frontier.png").is_file()


def test_the_fixture_names_no_machine():
    files = [path for path in FIXTURE.rglob("*") if path.is_file() and not path.is_symlink()]
    assert sum(path.stat().st_size for path in files) < 650_000
    texts = [path for path in files if path.suffix in (".json", ".jsonl", ".yaml", ".csv")]
    assert not [path for path in texts if any(s in path.read_text() for s in ('"/', " /"))]
