"""Every checkpoint of a run, also of one that trains meanwhile; models of unknown data."""

import json
import re
import shutil
from pathlib import Path

import pytest

from evals.models.load import decoding_precision, trained_on
from evals.perplexity import score
from llama_scale.checkpoint import folder
from llama_scale.checkpoint.export import export_checkpoint
from llama_scale.config import ModelConfig
from llama_scale.data.shards import open_tokens
from llama_scale.data.tokenizer import Tokenizer
from llama_scale.errors import InputError
from llama_scale.files import write_json
from llama_scale.model.llama import Llama
from tests.conftest import write_build
from tests.evals.helpers import QUICK, save_step

LOSS = ["--suites=perplexity", "--perplexity.max_tokens=300", "--device=cpu", "--threads=1"]


@pytest.fixture
def many(tmp_path, tiny_data):
    """A run folder with three checkpoints."""
    for step in (7, 14, 21):
        save_step(tmp_path / "many", step, tiny_data)
    return tmp_path / "many"


def scored(run, data):
    """Return the steps with a result, each of which must be that of its own weights."""
    steps = []
    for path in sorted((run / "evals").glob("*/perplexity.json")):
        result = json.loads(path.read_text())
        model = Llama(ModelConfig(**folder.load_meta(run / "checkpoints" / MANY[0])["model"]))
        model.init_weights(result["step"])
        tokenizer = Tokenizer(data / "tokenizer.model")
        expected = score(model, open_tokens(data, "val"), tokenizer.byte_lengths, 300)
        assert path.parent.name == f"step-{result['step']:08d}"
        assert result["loss"] == pytest.approx(expected.loss, rel=1e-6)
        assert result["tokens_trained"] == 64 * result["step"]
        steps.append(result["step"])
    return steps


MANY = [f"step-{step:08d}" for step in (7, 14, 21, 28)]


def test_every_checkpoint_of_a_run(many, tiny_data, launch):
    code, out, err = launch("evaluate.py", many, "--all", *LOSS)
    assert code == 0 and scored(many, tiny_data) == [7, 14, 21], err
    places = [out.index(f"{name} ->") for name in MANY[:3]]
    assert places == sorted(places) and out.count(" ->") == 3
    code, out, _ = launch("evaluate.py", many, "--all", *LOSS)
    assert code == 0 and out.count("already scored") == 3


def test_watching_a_run_that_trains(many, tiny_data, launch, monkeypatch):
    """While it waits a checkpoint comes, one goes, and then the run has its result."""
    looks = []

    def sleep(seconds):
        looks.append(seconds)
        if len(looks) == 1:
            assert scored(many, tiny_data) == [7, 14, 21]
            save_step(many, 28, tiny_data)
            folder.discard(many / "checkpoints" / MANY[1])
        else:
            write_json(many / "result.json", {})

    monkeypatch.setattr("evals.models.load.time.sleep", sleep)
    code, out, err = launch("evaluate.py", many, "--watch", *LOSS)
    assert (code, err, looks) == (0, "", [20.0, 20.0])
    assert scored(many, tiny_data) == [7, 14, 21, 28]
    assert [out.count(f"{name} ->") for name in MANY] == [1] * 4


@pytest.mark.parametrize("flag", ["--all", "--watch"])
def test_a_checkpoint_deleted_while_it_is_checked_is_passed_over(many, tiny_data, launch, monkeypatch, flag):
    """Training saves and prunes between the look at the folder and the reading of its files."""
    write_json(many / "result.json", {})
    whole = folder.sha256

    def prune(path):
        if path.parent.name == MANY[1]:
            folder.discard(path.parent)
        return whole(path)

    monkeypatch.setattr(folder, "sha256", prune)
    code, _, err = launch("evaluate.py", many, flag, *LOSS)
    assert code == 0 and scored(many, tiny_data) == [7, 21]
    (line,) = err.splitlines()
    assert line.startswith("skipping a deleted checkpoint: ") and f"{MANY[1]}/" in line


def test_a_damaged_checkpoint_stops_no_other(many, tiny_data, launch):
    weights = many / "checkpoints" / MANY[0] / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    (many / "checkpoints" / MANY[1] / "manifest.json").unlink()
    code, _, err = launch("evaluate.py", many, "--all", *LOSS)
    assert code == 2 and scored(many, tiny_data) == [21]
    first, second, last = err.splitlines()
    assert first.startswith("skipping a damaged checkpoint: ") and "checksum does not match" in first
    assert second.startswith("skipping a damaged checkpoint: ") and "manifest.json" in second
    assert f"damaged and not scored: {MANY[0]}, {MANY[1]}" in last
    # What is wrong with more than a checkpoint is said once.
    code, _, err = launch("evaluate.py", many, "--all", *LOSS, "--perplexity.data=none")
    assert code == 2 and "none: no such folder" in err.splitlines()[-1]
    assert "damaged and not scored" not in err


def test_a_file_that_cannot_be_read_is_named(many):
    file = many / "checkpoints" / MANY[0] / "tokenizer.model"
    file.unlink()
    with pytest.raises(InputError, match=r"tokenizer\.model: missing; use an earlier"):
        folder.verify(file.parent)
    file.mkdir()
    with pytest.raises(InputError, match=r"tokenizer\.model: a folder stands in its place; use an earlier"):
        folder.verify(file.parent)


def test_a_run_without_checkpoints_is_named(tmp_path, launch):
    code, _, err = launch("evaluate.py", tmp_path, "--all", *LOSS)
    assert code == 2 and f"{tmp_path}: no checkpoints/ to score; all and watch want a" in err
    write_json(tmp_path / "result.json", {})
    assert launch("evaluate.py", tmp_path, "--watch", *LOSS) == (2, "", err)


@pytest.mark.parametrize("flag", ["--all", "--watch"])
def test_a_folder_that_is_not_there_is_named(tmp_path, launch, monkeypatch, flag):
    monkeypatch.setattr("evals.models.load.time.sleep", lambda _: pytest.fail("it waited"))
    code, _, err = launch("evaluate.py", tmp_path / "nope", flag, *LOSS)
    (line,) = err.splitlines()
    assert code == 2 and f"{tmp_path / 'nope'}: no such folder; name a run" in line


def test_waiting_for_the_first_checkpoint_is_said_once(tmp_path, tiny_data, launch, monkeypatch):
    looks = []

    def sleep(seconds):
        looks.append(seconds)
        if len(looks) == 3:
            save_step(tmp_path, 7, tiny_data)
            write_json(tmp_path / "result.json", {})

    monkeypatch.setattr("evals.models.load.time.sleep", sleep)
    code, out, err = launch("evaluate.py", tmp_path, "--watch", *LOSS)
    assert (code, err) == (0, f"waiting for a checkpoint in {tmp_path / 'checkpoints'}\n")
    assert len(looks) == 3 and out.count("step-00000007 ->") == 1


def test_a_model_of_unknown_data_says_what_to_pass(tmp_path, tiny_data, launch):
    """As launch/export.py leaves one that it read from elsewhere."""
    save_step(tmp_path, 1, tiny_data, trained_on=False)
    code, _, err = launch("evaluate.py", tmp_path, *QUICK)
    (line,) = err.splitlines()
    assert code == 2 and "set it to a folder of tokens, or leave perplexity out of suites" in line
    code, _, err = launch("evaluate.py", tmp_path, *LOSS, f"--perplexity.data={tiny_data}")
    assert code == 0, err


@pytest.mark.parametrize("faster", [True, False])
def test_a_precision_is_measured_once_where_it_is_asked_for(many, exported, launch, monkeypatch, faster):
    """By the shape of the model's own blocks; it is part of what the results depend on."""
    shapes = []

    def timed(threads, width, inner):
        shapes.append((width, inner))
        return [(2e-3, 1e-3 if faster else 3e-3)] * 2

    monkeypatch.setattr("llama_scale.device.time_decoding", timed)
    loss = []
    for precision in ("fp32", "auto"):
        code, _, err = launch("evaluate.py", many, *LOSS, f"--precision={precision}")
        result = json.loads((many / "evals" / MANY[2] / "perplexity.json").read_text())
        loss.append(result["loss"])
        assert code == 0 and result["precision"] == ("bf16" if faster and precision == "auto" else "fp32")
    assert shapes == [(32, 64)] and re.search(r"^precision: (bf16|fp32) \(1 x 32 x 64 take 2 ms in float32", err)
    assert (loss[0] != loss[1]) is faster and loss[0] == pytest.approx(loss[1], rel=1e-2)
    found = [decoding_precision(exported, choice, "cpu", None) for choice in (None, "auto", "bf16")]
    assert found == ["fp32", "bf16" if faster else "fp32", "bf16"] and shapes[1] == (32, 64)


@pytest.fixture
def project(tmp_path, tiny_data):
    """A project folder with data/tiny and a run that was trained on it from there."""
    root = tmp_path / "project"
    shutil.copytree(tiny_data, root / "data" / "tiny")
    save_step(root / "runs" / "a", 7, tiny_data, trained_on="data/tiny")
    return root


def test_the_data_of_a_run_is_found_from_anywhere_and_known_by_its_content(project, tmp_path, launch, monkeypatch):
    """From another folder, where other data has its name; by an absolute path; by a link; and moved."""
    code, _, err = launch("evaluate.py", project / "runs" / "a", *LOSS)  # the test's own folder is another one
    assert code == 0, err
    found = json.loads((project / "runs/a/evals/step-00000007/perplexity.json").read_text())
    expected = open_tokens(project / "data/tiny", "val").fingerprint
    assert found["data_fingerprint"] == expected and Path(found["settings"]["data"]) == project / "data" / "tiny"
    (tmp_path / "link").symlink_to(project / "data" / "tiny")
    shutil.copytree(project / "data" / "tiny", tmp_path / "copy")
    for path in (project / "data/tiny", tmp_path / "link", tmp_path / "copy", project / "runs/../data/tiny"):
        code, out, err = launch("evaluate.py", project / "runs" / "a", *LOSS, f"--perplexity.data={path}")
        assert code == 0 and "already scored" in out, (path, err)
    other = tmp_path / "elsewhere" / "data" / "tiny"
    write_build(other, {"train": ["x = 1\n" * 900], "val": ["y = 2\n" * 900]}, 270)
    monkeypatch.chdir(tmp_path / "elsewhere")
    meta = folder.load_meta(project / "runs/a/checkpoints/step-00000007")
    assert meta["data"] == "data/tiny" and meta["data_fingerprint"] == expected
    place = trained_on(project / "runs/a/checkpoints/step-00000007", meta)
    assert Path(place) == project / "data" / "tiny"


def test_data_made_anew_since_is_told(project, launch):
    shutil.rmtree(project / "data" / "tiny")
    write_build(project / "data" / "tiny", {"train": ["x = 1\n" * 900], "val": ["y = 2\n" * 900]}, 270)
    code, _, err = launch("evaluate.py", project / "runs" / "a", *LOSS)
    assert code == 2
    assert (
        "data/tiny: is other data than" in err.splitlines()[0] and "does not match the shards" in err.splitlines()[-1]
    )


@pytest.fixture
def exported(tmp_path, tiny_data):
    save_step(tmp_path / "run", 7, tiny_data)
    export_checkpoint(tmp_path / "run", tmp_path / "hf")
    return tmp_path / "hf"


CHANGED = {
    "tokenizer.json": lambda data: data.replace(b'"truncation": null', b'"truncation":null'),
    "tokenizer_config.json": lambda data: data + b" ",
    "config.json": lambda data: data.replace(b"10000.0", b"20000.0"),
    "generation_config.json": lambda data: b'{"eos_token_id": [2, 9]}',
    "adapter/adapter_model.safetensors": lambda data: b"x",
    "chat_template.jinja": lambda data: b"{{ messages }}",
    "modeling_own.py": lambda data: b"pass",
    "model.safetensors": lambda data: data[:-1] + bytes([data[-1] ^ 1]),
}


def test_every_file_of_a_folder_is_part_of_the_result(exported, launch):
    argv = [exported, "--suites=humaneval", *QUICK, f"--out={exported / 'evals'}"]
    assert launch("evaluate.py", *argv)[0] == 0
    assert "already scored" in launch("evaluate.py", *argv)[1]
    for name, change in CHANGED.items():
        file = exported / name
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(change(file.read_bytes() if file.exists() else b""))
        code, out, err = launch("evaluate.py", *argv)
        assert code == 0 and "already scored" not in out, (name, err)
        assert "already scored" in launch("evaluate.py", *argv)[1], name


def test_a_file_of_a_folder_that_cannot_be_read_is_named(exported, launch, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("evals.models.load.sha256", refuse)
    code, _, err = launch("evaluate.py", exported, "--suites=humaneval", "--out=o")
    assert code == 2 and f"{exported}/config.json: cannot be read (permission denied)" in err
