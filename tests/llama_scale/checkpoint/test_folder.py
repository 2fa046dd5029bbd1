"""Checkpoints: what is written is what is read, and damage is named."""

import json
import os
import random
import shutil
import subprocess
import sys
from contextlib import suppress

import pytest
import torch

from llama_scale.checkpoint import folder as checkpoint
from llama_scale.config import ModelConfig, OptimConfig
from llama_scale.errors import InputError
from llama_scale.files import read_json
from llama_scale.model.llama import Llama
from llama_scale.training.optim import build_optimizer
from tests.conftest import ROOT

PARTS = ["model.safetensors", "optimizer.safetensors", "trainer.json", "tokenizer.model"]


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def trained(request):
    config = ModelConfig(
        d_model=32, n_layers=2, n_heads=2, d_ff=64, vocab_size=64, context_length=16, tie_embeddings=request.param
    )
    model = Llama(config).init_weights(0)
    optimizer = build_optimizer(model, OptimConfig(), 1e-2)
    model.loss(torch.randint(0, 64, (4, 17))).backward()
    optimizer.step()
    return model, optimizer


@pytest.fixture
def saved(trained, tmp_path):
    model, optimizer = trained
    (tmp_path / "tokenizer.model").write_bytes(b"pieces")
    for step in (1, 2):
        state = {
            "state_dict": {f"model.{k}": v for k, v in model.state_dict().items()},
            "optimizer_states": [optimizer.state_dict()],
            "loops": {"fit_loop": {"step": step}},
            "global_step": step,
        }
        meta = {"model": vars(model.config), "step": step}
        checkpoint.save(tmp_path / "run/checkpoints" / f"step-{step:08d}", state, meta, tmp_path / "tokenizer.model")
    return tmp_path / "run"


def test_round_trip(trained, saved):
    model, optimizer = trained
    state = checkpoint.load_state(saved / "checkpoints/step-00000002")
    for name, value in model.state_dict().items():
        assert torch.equal(state["state_dict"][f"model.{name}"], value)
    expected = optimizer.state_dict()
    (restored,) = state["optimizer_states"]
    fresh = build_optimizer(Llama(model.config), OptimConfig(), 1e-2)
    fresh.load_state_dict(restored)
    for index, values in expected["state"].items():
        for name, value in values.items():
            assert torch.equal(fresh.state_dict()["state"][index][name], value)
    assert restored["param_groups"][0]["lr"] == 1e-2
    assert state["loops"] == {"fit_loop": {"step": 2}}
    tokens = torch.randint(0, 64, (1, 9))
    loaded = checkpoint.load_model(saved)
    torch.testing.assert_close(loaded(tokens), model(tokens), atol=0, rtol=0)
    assert (saved / "checkpoints/step-00000002/tokenizer.model").read_bytes() == b"pieces"


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("damage", ["flip", "cut", "delete"])
def test_damage_is_named_and_the_checkpoint_before_is_used(saved, part, damage, capsys):
    newest = saved / "checkpoints/step-00000002"
    data = (newest / part).read_bytes()
    if damage == "flip":
        (newest / part).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    elif damage == "cut":
        (newest / part).write_bytes(data[: len(data) // 2])
    else:
        (newest / part).unlink()
    with pytest.raises(InputError, match=part):
        checkpoint.resolve(newest)
    assert checkpoint.newest(saved).name == "step-00000001"
    assert part in capsys.readouterr().err


@pytest.mark.parametrize("damage", ["[]", "3", "{}", "no files", "no meta", "no step", "no model"])
def test_a_damaged_manifest_is_a_damaged_checkpoint(saved, damage, capsys):
    path = saved / "checkpoints/step-00000002/manifest.json"
    manifest, lost = read_json(path), damage.removeprefix("no ")
    for part in (manifest, manifest["meta"]):
        part.pop(lost, None)
    path.write_text(json.dumps(manifest) if lost != damage else damage)
    for read in (checkpoint.resolve, checkpoint.load_meta, checkpoint.weights_sha256):
        with pytest.raises(InputError, match=r"manifest\.json: .*; use an earlier checkpoint"):
            read(path.parent)
    assert checkpoint.newest(saved).name == "step-00000001"
    assert capsys.readouterr().err.count("\n") == 1


def test_one_changed_bit_of_a_manifest_is_noticed(saved):
    """Whichever bit it is: the manifest is refused, or says what it said."""
    path = saved / "checkpoints/step-00000002/manifest.json"
    written, bits = path.read_bytes(), random.Random(0)
    expected = checkpoint.read_manifest(path.parent)
    for i in range(len(written)):
        damaged = bytearray(written)
        damaged[i] ^= 1 << bits.randrange(7)
        path.write_bytes(damaged)
        with suppress(InputError):
            found = checkpoint.read_manifest(path.parent)
            assert (found["meta"], found["files"]) == (expected["meta"], expected["files"]), damaged


@pytest.mark.parametrize(("name", "value"), [("step", 3), ("model", {"rope_theta": 1e6}), ("skipped", [7])])
def test_a_changed_value_of_a_manifest_is_a_damaged_checkpoint(saved, name, value, capsys):
    path = saved / "checkpoints/step-00000002/manifest.json"
    manifest = json.loads(path.read_text())
    manifest["meta"][name] = manifest["meta"][name] | value if isinstance(value, dict) else value
    path.write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=r"manifest\.json: its values have changed .*; use an earlier checkpoint"):
        checkpoint.load_model(path.parent)
    assert checkpoint.newest(saved).name == "step-00000001"
    del manifest["self_sha256"]  # as written before manifests had one: taken at its word
    path.write_text(json.dumps(manifest))
    assert checkpoint.load_meta(path.parent)[name] == manifest["meta"][name]


def test_a_save_that_fails_leaves_what_was_there(saved, trained, monkeypatch, tmp_path):
    model, optimizer = trained
    state = {
        "state_dict": {f"model.{k}": v for k, v in model.state_dict().items()},
        "optimizer_states": [optimizer.state_dict()],
    }
    before = read_json(saved / "checkpoints/step-00000002/manifest.json")

    def full(*_):
        raise OSError(28, "No space left on device")

    for name in ("save_file", "write_json", "_fsync", "sha256"):
        with monkeypatch.context() as patch:
            patch.setattr(checkpoint, name, full)
            with pytest.raises(OSError, match="No space"):
                checkpoint.save(saved / "checkpoints/step-00000002", dict(state), {}, tmp_path / "tokenizer.model")
        assert read_json(saved / "checkpoints/step-00000002/manifest.json") == before
        names = sorted(p.name for p in (saved / "checkpoints").iterdir())
        assert names == ["step-00000001", "step-00000002"]


def test_an_unfinished_checkpoint_is_no_checkpoint(saved):
    folder = saved / "checkpoints"
    shutil.move(folder / "step-00000002", folder / ".step-00000002.tmp")
    assert checkpoint.newest(saved).name == "step-00000001"


def test_nothing_to_load_says_so(tmp_path):
    with pytest.raises(InputError, match="no such run or checkpoint"):
        checkpoint.resolve(tmp_path / "absent")
    with pytest.raises(InputError, match="no valid checkpoint"):
        checkpoint.resolve(tmp_path)


def test_a_kill_at_any_write_leaves_a_valid_checkpoint(tmp_path):
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests/llama_scale/checkpoint/faults.py"), str(tmp_path)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    counts = [int(line.split()[0]) for line in done.stdout.splitlines()]
    assert len(counts) == 2 and min(counts) > 30, done.stdout


def test_a_checkpoint_that_is_a_link_is_read_and_its_name_is_freed(saved, tmp_path):
    """What it links to is somebody else's: it stays."""
    elsewhere = tmp_path / "elsewhere"
    for step in (1, 2):
        folder = saved / f"checkpoints/step-{step:08d}"
        shutil.move(folder, elsewhere / folder.name)
        folder.symlink_to(elsewhere / folder.name, target_is_directory=True)
    assert checkpoint.newest(saved).name == "step-00000002"
    checkpoint.prune(saved, keep_last=1)
    assert [path.name for path in (saved / "checkpoints").iterdir()] == ["step-00000002"]
    assert checkpoint.verify(elsewhere / "step-00000001")["step"] == 1
    (saved / "checkpoints/.step-00000001.old").symlink_to(elsewhere)
    (saved / "checkpoints/.step-00000003.tmp").symlink_to(tmp_path / "absent")
    checkpoint.clear_leftovers(saved)
    assert [path.name for path in (saved / "checkpoints").iterdir()] == ["step-00000002"]
    link = saved / "checkpoints/step-00000002"
    checkpoint.save_weights(link, dict(checkpoint.load_model(link).state_dict()), checkpoint.load_meta(link), None)
    assert not link.is_symlink() and checkpoint.verify(elsewhere / "step-00000002")["step"] == 2


def test_retention(saved):
    for step in range(3, 9):
        shutil.copytree(saved / "checkpoints/step-00000002", saved / "checkpoints" / f"step-{step:08d}")
    checkpoint.prune(saved, keep_last=2, keep_every=3)
    assert [int(p.name[5:]) for p in sorted((saved / "checkpoints").iterdir())] == [3, 6, 7, 8]


def test_retention_of_named_steps(saved):
    for step in range(3, 7):
        shutil.copytree(saved / "checkpoints/step-00000002", saved / "checkpoints" / f"step-{step:08d}")
    checkpoint.prune(saved, keep_last=1, keep_steps=[2, 4])
    assert [int(p.name[5:]) for p in sorted((saved / "checkpoints").iterdir())] == [2, 4, 6]


def test_the_name_is_given_when_everything_is_on_disk(trained, tmp_path, monkeypatch):
    """Each part is synced before the folder, the folder before its name, its parent after."""
    model, _ = trained
    folder, log = tmp_path / "checkpoints/step-00000001", []
    sync, rename = os.fsync, os.replace

    def fsync(handle):
        log.append(os.path.basename(os.readlink(f"/proc/self/fd/{handle}")))
        sync(handle)

    def replace(old, new):
        log.append(f"-> {os.path.basename(new)}")
        rename(old, new)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    checkpoint.save_weights(folder, dict(model.state_dict()), {"step": 1}, None)
    assert log[0] == "model.safetensors" and log[1].startswith(".manifest.json.")
    rest = ["-> manifest.json", ".step-00000001.tmp", "-> step-00000001", "checkpoints"]
    assert log[2:] == rest


def test_a_write_that_the_system_refuses_is_an_os_error(tmp_path):
    """The writer is compiled code with an error type of its own."""
    with pytest.raises(OSError, match="No such file") as error:
        checkpoint.write_tensors(tmp_path / "absent" / "w.safetensors", {"w": torch.zeros(3)})
    assert error.value.filename == str(tmp_path / "absent" / "w.safetensors")
