"""The Weights & Biases view, read back from the files that it writes offline."""

import json
import struct
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import wandb

from llama_scale.errors import InputError
from llama_scale.files import read_jsonl
from llama_scale.training.wandb_log import live, mirror, pick_mode, scalars
from tests.conftest import run_script

BLOCK, HEADER, START = 32_768, 7, 7


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch, tmp_path):
    """No W&B settings of the person who runs the tests."""
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_PROJECT", "WANDB_RUN_ID", "WANDB_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))


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
        rows = [
            {"step": s, "tokens": 100 * s, "flops": 6e5 * s, "loss": 7.0 - s} for s in (1, 2, 4)
        ]
        rows[-1] |= {"val_loss": 2.5, "val_bits_per_byte": 1.25}
        (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines = [f"{name},{i},2.5,True" for i, name in enumerate(names)]
    (study / "points.csv").write_text("\n".join(["run,N,loss,annealed", *lines, ""]))
    (study / "laws.json").write_text(json.dumps({"laws": {"surface": {"alpha": 0.5, "of": "x"}}}))
    matplotlib.image.imsave(study / "figures" / "frontier.png", np.zeros((4, 4)))
    (study / "report.html").write_text("<html><body>a report</body></html>")
    return study


def records(path: Path) -> list:
    """Read an offline W&B file: protobuf records in LevelDB's log format (32 KiB blocks)."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, position, part, found = path.read_bytes(), START, b"", []
    assert data[:4] == b":W&B"
    while position + HEADER <= len(data):
        room = BLOCK - position % BLOCK
        if room < HEADER:
            position += room
            continue
        _, length, kind = struct.unpack_from("<IHB", data, position)
        part += data[position + HEADER : position + HEADER + length]
        position += HEADER + length
        if kind in (1, 4):  # a whole record, or its last part
            record = Record()
            record.ParseFromString(part)
            found.append(record)
            part = b""
    return found


def read_run(folder: Path, identity: str) -> dict:
    """Return the group, config, axes, history and summary of an offline run."""
    wandb.teardown()  # its service writes in the background
    (path,) = folder.glob(f"offline-run-*/run-{identity}.wandb")
    run: dict = {"history": [], "summary": {}, "axes": {}}
    for record in records(path):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run |= {"name": record.run.display_name, "group": record.run.run_group}
            run |= {"project": record.run.project, "job": record.run.job_type}
            run["config"] = {i.key: json.loads(i.value_json) for i in record.run.config.update}
        elif kind == "metric":
            name = record.metric.name or record.metric.glob_name
            run["axes"][name] = record.metric.step_metric
        elif kind == "history":
            run["history"].append(items(record.history.item))
        elif kind == "summary":
            run["summary"] |= items(record.summary.update)
    return run


def items(values) -> dict:
    return {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in values}


def test_mirror_offline(study, capfd):
    ids = mirror(study)
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
    assert mirror(study) == ids
    assert len(list((study / "wandb").glob("offline-run-*"))) == 3
    with open(study / "runs/Q1-1M-seed0/metrics.jsonl", "a") as file:
        file.write('{"step": 5, "tokens": 500, "flops": 3e6, "loss": 1.0}\n')
    again = mirror(study)
    assert again["Q1-1M-seed0"] != ids["Q1-1M-seed0"]
    assert again["Q2-1M-seed0"] == ids["Q2-1M-seed0"]


def test_disabled_and_unknown_modes(study, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert mirror(study) == {}
    with live(study, "project", None, {}) as listeners:
        assert listeners == []
    assert not (study / "wandb").exists()
    assert pick_mode("online") == "online"
    monkeypatch.setenv("WANDB_MODE", "ofline")
    with pytest.raises(InputError, match=r"WANDB_MODE: 'ofline' \(did you mean 'offline'\?\)"):
        mirror(study)


def test_launch_script(study, tmp_path):
    done = run_script("track.py", study, cwd=tmp_path, WANDB_MODE="disabled")
    assert done.returncode == 0 and "disabled" in done.stdout
    done = run_script("track.py", tmp_path / "nowhere", cwd=tmp_path)
    assert done.returncode == 2
    assert "nowhere/points.csv: no such file; run launch/study.py first" in done.stderr


def test_online_without_an_account_is_written_offline(study, capfd):
    ids = mirror(study, "online")
    assert read_run(study / "wandb", ids["toy"])["summary"]["laws/laws/surface/alpha"] == 0.5
    err = capfd.readouterr().err
    assert err.count("writing offline") == 1 and "log in" in err


def test_live(tmp_path, monkeypatch):
    with live(tmp_path, None, "group", {}) as listeners:
        assert listeners == []
    assert not list(tmp_path.iterdir())
    with live(tmp_path, "mine", "group", {"model": {"d_model": 8}}) as (listen,):
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
        with live(tmp_path, "mine", None, {}) as (listen,):
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
    with live(tmp_path, "mine", None, {}) as (listen,):
        calls = []

        def fail(*args, **kwargs):
            calls.append(args)
            raise wandb.Error("no space left")

        monkeypatch.setattr(wandb.Run, "log", fail)
        listen({"step": 1, "loss": 5.0})
        listen({"step": 2, "loss": 5.0})
    assert len(calls) == 1
    assert "wandb: no space left; training goes on without it" in capsys.readouterr().err


def test_scalars():
    values = {"a": {"b": 1, "c": "text", "d": [1, 2]}, "e": 0.5, "f": None}
    assert scalars(values, "x") == {"x/a/b": 1, "x/e": 0.5}
