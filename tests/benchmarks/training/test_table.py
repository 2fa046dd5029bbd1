"""A table of sizes."""

import json
import sys
from types import SimpleNamespace

import pytest
import torch

from benchmarks.training import table
from benchmarks.training.interleave import Contender, ContenderError, ContenderOutOfMemory, run_interleaved, summarize
from llama_scale.cli import parse
from llama_scale.cost.accounting import flops_per_token
from llama_scale.errors import InputError
from tests.benchmarks.training.helpers import measured_worker
from tests.conftest import ROOT, run_here, run_script

TABLE = """
name: tiny
device: cpu
precision: fp32
steps: 2
warmup: 1
threads: 1
rows:
  - {size: Q1, micro_batches: [4, 2], compile: false, peers: [transformers], model: &model
      {context_length: 64, vocab_size: 256}}
  - {size: Q2, micro_batches: [2], accumulate: 2, compile: false, recompute: true, model: *model}
"""


def test_table_of_sizes(tmp_path):
    (tmp_path / "tiny.yaml").write_text(TABLE)
    command = ["train", "--table", tmp_path / "tiny.yaml", f"--out={tmp_path / 'found'}"]
    done = run_script("benchmark.py", *command, "--only=Q1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    first = json.loads((tmp_path / "found.json").read_text())
    assert list(first["rows"]) == ["Q1"]
    assert len(first["rows"]["Q1"]["contenders"]) == 2
    done = run_here("benchmark.py", *command, "--only=Q2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    both = json.loads((tmp_path / "found.json").read_text())
    assert both["rows"]["Q1"] == first["rows"]["Q1"], "what was measured before stays"
    (ours,) = both["rows"]["Q2"]["contenders"]
    assert (ours["micro_batch"], ours["accumulate"], ours["recompute"]) == (2, 2, True)
    assert all(row["gradients"]["agree"] for row in both["rows"].values())
    text = (tmp_path / "found.md").read_text()
    assert "| Q1 | 4 x 1 | eager |" in text and "| Q2 | 2 x 2 | eager, recomputed |" in text
    assert "benchmark.py train --table" in text


def test_a_smaller_micro_batch_follows_one_that_does_not_fit(monkeypatch, capsys):
    tried = []

    def run_interleaved(contenders, steps, warmup, *_):
        (contender,) = contenders
        tried.append((contender.job.micro_batch, contender.job.accumulate))
        if contender.job.micro_batch > 2:
            raise ContenderOutOfMemory("llama_scale", "out of memory")
        return [measured_worker(job=contender.job)]

    monkeypatch.setattr(table, "run_interleaved", run_interleaved)
    config = SimpleNamespace(precision="fp32", device="cpu", threads=1, steps=2, warmup=1, profile=0, seconds=None)
    measured = table.measure(table.TableRow("Q1", [8, 4, 2], accumulate=3), config, 1e9, None)
    assert tried == [(8, 3), (4, 6), (2, 12)]
    assert measured["contenders"][0]["micro_batch"] == 2
    assert capsys.readouterr().err.count("out of memory") == 2
    with pytest.raises(InputError, match=r"no micro-batch of \[8, 4\]"):
        table.measure(table.TableRow("Q1", [8, 4]), config, 1e9, None)


# Takes the place of an interpreter that runs a worker: holds micro-batches of up to LIMIT sequences.
FAKE_WORKER = """#!{python}
import json, sys
import torch
job = json.loads(sys.argv[-1])
print(json.dumps({{"threads": 1, "torch": torch.__version__}}), flush=True)
try:
    for line in sys.stdin:
        if job["micro_batch"] > {limit}:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        print(json.dumps({{"seconds": 1.0, "loss": 5.0, "memory": 7}}), flush=True)
except torch.OutOfMemoryError:
    print(json.dumps({{"error": "out of memory"}}), flush=True)
"""


@pytest.fixture
def race(tmp_path, monkeypatch):
    """Return a function that measures a row of ours and a peer, each a process with room for some sequences."""

    def measure(ours: int, peers: int):
        def contender(name, job, python=None):
            script = tmp_path / f"{name}-{ours}-{peers}"
            limit = ours if name == "llama_scale" else peers
            script.write_text(FAKE_WORKER.format(python=sys.executable, limit=limit))
            script.chmod(0o755)
            return Contender(name, job, str(script))

        tried = []

        def note(contenders, steps, warmup, *_):
            tried.append((contenders[0].job.micro_batch, len(contenders)))
            return run_interleaved(contenders, steps, warmup)

        monkeypatch.setattr(table, "Contender", contender)
        monkeypatch.setattr(table, "run_interleaved", note)
        config = SimpleNamespace(precision="fp32", device="cpu", threads=1, steps=2, warmup=1, profile=0, seconds=None)
        row = table.TableRow("Q1", [8, 4, 2], peers=["transformers"])
        return table.measure(row, config, 1e9, None), tried

    return measure


@pytest.mark.parametrize(("ours", "peers"), [(8, 4), (4, 8), (4, 4)])
def test_whoever_runs_out_of_memory_all_take_the_next_micro_batch(race, ours, peers):
    measured, tried = race(ours, peers)
    assert tried == [(8, 2), (4, 2)]
    assert [row["micro_batch"] for row in measured["contenders"]] == [4, 4]
    assert measured["left_out"] == {}


def test_a_peer_that_no_micro_batch_makes_room_for_is_left_out(race):
    measured, tried = race(ours=4, peers=0)
    assert tried == [(8, 2), (4, 2), (2, 2), (8, 1), (4, 1)]
    assert [row["micro_batch"] for row in measured["contenders"]] == [4]
    assert measured["left_out"] == {"transformers": "out of memory"}
    assert "transformers: out of memory" in table.row_cells("Q1", measured | {"gradients": None})


def test_a_peer_that_fails_is_left_out_at_once(monkeypatch):
    tried = []

    def run_interleaved(contenders, steps, warmup, *_):
        tried.append([(contender.name, contender.job.micro_batch) for contender in contenders])
        if len(contenders) > 1:
            raise ContenderError("transformers", "no such module")
        return [measured_worker(job=contenders[0].job)]

    monkeypatch.setattr(table, "run_interleaved", run_interleaved)
    config = SimpleNamespace(precision="fp32", device="cpu", threads=1, steps=2, warmup=1, profile=0, seconds=None)
    measured = table.measure(table.TableRow("Q1", [8, 4], peers=["transformers"]), config, 1e9, None)
    assert tried == [[("llama_scale", 8), ("transformers", 8)], [("llama_scale", 8)]]
    assert measured["left_out"] == {"transformers": "no such module"}


@pytest.mark.parametrize(
    ("row", "rate"),  # tokens a second, measured on an H200
    [(table.TableRow("M3", [16]), 140_950), (table.TableRow("M4", [8], accumulate=8), 29_428)],
)
def test_the_forecast_is_that_of_the_dry_run(row, rate):
    config = table.TableBenchmark("gpu", [row], device="cuda", precision="bf16")
    job = table.make_job(row, config, row.micro_batches[0])
    told = table.dry_run_estimate(row.model_config, job, "NVIDIA H200")
    assert told["tokens_per_second"] == pytest.approx(rate, rel=0.03)
    a100 = table.dry_run_estimate(row.model_config, job, "NVIDIA A100-SXM4-80GB")
    share = 0.4 * 312e12 / flops_per_token(row.model_config, causal=False)
    assert a100["tokens_per_second"] == pytest.approx(share)


def test_a_row_that_fails_does_not_end_the_table(tmp_path, monkeypatch, capsys):
    def measure(row, config, ceiling, gpu):
        if row.size == "Q1":
            raise InputError("its process ended with -11: ")
        job = table.make_job(row, config, 2)
        workers = [measured_worker(job=job)]
        return {
            "forecast": table.dry_run_estimate(row.model_config, job, None),
            "contenders": [summarize(w, workers, 1e9, None) for w in workers],
            "left_out": {},
        }

    monkeypatch.setattr(table, "measure", measure)
    monkeypatch.setattr(table, "check_gradients", lambda rows, config: {})
    rows = [table.TableRow("Q1", [2]), table.TableRow("Q2", [2])]
    config = table.TableBenchmark("x", rows, device="cpu", out=str(tmp_path / "x"))
    with pytest.raises(InputError, match=r"^Q1: not measured"):
        table.run(config)
    assert list(json.loads((tmp_path / "x.json").read_text())["rows"]) == ["Q2"]
    shown = capsys.readouterr()
    assert "Q1: its process ended with -11" in shown.err
    head, row = shown.out.splitlines()
    assert head.startswith("size  micro-batch") and row.startswith("Q2          2 x 1")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_the_gpu_table_without_a_gpu_is_one_line(tmp_path):
    done = run_here("benchmark.py", "train", "--table", "h200", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.strip().endswith("this machine has no usable GPU")
    assert len(done.stderr.strip().splitlines()) == 1


def test_every_table_has_known_sizes():
    for path in sorted((ROOT / "configs/benchmark").glob("*.yaml")):
        config = parse(table.TableBenchmark, "A table.", ["--config", str(path)])
        assert {row.size for row in config.rows} == {"M1", "M2", "M3", "M4", "M5"}
        assert all(row.model_config.context_length == 2048 for row in config.rows)
        assert (config.steps, config.device, config.precision) == (100, "cuda", "bf16")
