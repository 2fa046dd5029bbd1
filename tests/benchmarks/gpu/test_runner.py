"""The command: steps that fail, steps that do not end, and a whole tiny one."""

import json
import os
import signal
import sys
import tarfile
import threading
import time

import psutil
import pytest

from benchmarks.gpu import runner, setup_check
from benchmarks.gpu.record import Record
from benchmarks.gpu.settings import GpuBenchmark, StepJob, step_ends
from benchmarks.gpu.summary import table
from llama_scale.errors import InputError
from llama_scale.files import read_json
from tests.conftest import run_here

# Steps that stand in for the real ones: the first fails after a row, the second writes one and never ends, nor does a
# process of its own session below it, whose number the row gives.
STEPS = {
    "setup": "record.check('first', 'found', True); sys.exit('setup: no such luck')",
    "correctness": """
child = subprocess.Popen(['sleep', '600'], start_new_session=True)
record.check('second', child.pid, False)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
time.sleep(600)
""",
}
START = """
import json, signal, subprocess, sys, time
from benchmarks.gpu.record import Record
job = json.loads(sys.argv[1])
record = Record(job['record'])
"""


@pytest.fixture
def stand_ins(monkeypatch):
    def command(module, argument):
        return [sys.executable, "-c", START + STEPS[json.loads(argument)["name"]], argument]

    monkeypatch.setattr(runner, "module_command", command)
    monkeypatch.setattr(runner, "GRACE", 0.2)
    monkeypatch.setattr(runner, "POLL", 0.05)


def test_a_step_that_fails_or_never_ends_leaves_its_rows_and_the_others(stand_ins, tmp_path, capsys):
    config = GpuBenchmark(out=str(tmp_path), minutes=0.15, only="setup,correctness", device="cpu")
    result = runner.run(config)
    assert json.loads((tmp_path / "gpu.json").read_text()) == result
    setup, correctness = result["steps"].values()
    assert (setup["status"], correctness["status"]) == ("failed (1)", "stopped at its limit")
    assert setup["log"] == ["setup: no such luck"]
    assert [row["check"] for row in setup["rows"] + correctness["rows"]] == ["first", "second"]
    pid = int(correctness["rows"][0]["found"])
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    summary = (tmp_path / "summary.md").read_text()
    assert "| first | found | right |" in summary and "2 checks, WRONG: second" in summary
    with tarfile.open(tmp_path / "logs.tar.gz") as archive:
        assert {"logs/setup.log", "records/correctness.json"} <= set(archive.getnames())
    assert sorted(os.listdir(tmp_path)) == ["gpu.json", "logs.tar.gz", "summary.md"]
    progress = capsys.readouterr().err
    assert "[1/2] setup" in progress and "no such luck" in progress and "[2/2] correctness" in progress
    assert "WRONG" in table(result)


def test_rows_are_in_the_results_while_a_step_runs(stand_ins, tmp_path, monkeypatch):
    seen = []
    real = runner.write_result

    def note(result, out):
        real(result, out)
        seen.append([(step["status"], len(step["rows"])) for step in result["steps"].values()])

    monkeypatch.setattr(runner, "write_result", note)
    monkeypatch.setitem(STEPS, "setup", "record.check('a', 1); time.sleep(1.5); record.check('b', 2)")
    runner.run(GpuBenchmark(out=str(tmp_path), minutes=0.2, only="setup", device="cpu"))
    assert [("running", 1)] in seen and seen[-1] == [("done", 2)]


def test_sigterm_ends_the_step_and_keeps_its_rows(stand_ins, tmp_path):
    def stop_after_the_first_row():
        while not (tmp_path / "gpu.json").exists() or "second" not in (tmp_path / "gpu.json").read_text():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop_after_the_first_row, daemon=True).start()
    with pytest.raises(SystemExit) as leave:
        runner.run(GpuBenchmark(out=str(tmp_path), minutes=5, only="correctness,speed", device="cpu"))
    assert leave.value.code == 128 + signal.SIGTERM
    correctness, speed = json.loads((tmp_path / "gpu.json").read_text())["steps"].values()
    assert (correctness["status"], speed["status"]) == ("interrupted", "not reached")
    pid = int(correctness["rows"][0]["found"])
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_time_that_a_step_leaves_goes_to_the_next():
    ends = step_ends(["speed", "ladder"], 670, "cuda")
    assert ends == {"speed": 330, "ladder": 670}
    assert list(step_ends(["setup", "correctness", "speed", "sampling", "ladder"], 480, "cuda").values()) == [
        25, 95, 260, 310, 480,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"only": "sped"}, "did you mean 'speed'"),
        ({"only": ""}, "name at least one step"),
        ({"minutes": 0}, "minutes: expected a positive number"),
        ({"peers": "transfomers"}, "did you mean 'transformers'"),
    ],
)
def test_bad_settings_are_one_line(settings, words):
    with pytest.raises(InputError, match=words):
        GpuBenchmark(**settings)


def test_tokens_that_are_not_there(tmp_path):
    with pytest.raises(InputError, match=r"no manifest\.json"):
        runner.run(GpuBenchmark(out=str(tmp_path / "out"), tokens=str(tmp_path), device="cpu"))
    assert not (tmp_path / "out").exists()


def test_what_a_machine_is(tmp_path):
    job = StepJob("setup", "cpu", str(tmp_path), str(tmp_path / "setup.json"), time.time() + 60, None, [])
    setup_check.run(job, Record(job.record))
    rows = {row["check"]: row for row in read_json(job.record)["rows"]}
    assert rows["needed modules"]["ok"] and rows["copies"]["ok"]
    assert rows["matrix products"]["matmul_ceiling"] > 1e9


def test_speed_on_a_cpu(tmp_path):
    """The rows of a rehearsal: rates beside the forecast, and kernels."""
    options = ["--device=cpu", "--minutes=4", "--only=speed", "--peers=", "--out=found"]
    start = time.time()
    done = run_here("benchmark.py", "gpu", *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "found" / "gpu.json").read_text())
    assert 0 < result["seconds"] < time.time() - start
    speed = result["steps"]["speed"]
    assert speed["status"] == "done", done.stderr
    assert [row["size"] for row in speed["rows"]] == ["Q2", "Q1"]
    for row in speed["rows"]:
        (ours,) = row["contenders"]
        assert ours["tokens_per_second"] > 0 and row["forecast"]["memory"] > 0
        kinds = ours["kernels"]["kinds"]
        assert abs(sum(kinds.values()) - 1) < 1e-6 and kinds["matrix products"] > 0
    assert "Where the time goes" in done.stdout and "aten::mm" in done.stdout
