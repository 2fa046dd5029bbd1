"""Training steps beside peers."""

import json
from dataclasses import asdict

import pytest

from benchmarks.training.train import table
from tests.benchmarks.training.helpers import TINY
from tests.conftest import run_here

SHAPE = [f"--model.{name}={value}" for name, value in asdict(TINY).items()]


def test_train_mode_beside_transformers(tmp_path):
    out = tmp_path / "out.json"
    command = ["train", *SHAPE, "--batch=2", "--steps=4", "--warmup=2", "--threads=1"]
    done = run_here("benchmark.py", *command, f"--out={out}", "--precision=fp32", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads(out.read_text())
    ours, peer = result["contenders"]
    assert (ours["name"], peer["name"]) == ("llama_scale", "transformers")
    assert ours["losses"] == pytest.approx(peer["losses"], abs=1e-5)
    assert len(ours["losses"]) == 6 and len(ours["seconds"]) == 4
    assert ours["losses"][-1] != ours["losses"][0]
    assert ours["peak_memory"] > 50e6 and result["threads"] == 1
    assert ours["ratios"]["llama_scale"]["median"] == 1
    low, high = peer["ratios"]["llama_scale"]["quartiles"]
    assert 0 < low <= peer["ratios"]["llama_scale"]["median"] <= high
    low, high = result["matmul_ceiling_quartiles"]
    assert 0 < low <= result["matmul_ceiling"] <= high
    low, high = ours["share_of_ceiling_quartiles"]
    assert low <= ours["share_of_ceiling"] <= high
    assert "transformers" in done.stdout and "GFLOP/s" in done.stdout


def test_table():
    ours = {
        "name": "llama_scale", "precision": "fp32", "tokens_per_second": 2274.4,
        "ms_per_step": 900.45, "share_of_ceiling": 0.5, "peak_memory": 2**30,
        "ratios": {"llama_scale": {"median": 1.0, "quartiles": [1.0, 1.0]}}, "losses": [10.4, 10.3],
    }  # fmt: skip
    peer = ours | {
        "name": "transformers", "tokens_per_second": 1822.0, "mfu_full": 0.41, "mfu_causal": 0.39,
        "ratios": {"llama_scale": {"median": 1.283, "quartiles": [1.25, 1.351]}},
    }  # fmt: skip
    result = {
        "size": "M1", "tokens_per_step": 2048, "device": "cpu", "threads": 2,
        "matmul_ceiling": 3.28e11, "matmul_ceiling_quartiles": [3.1e11, 3.4e11], "contenders": [ours, peer],
        "precision": {"value": "fp32", "source": "as asked"},
    }  # fmt: skip
    title, precision, head, *rows = table(result).splitlines()
    assert (
        title
        == "M1, 2,048 tokens a step, cpu, 2 threads, matrix products reach 328 GFLOP/s (310 to 340) in the same turns"
    )
    assert precision == "precision fp32: as asked"
    assert head.split("  ")[0] == "contender" and head.endswith("  first loss")
    assert [" ".join(line.split()) for line in rows] == [
        "llama_scale fp32 2,274 900.5 - - 50.0% 1.00 1.00x (1.00 to 1.00) 10.40000",
        "transformers fp32 1,822 900.5 41.0% 39.0% 50.0% 1.00 1.28x (1.25 to 1.35) 10.40000",
    ]
    assert len({len(line) for line in (head, *rows)}) == 1, "aligned to the right"
