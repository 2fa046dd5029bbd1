"""Contenders in processes of their own: same model, same tokens, in turn."""

import json
import os
import signal
from dataclasses import asdict
from types import SimpleNamespace

import pytest
import torch

from benchmarks import environment
from benchmarks.training import interleave, table
from benchmarks.training.baselines import to_litgpt
from benchmarks.training.interleave import Failed, OutOfMemory, Worker, check_losses, summarise
from benchmarks.training.worker import Job
from benchmarks.training.worker import main as worker_main
from llama_scale.cli import parse
from llama_scale.config import ModelConfig
from llama_scale.errors import InputError
from llama_scale.model.llama import Llama
from tests.conftest import ROOT, run_script

TINY = ModelConfig(
    d_model=32, n_layers=2, n_heads=2, n_kv_heads=1, d_ff=64, vocab_size=96, context_length=32
)
JOB = Job(peer="llama_scale", model=asdict(TINY), micro_batch=2, threads=1)
SHAPE = [f"--model.{name}={value}" for name, value in asdict(TINY).items()]


def test_train_mode_beside_transformers(tmp_path):
    out = tmp_path / "out.json"
    command = ["train", *SHAPE, "--batch=2", "--steps=4", "--warmup=2", "--threads=1"]
    done = run_script("benchmark.py", *command, f"--out={out}", "--precision=fp32", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads(out.read_text())
    ours, theirs = result["contenders"]
    assert (ours["name"], theirs["name"]) == ("llama_scale", "transformers")
    assert ours["losses"] == pytest.approx(theirs["losses"], abs=1e-5)
    assert len(ours["losses"]) == 6 and len(ours["seconds"]) == 4
    assert ours["losses"][-1] != ours["losses"][0]
    assert ours["peak_memory"] > 50e6 and result["threads"] == 1
    assert ours["ratios"]["llama_scale"]["median"] == 1
    low, high = theirs["ratios"]["llama_scale"]["quartiles"]
    assert 0 < low <= theirs["ratios"]["llama_scale"]["median"] <= high
    assert "transformers" in done.stdout and "GFLOP/s" in done.stdout


def worker(name="llama_scale", seconds=(1.0, 2.0), losses=(3.0, 2.9), job=JOB):
    found = Worker(name, job, None, None)
    found.seconds, found.losses, found.memory = list(seconds), list(losses), 7
    return found


def test_summary_by_hand():
    ours, other = worker(), worker("x", (4.0, 4.0), job=Job("x", asdict(TINY), 2))
    row = summarise(other, [ours, other], ceiling=1e6, gpu="NVIDIA H200")
    tokens = 2 * 32 / 4.0
    matmul = 2 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64) + 96 * 32
    attention = 2 * 32 * 32  # L D T
    assert row["tokens_per_second"] == tokens and row["ms_per_step"] == 4000
    assert row["share_of_ceiling"] == pytest.approx(tokens * (6 * matmul + 12 * attention) / 1e6)
    assert row["mfu_full"] == pytest.approx(tokens * (6 * matmul + 12 * attention) / 989e12)
    assert row["mfu_causal"] == pytest.approx(tokens * (6 * matmul + 6 * attention) / 989e12)
    assert row["ratios"] == {"llama_scale": {"median": 3.0, "quartiles": [1.5, 4.5]}}


def test_losses_that_differ_are_not_compared():
    check_losses([worker(), worker(losses=(3.0001, 2.9003))])
    for losses, step in (((3.0003, 2.9), 1), ((float("nan"), 2.9), 1), ((3.0, 2.9005), 2)):
        with pytest.raises(InputError, match=f"x: its loss differs from ours by .* at step {step}"):
            check_losses([worker(), worker("x", losses=losses)])
    rounded = Job("x", asdict(TINY), 2, bf16=True)
    check_losses([worker(), worker("x", losses=(3.009, 2.9), job=rounded)])


def test_a_contender_that_dies_is_one_line():
    found = Worker.start("victim", JOB)
    try:
        found.ask(0)
        found.take(timed=True)
        os.kill(found.process.pid, signal.SIGKILL)
        with pytest.raises(Failed, match="victim: its process ended with -9: killed"):
            for number in (1, 2):
                found.ask(number)
                found.take(timed=True)
    finally:
        found.stop()


def test_a_contender_that_cannot_be_built_is_one_line():
    with pytest.raises(InputError, match="litgpt: No module named 'litgpt'"):
        Worker.start("litgpt", Job("litgpt", asdict(TINY), 1))


def test_litgpt_gets_every_weight_once():
    model = Llama(TINY).init_weights(0)
    renamed = to_litgpt(model.state_dict(), TINY.n_layers)
    values = torch.cat([value.flatten() for value in renamed.values()]).sort().values
    expected = torch.cat([value.flatten() for value in model.state_dict().values()]).sort().values
    assert torch.equal(values, expected)
    first = model.blocks[0].attention
    qkv = renamed["transformer.h.0.attn.qkv.weight"]  # (D + 2 G K, D)
    parts = qkv.split([32, 16, 16])
    assert all(torch.equal(p, getattr(first, n).weight) for p, n in zip(parts, "qkv", strict=True))


def test_an_environment_that_cannot_be_made_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(environment, "ROOT", tmp_path)
    monkeypatch.setitem(environment.OWN, "nothing", ["no-such-package-of-anyone==99"])

    def call(command):
        if "venv" in command:
            (tmp_path / ".peers/nothing/lib").mkdir(parents=True)
        else:
            environment.subprocess.run(["false"], check=True)

    monkeypatch.setattr(environment, "call", call)
    with pytest.raises(InputError, match="peers: nothing cannot be installed"):
        environment.peer_python("nothing")
    assert not (tmp_path / ".peers/nothing").exists()


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
    done = run_script("benchmark.py", *command, "--only=Q2", cwd=tmp_path)
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

    def fake(entries, steps, warmup):
        (entry,) = entries
        tried.append((entry[1].micro_batch, entry[1].accumulate))
        if entry[1].micro_batch > 2:
            raise OutOfMemory("llama_scale", "out of memory")
        return [worker(job=entry[1])]

    monkeypatch.setattr(table, "race", fake)
    config = SimpleNamespace(precision="fp32", device="cpu", threads=1, steps=2, warmup=1)
    found = table.measure(table.Row("Q1", [8, 4, 2], accumulate=3), config, 1e9, None)
    assert tried == [(8, 3), (4, 6), (2, 12)]
    assert found["contenders"][0]["micro_batch"] == 2
    assert capsys.readouterr().err.count("out of memory") == 2
    with pytest.raises(InputError, match=r"no micro-batch of \[8, 4\]"):
        table.measure(table.Row("Q1", [8, 4]), config, 1e9, None)


def test_a_peer_that_fails_is_left_out_and_ours_is_measured(monkeypatch):
    tried = []

    def fake(entries, steps, warmup):
        tried.append([(name, job.micro_batch) for name, job, _ in entries])
        if len(entries) > 1:
            raise OutOfMemory("transformers", "out of memory")
        return [worker(job=entries[0][1])]

    monkeypatch.setattr(table, "race", fake)
    config = SimpleNamespace(precision="fp32", device="cpu", threads=1, steps=2, warmup=1)
    found = table.measure(table.Row("Q1", [8, 4], peers=["transformers"]), config, 1e9, None)
    assert tried == [[("llama_scale", 8), ("transformers", 8)], [("llama_scale", 8)]]
    assert found["left_out"] == {"transformers": "out of memory"}
    assert "| transformers: out of memory |" in table.line("Q1", found | {"gradients": None})


def test_a_row_that_fails_does_not_end_the_table(tmp_path, monkeypatch, capsys):
    def fake(row, config, ceiling, gpu):
        if row.size == "Q1":
            raise InputError("its process ended with -11: ")
        job = table.make_job(row, config, 2)
        workers = [worker(job=job)]
        return {
            "forecast": table.forecast(row.config, job, None),
            "contenders": [summarise(w, workers, 1e9, None) for w in workers],
            "left_out": {},
        }

    monkeypatch.setattr(table, "measure", fake)
    monkeypatch.setattr(table, "check_gradients", lambda rows, config: {})
    rows = [table.Row("Q1", [2]), table.Row("Q2", [2])]
    config = table.TableBenchmark("x", rows, device="cpu", out=str(tmp_path / "x"))
    with pytest.raises(InputError, match=r"^Q1: not measured"):
        table.run(config, "command")
    assert list(json.loads((tmp_path / "x.json").read_text())["rows"]) == ["Q2"]
    assert "Q1: its process ended with -11" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("said", "full"),
    [
        ("CUDA error: out of memory", True),
        ("Triton Error [CUDA]: out of memory", True),
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate", True),
        ("CUDA error: an illegal memory access was encountered", False),
    ],
)
def test_every_way_to_say_out_of_memory(said, full, monkeypatch, capsys):
    def fail(job):
        raise RuntimeError(said)

    monkeypatch.setattr("benchmarks.training.worker.build_step", fail)
    monkeypatch.setattr("sys.argv", ["worker", json.dumps(asdict(JOB))])
    if full:
        worker_main()
        assert json.loads(capsys.readouterr().out) == {"error": "out of memory"}
    else:
        with pytest.raises(RuntimeError):
            worker_main()


def test_an_answer_of_out_of_memory_is_told_apart(monkeypatch):
    found = worker()
    found.process = SimpleNamespace(
        stdout=SimpleNamespace(readline=lambda: '{"error": "out of memory"}')
    )
    with pytest.raises(OutOfMemory):
        found.read()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "--table", "h20"], "did you mean 'h200'"),
        (["train", "--table", "h200", "--only=M9"], "no row 'M9'"),
        (["train", "--size=M1", "--peers=transfomers"], "unknown 'transfomers'"),
        (["train", "--size=M1", "--steps=0"], "steps: expected at least 1"),
        (["generate", "--size=M1", "--tokenizer=none.model"], "none.model"),
        (["generate", "--size=M1", "--prompts=0"], "prompts: expected at least 1"),
        (["generate", "--size=M1", "--peers=singel"], "did you mean 'single'"),
        (["train", "--size=M1", "--threads=0"], "threads: expected at least 1"),
        (["overhead", "--size=M1", "--data=none"], "none"),
        (["trian"], "did you mean 'train'"),
    ],
)
def test_bad_input_is_one_line(tmp_path, arguments, words):
    done = run_script("benchmark.py", *arguments, cwd=tmp_path)
    assert done.returncode == 2 and words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_the_gpu_table_without_a_gpu_is_one_line(tmp_path):
    done = run_script("benchmark.py", "train", "--table", "h200", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.strip().endswith("this machine has no usable GPU")
    assert len(done.stderr.strip().splitlines()) == 1


def test_every_table_has_known_sizes():
    for path in sorted((ROOT / "configs/benchmark").glob("*.yaml")):
        config = parse(table.TableBenchmark, "A table.", ["--config", str(path)])
        assert {row.size for row in config.rows} == {"M1", "M2", "M3", "M4", "M5"}
        assert all(row.config.context_length == 2048 for row in config.rows)
        assert (config.steps, config.device, config.precision) == (100, "cuda", "bf16")


def test_race_stops_every_process(monkeypatch):
    started = []
    start = Worker.start.__func__

    def record(cls, *entry):
        started.append(start(cls, *entry))
        return started[-1]

    monkeypatch.setattr(Worker, "start", classmethod(record))
    with pytest.raises(InputError, match="No module named 'litgpt'"):
        interleave.race([("a", JOB), ("b", Job("litgpt", asdict(TINY), 2))], steps=1, warmup=1)
    assert len(started) == 1 and started[0].process.poll() is not None
