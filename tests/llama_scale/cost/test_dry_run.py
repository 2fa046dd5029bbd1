"""The cost of a run, told before it is paid."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest

from llama_scale.cli import parse
from llama_scale.config import TrainConfig, load_size
from llama_scale.cost.hardware import GIB
from tests.conftest import ROOT, run_here
from tests.llama_scale.cost.helpers import run_cost

SIZES = ["M1", "M2", "M3", "M4", "M5"]
TOTALS = {"M1": 10.13e6, "M2": 96.7e6, "M3": 503.9e6, "M4": 3.043e9, "M5": 6.975e9}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("hardware", "gib"), [("h100", 79), ("h200", 139)])
def test_verdicts(size, hardware, gib):
    cost = run_cost(size, hardware).to_dict()
    assert cost["n_params"] == pytest.approx(TOTALS[size], rel=1e-3)
    assert cost["memory_available"] == pytest.approx(0.94 * gib * GIB)
    assert cost["fits"] == ((size, hardware) != ("M5", "h100"))
    assert cost["fits"] == (cost["memory"]["total"] <= cost["memory_available"])
    assert cost["tokens"] == pytest.approx(20 * cost["n_params_non_embedding"], rel=1e-3)
    full = cost["tokens"] * cost["flops_per_token_full"]
    asked = run_cost(size, hardware, mfu=0.3).to_dict()
    assert asked["hours"] == pytest.approx(full / (0.3 * 989e12) / 3600)
    assert asked["step_seconds"] is None and asked["rate"] == "30 % of 989 TFLOP/s"
    assert cost["hours"] == pytest.approx(cost["steps"] * cost["step_seconds"]["total"] / 3600, rel=1e-3)


def test_devices_share_the_time_and_the_weights():
    one, eight = (run_cost("M5", "h200", mfu=0.4, **more) for more in ({}, {"devices": 8, "strategy": "fsdp"}))
    assert eight.to_dict()["device_hours"] == pytest.approx(one.to_dict()["device_hours"])
    assert eight.hours == pytest.approx(one.hours / 8)
    one, eight = (run_cost("M5", "h200", **more) for more in ({}, {"devices": 8, "strategy": "fsdp"}))
    assert 0.75 * one.hours / 8 < eight.hours < one.hours / 8  # larger micro-batches, an eighth of the optimizer each
    assert eight.memory.total < one.memory.total
    assert eight.layout.shards == 8 and eight.layout.micro_batch > 1


def test_dry_run_from_the_command_line(tmp_path):
    done = run_here("train.py", "--size=M5", "--dry-run", "--hardware=h200", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "6,974,606,592 total" in done.stdout and "verdict       fits" in done.stdout
    asked = ["--size=M1", "--dry_run=true", "--json", "--device=cpu"]
    told = json.loads(run_here("train.py", *asked, cwd=tmp_path).stdout)
    assert told["steps"] * told["batch_tokens"] == told["tokens"]
    assert told["memory"]["total"] == sum(v for k, v in told["memory"].items() if k != "total")
    assert not list(tmp_path.iterdir())


def test_other_cards_and_float32_are_reckoned_at_a_share_of_the_peak():
    a100 = run_cost("M2", "a100")
    assert a100.to_dict()["rate"] == "40 % of 312 TFLOP/s" and a100.step is None
    assert run_cost("M2", "h200", precision="fp32").step is None


def test_the_law_of_the_time_is_printed():
    text = str(run_cost("M2", "h200"))
    assert "[70% of the peak in matrix products" in text and "measured on an H200]" in text
    assert "measured on an H200" not in str(run_cost("M2", "h200", mfu=0.4))


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
