"""A run folder's past: what is compared when a command comes back to it."""

import fcntl
import shutil

import pytest
import yaml

from llama_scale import device
from llama_scale.cli import parse
from llama_scale.config import TrainConfig
from llama_scale.errors import InputError
from llama_scale.model.loss import nll_and_grad
from llama_scale.training.run_plan import Run, describe, plan_run, provenance
from llama_scale.training.trainer import build_model, fit
from tests.conftest import TINY_MODEL


@pytest.fixture(scope="module")
def settings(tiny_data):
    return [*TINY_MODEL, f"--data={tiny_data}", "--optim.batch_tokens=512", "--threads=1"]


@pytest.fixture(scope="module")
def begun(settings, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    fit(plan(settings, folder))
    return folder


def plan(settings, folder, *more) -> Run:
    argv = [*settings, f"--run={folder}", "--tokens=2048", *more]
    return plan_run(parse(TrainConfig, "Train.", argv))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("--tokens=4096", "this run has tokens = 2048, the command asks for 4096"),
        ("--optim.lr=0.5", r"this run has optim.lr = 0.01\d+, the command asks for 0.5"),
        ("--model.n_layers=3", "this run has model.n_layers = 2, the command asks for 3"),
    ],
)
def test_another_configuration_is_told_by_its_field(settings, begun, change, words):
    with pytest.raises(InputError, match=words):
        plan(settings, begun, change)


def test_what_changes_no_result_may_differ(settings, begun):
    assert plan(settings, begun, "--log_every=3", "--micro_batch=1").layout.micro_batch == 1


def test_a_field_that_is_new_has_its_default(settings, begun, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(begun, run)
    text = (run / "config.yaml").read_text()
    lines = [line for line in text.splitlines()[1:] if "document_mask" not in line]
    (run / "config.yaml").write_text("\n".join(lines))
    plan(settings, run)
    with pytest.raises(InputError, match=r"this run has model.document_mask = False"):
        plan(settings, run, "--model.document_mask=true")


def test_a_run_written_with_old_names_continues(settings, begun, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(begun, run)
    _, _, text = (run / "config.yaml").read_text().partition("\n")
    assert "  grad_clip: 1.0\n" in text and "\nkeep_last: 2\n" in text
    text = text.replace("grad_clip: 1.0", "clip: 0.9").replace("keep_last: 2", "keep: 1")
    (run / "config.yaml").write_text(text)
    assert plan(settings, run, "--optim.clip=0.9", "--keep=5").config.keep_last == 5
    plan(settings, run, "--optim.grad_clip=0.9")
    with pytest.raises(InputError, match=r"this run has optim\.grad_clip = 0\.9, the command asks"):
        plan(settings, run)


@pytest.mark.parametrize(
    ("name", "old", "new"), [("config.yaml", "d_ff: 64", "d_ff: 65"), ("provenance.json", '"cpus": ', '"cpus": 1')]
)
def test_a_changed_file_of_a_run_is_named(settings, begun, tmp_path, name, old, new):
    run = tmp_path / "run"
    shutil.copytree(begun, run)
    text = (run / name).read_text()
    assert old in text
    (run / name).write_text(text.replace(old, new))
    with pytest.raises(InputError, match=rf"{name}: .*changed since it was written"):
        plan(settings, run)


@pytest.mark.parametrize("text", ["", "[1, 2]", "{a: [", "\x00"])
@pytest.mark.parametrize("name", ["config.yaml", "provenance.json"])
def test_damaged_files_are_named(settings, begun, tmp_path, name, text):
    run = tmp_path / "run"
    shutil.copytree(begun, run)
    (run / name).write_text(text)
    with pytest.raises(InputError, match=name):
        plan(settings, run)


def test_no_git_is_no_commit(settings, begun, monkeypatch):
    run = plan(settings, begun)
    assert provenance(run)["commit"]
    monkeypatch.setenv("PATH", "")
    assert provenance(run)["commit"] is None


def test_one_process_trains_a_run(settings, begun, monkeypatch):
    monkeypatch.setattr("llama_scale.files.LOCK_PATIENCE", 0.2)
    with open(begun / ".lock", "a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.truncate(0)
        file.write("4711")
        file.flush()
        with pytest.raises(InputError, match=r"run: process 4711 is training this run; wait for it"):
            fit(plan(settings, begun))
    assert fit(plan(settings, begun)) is None


def test_weights_can_be_read_by_others(begun):
    files = list(begun.rglob("*.safetensors"))
    assert len(files) > 1 and all(file.stat().st_mode & 0o777 == 0o644 for file in files)


@pytest.mark.parametrize(
    ("setting", "parts"), [("true", (True, True)), ("loss", (False, True)), ("auto", (False, False))]
)
def test_compiled_parts_are_as_asked_and_recorded(settings, tmp_path, setting, parts):
    run = plan(settings, tmp_path, "--device=cpu", f"--compile={setting}")
    assert (run.compile, run.compile_loss) == parts
    assert run.resolved["compile"] == (True if parts[0] else "loss" if parts[1] else False)
    model = build_model(run, seed=0)
    assert (model.blocks[0]._compiled_call_impl is not None, model.nll_and_grad is not nll_and_grad) == parts


def test_compile_without_a_compiler_is_refused(settings, tmp_path, monkeypatch):
    monkeypatch.setattr("llama_scale.training.run_plan.why_no_compiling", lambda device: "no compiler")
    assert not plan(settings, tmp_path, "--device=cpu").compile
    with pytest.raises(InputError, match="compile: loss cannot work here: no compiler; mend that, or"):
        plan(settings, tmp_path, "--device=cpu", "--compile=loss")


def test_a_run_goes_on_by_the_laws_it_began_with(settings, begun, tmp_path):
    """A run of before the laws of today: its rate and precision are recorded, and its scale was .02."""
    run = tmp_path / "run"
    shutil.copytree(begun, run)
    path = run / "config.yaml"
    recorded = yaml.safe_load(path.read_text())
    assert recorded.pop("init_std") == pytest.approx((2 / (5 * recorded["model"]["d_model"])) ** 0.5)
    del recorded["data_seed"]
    recorded["optim"]["lr"], recorded["precision"] = 6e-3, "bf16"
    path.write_text(yaml.safe_dump(recorded))
    again = plan(settings, run)
    assert (again.recipe.lr, again.recipe.init_std, again.bf16) == (6e-3, 0.02, True)
    with pytest.raises(InputError, match=r"this run has init_std = 0.02, the command asks for 0.1"):
        plan(settings, run, "--init_std=0.1")
    with pytest.raises(InputError, match=r"this run has data_seed = None, the command asks for 5"):
        plan(settings, run, "--data_seed=5")


def test_auto_precision_follows_the_faster_product(settings, tmp_path, monkeypatch):
    for seconds, bf16 in (((2e-3, 1e-3), True), ((1e-3, 2e-3), False), ((1.1e-3, 1e-3), False)):
        monkeypatch.setattr(device, "time_products", lambda *shape, seconds=seconds: seconds)
        planned = plan(settings, tmp_path / "run", "--precision=auto", "--device=cpu")
        assert planned.bf16 == bf16
        assert provenance(planned)["precision"]["value"] == ("bf16" if bf16 else "fp32")
        assert f"{1e3 * seconds[0]:.2g} ms in float32" in describe(planned)


def test_products_are_timed_once(monkeypatch):
    device.time_products.cache_clear()
    fp32, bf16 = device.time_products(1, 64, 128)
    assert 0 < fp32 < 1 and 0 < bf16 < 1
    assert device.time_products(1, 64, 128) == (fp32, bf16)
