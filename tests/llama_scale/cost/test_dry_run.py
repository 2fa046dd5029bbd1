"""The cost of a run, told before it is paid."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest

from llama_scale.cli import parse
from llama_scale.config import OptimConfig, TrainConfig, load_size
from llama_scale.cost.accounting import GIB, HARDWARE, USABLE
from llama_scale.cost.dry_run import forecast
from llama_scale.errors import InputError
from tests.conftest import ROOT, run_script

SIZES = ["M1", "M2", "M3", "M4", "M5"]
TOTALS = {"M1": 10.13e6, "M2": 96.7e6, "M3": 503.9e6, "M4": 3.043e9, "M5": 6.975e9}


def ask(size: str, hardware: str, **fields):
    return forecast(TrainConfig(load_size(size), size=size, **fields), hardware)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("hardware", "gib"), [("h100", 79), ("h200", 139)])
def test_verdicts(size, hardware, gib):
    cost = ask(size, hardware)
    assert cost.parameters == pytest.approx(TOTALS[size], rel=1e-3)
    assert cost.memory_available == pytest.approx(0.94 * gib * GIB)
    assert cost.fits == ((size, hardware) != ("M5", "h100"))
    assert cost.fits == (cost.memory.total <= cost.memory_available)
    assert cost.tokens == pytest.approx(20 * cost.parameters_non_embedding, rel=1e-3)
    full = cost.tokens * cost.flops_per_token_full
    assert cost.hours == pytest.approx(full / (0.4 * 989e12) / 3600)


@pytest.mark.parametrize("fields", [{}, {"micro_batch": 8}, {"strategy": "ddp"}])
@pytest.mark.parametrize("hardware", ["h100", "a100-40gb", "l40s"])
def test_the_nearest_change_fits(hardware, fields):
    cost = ask("M5", hardware, **fields)
    assert not cost.fits
    flags = dict(zip(*[iter(cost.change.replace("--", "").split())] * 2, strict=True))
    numbers = {k: int(v) if v.isdigit() else v for k, v in flags.items()}
    assert ask("M5", hardware, **fields | numbers).fits


def test_devices_share_the_time_and_the_weights():
    one, eight = ask("M5", "h200"), ask("M5", "h200", devices=8, strategy="fsdp")
    assert eight.device_hours == pytest.approx(one.device_hours)
    assert eight.hours == pytest.approx(one.hours / 8)
    assert eight.memory.total < one.memory.total
    assert eight.layout.shards == 8 and eight.layout.micro_batch > 1


def test_auto_splits_the_weights_where_that_makes_room():
    assert ask("M5", "h200", devices=8).layout.shards == 8
    assert ask("M2", "h200", devices=8).layout.shards == 1


def test_recomputing_makes_room_for_a_larger_micro_batch():
    plain, recompute = ask("M4", "h200"), ask("M4", "h200", checkpoint_activations="block")
    assert recompute.layout.micro_batch > 2 * plain.layout.micro_batch


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"devices": 3}, ["devices", "3", "--optim.batch_tokens"]),
        ({"micro_batch": 7}, ["micro_batch", "7", "does not divide"]),
        ({"devices": 0}, ["devices", "at least 1", "0"]),
    ],
)
def test_contradictions_are_named(fields, words):
    with pytest.raises(InputError) as error:
        ask("M5", "h200", **fields)
    assert all(word in str(error.value) for word in words), error.value


@pytest.mark.parametrize("devices", [3, 6, 12])
def test_the_advised_batch_suits_the_devices(devices):
    with pytest.raises(InputError) as error:
        ask("M5", "h200", devices=devices)
    advised = int(re.search(r"--optim.batch_tokens (\d+)", str(error.value))[1])
    cost = ask("M5", "h200", devices=devices, optim=OptimConfig(batch_tokens=advised))
    assert cost.batch_tokens == advised == pytest.approx(1_310_720, rel=0.01)
    assert advised % (devices * 2048) == 0


def test_unknown_hardware_names_the_nearest():
    with pytest.raises(InputError, match="did you mean 'h200'"):
        ask("M1", "h20")


def test_peaks_and_usable_memory_are_stated():
    assert HARDWARE["h200"].peak == HARDWARE["h100"].peak == 989e12
    assert 0.9 <= USABLE["cuda"] < 1


def test_dry_run_from_the_command_line(tmp_path):
    done = run_script("train.py", "--size=M5", "--dry-run", "--hardware=h200", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "6,974,606,592 total" in done.stdout and "verdict       fits" in done.stdout
    asked = ["--size=M1", "--dry_run=true", "--json", "--device=cpu"]
    told = json.loads(run_script("train.py", *asked, cwd=tmp_path).stdout)
    assert told["steps"] * told["batch_tokens"] == told["tokens"]
    assert told["memory"]["total"] == sum(v for k, v in told["memory"].items() if k != "total")
    assert not list(tmp_path.iterdir())


def test_dry_run_builds_no_model_and_loads_no_lightning(tmp_path):
    code = (
        "import sys, runpy; sys.argv = ['train.py', '--size=M5', '--dry-run', '--hardware=h200'];"
        f"runpy.run_path({str(ROOT / 'launch/train.py')!r}, run_name='__main__');"
        "assert not {'lightning', 'llama_scale.model.llama', 'torch'} & set(sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_hyphens_and_switches():
    config = parse(TrainConfig, "Train.", ["--size=M1", "--val-every=3", "--model.document-mask"])
    assert config.val_every == 3
    assert replace(config.model, document_mask=False) == load_size("M1")


def test_memory_of_a_cpu_is_what_is_free(monkeypatch):
    memory = SimpleNamespace(total=100 * GIB, available=40 * GIB)
    monkeypatch.setattr("psutil.virtual_memory", lambda: memory)
    assert forecast(TrainConfig(load_size("M1"), size="M1", device="cpu")).memory_available == (
        USABLE["cpu"] * 40 * GIB
    )
