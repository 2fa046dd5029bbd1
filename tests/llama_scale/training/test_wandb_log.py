"""The Weights & Biases view, read back from the files that it writes offline."""

import json

import pytest
import wandb

from llama_scale.errors import InputError
from llama_scale.files import read_jsonl
from llama_scale.training.wandb_log import live_mirror, mirror_scores, pick_mode, scalars
from tests.llama_scale.training.helpers import read_run

pytestmark = pytest.mark.usefixtures("no_wandb_settings")


def test_disabled_and_unknown_modes(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    with live_mirror(tmp_path, "project", None, {}) as listeners:
        assert listeners == []
    assert not (tmp_path / "wandb").exists()
    assert pick_mode("online") == "online"
    monkeypatch.setenv("WANDB_MODE", "ofline")
    with pytest.raises(InputError, match=r"WANDB_MODE: 'ofline' \(did you mean 'offline'\?\)"):
        pick_mode()
    with live_mirror(tmp_path, None, None, {}) as listeners:  # nothing is mirrored, so the mode does not matter
        assert listeners == []
    for value, mode in (("dryrun", "offline"), ("run", "online"), ("", "offline"), (" Disabled", "disabled")):
        monkeypatch.setenv("WANDB_MODE", value)
        assert pick_mode() == mode


def test_live(tmp_path, monkeypatch):
    with live_mirror(tmp_path, None, "group", {}) as listeners:
        assert listeners == []
    assert not list(tmp_path.iterdir())
    with live_mirror(tmp_path, "mine", "group", {"model": {"d_model": 8}}) as (listen,):
        listen({"step": 3, "tokens": 30, "flops": 9.0, "loss": 5.0})
        listen({"step": 6, "tokens": 60, "flops": 18.0, "loss": 4.0})
    (folder,) = (tmp_path / "wandb").glob("offline-run-*")
    run = read_run(tmp_path / "wandb", folder.name.rsplit("-", 1)[1])
    assert (run["project"], run["group"], run["name"]) == ("mine", "group", tmp_path.name)
    assert run["config"]["model"] == {"d_model": 8}
    assert [(row["_step"], row["loss"]) for row in run["history"]] == [(3, 5.0), (6, 4.0)]


def test_live_of_a_continued_run_has_each_step_once(tmp_path):
    """Stopped after step 9, continued from the checkpoint of step 7."""
    (tmp_path / "wandb/offline-run-20200101_000000-other").mkdir(parents=True)
    log = tmp_path / "metrics.jsonl"
    for kept, steps, loss in ((), (3, 6, 9), 5.0), ((3, 6), (9, 12), 4.0):
        rows = [row for row in read_jsonl(log) if row["step"] in kept] if kept else []
        log.write_text("".join(json.dumps(row) + "\n" for row in rows))
        with live_mirror(tmp_path, "mine", None, {}) as (listen,):
            for step in steps:
                row = {"step": step, "tokens": 10 * step, "flops": 1.0, "loss": loss}
                with open(log, "a") as file:  # as MetricsLog does, before it hands the row on
                    file.write(json.dumps(row) + "\n")
                listen(row)
    folder, other = sorted((tmp_path / "wandb").glob("offline-run-*"), reverse=True)
    assert other.name.endswith("other"), "what is of another run stays"
    (file,) = folder.glob("run-*.wandb")
    run = read_run(tmp_path / "wandb", file.stem.removeprefix("run-"))
    logged = [(row["_step"], row["loss"]) for row in run["history"]]
    assert logged == [(3, 5.0), (6, 5.0), (9, 4.0), (12, 4.0)]


def test_an_error_of_the_view_does_not_stop_training(tmp_path, capsys, monkeypatch):
    with live_mirror(tmp_path, "mine", None, {}) as (listen,):
        calls = []

        def fail(*args, **kwargs):
            calls.append(args)
            raise wandb.Error("no space left")

        monkeypatch.setattr(wandb.Run, "log", fail)
        listen({"step": 1, "loss": 5.0})
        listen({"step": 2, "loss": 5.0})
    assert len(calls) == 1
    assert "wandb: no space left; training goes on without it" in capsys.readouterr().err


def test_scores_are_shown_by_step_tokens_and_flops(tmp_path):
    for step, value in ((20, 0.25), (10, 0.125)):
        known = {"step": step, "tokens_trained": 100 * step, "flops_trained": 1e6 * step}
        folder = tmp_path / "run" / "evals" / f"step-{step:08d}"
        folder.mkdir(parents=True)
        result = {"suite": "humaneval", "pass_at_k": {"1": value}, "settings": {"k": 5}} | known
        (folder / "humaneval.json").write_text(json.dumps(result))
        (folder / "aggregate.json").write_text(json.dumps({"suite": "aggregate", "macro": value}))
    identity = mirror_scores(tmp_path / "run", "scores")
    shown = read_run(tmp_path / "run" / "wandb", identity)
    assert (shown["project"], shown["job"]) == ("scores", "evaluate")
    assert shown["axes"]["*"] == "tokens"
    rows = [{k: v for k, v in row.items() if k[0] != "_"} for row in shown["history"]]
    assert rows == [
        {"step": step, "tokens": 100 * step, "flops": 1e6 * step,
         "humaneval/pass_at_k/1": value, "aggregate/macro": value}
        for step, value in ((10, 0.125), (20, 0.25))
    ]  # fmt: skip
    assert mirror_scores(tmp_path / "run", "scores", "disabled") is None


def test_scalars():
    values = {"a": {"b": 1, "c": "text", "d": [1, 2]}, "e": 0.5, "f": None}
    assert scalars(values, "x") == {"x/a/b": 1, "x/e": 0.5}
