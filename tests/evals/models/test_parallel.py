"""Completions by several processes, the accuracy over suites, and the scores in W&B."""

import gzip
import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from evals.models.parallel import ParallelCompleter
from evals.models.request import Completion, Request
from evals.repair.backends.parallel import ParallelBackend  # noqa: F401
from evals.repair.backends.protocol import Ask, Message  # noqa: F401
from evals.repair.backends.scripted import Scripted
from llama_scale.errors import InputError
from llama_scale.generation.sampling import SamplingConfig
from tests.conftest import ROOT, run_here, run_script
from tests.evals.helpers import QUICK

MANY = [*QUICK, "--suites=humaneval", "--humaneval.n_tasks=5", "--humaneval.n_samples=2"]


def test_two_processes_leave_the_bytes_of_one(run):
    folder = run / "evals" / "step-00000007"
    found = []
    for count in ("1", "2"):
        start = run_here if count == "1" else run_script
        done = start("evaluate.py", "runs/tiny", *MANY, f"--processes={count}", cwd=run.parents[1])
        assert done.returncode == 0, done.stderr
        names = ("humaneval.json", "humaneval-samples.jsonl.gz")
        found.append([(folder / name).read_bytes() for name in names])
        for path in folder.iterdir():
            path.unlink()
    assert found[0] == found[1]
    rows = [json.loads(line) for line in gzip.decompress(found[0][1]).splitlines()]
    assert len(rows) == 10 and len({row["completion"] for row in rows}) > 5


def test_killed_while_it_draws_it_goes_on_with_the_same_bytes(run):
    folder = run / "evals" / "step-00000007"
    argv = [*QUICK, "--suites=humaneval", "--humaneval.n_tasks=30", "--humaneval.batch_size=1",
            "--humaneval.n_samples=2", "--humaneval.sampling.max_new_tokens=40"]  # fmt: skip
    command = [sys.executable, str(ROOT / "launch/evaluate.py"), "runs/tiny", *argv]
    drawn = folder / "humaneval-completions.jsonl"
    names = ("humaneval.json", "humaneval-samples.jsonl.gz")
    found = []
    for kill in (False, True):
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(command, cwd=run.parents[1], env=environment,
                                   stdout=subprocess.DEVNULL)  # fmt: skip
        if kill:
            while not drawn.exists() or drawn.read_bytes().count(b'"task"') < 4:
                assert process.poll() is None, "it ended before it was killed"
                time.sleep(0.002)
            process.kill()
            process.wait()
            kept = drawn.read_bytes().count(b'"task"')
            assert 4 <= kept < 60 and not (folder / names[0]).exists()
            done = run_script("evaluate.py", "runs/tiny", *argv, cwd=run.parents[1])
            assert done.returncode == 0, done.stderr
        assert kill or process.wait() == 0
        assert not drawn.exists()
        found.append([(folder / name).read_bytes() for name in names])
        for path in folder.iterdir():
            path.unlink()
    assert found[0] == found[1]


class Stub:
    """A model whose samples are numbered by the process it is in, or that dies in it."""

    def __init__(self, device, fails=""):
        self.fails = fails

    def complete(self, request):
        if self.fails == "killed" and 1 in request.prompts:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.fails == "refuses":
            raise InputError("the model: cannot be loaded")
        for number, prompt in request.prompts.items():
            yield Completion(number, os.getpid(), prompt, None, None)


def dies(device):
    return Stub(device, "killed")


def refuses(device):
    return Stub(device, "refuses")


def draw(load, count=3):
    model = ParallelCompleter(Stub("cpu"), load, count, "cpu")
    return list(model.complete(Request(dict(enumerate("abcd")), SamplingConfig())))


def test_tasks_are_shared_out_and_failures_are_named():
    rows = draw(Stub)
    assert {row.task: row.text for row in rows} == {0: "a", 1: "b", 2: "c", 3: "d"}
    processes = {row.task: row.sample for row in rows}
    assert len(set(processes.values())) == 3 and processes[0] == processes[3]
    with pytest.raises(InputError, match=r"processes: number 1 on cpu ended with exit code -9"):
        draw(dies)
    with pytest.raises(InputError, match="the model: cannot be loaded"):
        draw(refuses, 2)


def wait_and_draw(device):
    return Waits(device)


class Waits(Stub):
    """A model that is long at its first sample."""

    def complete(self, request):
        yield Completion(0, os.getpid(), "", None, None)
        time.sleep(600)


def answer_slowly(device):
    return Scripted(lambda ask, number: str(os.getpid()))


WORKERS_OF = {
    "completions": "request = Request(dict(enumerate('ab')), SamplingConfig())\n"
    "    model = ParallelCompleter(t.Stub('cpu'), t.wait_and_draw, 2, 'cpu')\n"
    "    found = (row.sample for row in model.complete(request))",
    "replies": "model = ParallelBackend(t.answer_slowly, 2, 'cpu')\n"
    "    asks = [Ask((Message('user', 'x'),), (n, 0, 0, 0)) for n in range(2)]\n"
    "    found = (int(replies[0].text) for _, replies in model.ask(asks, SamplingConfig()))",
}


@pytest.mark.parametrize("kind", WORKERS_OF)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["SIGKILL", "SIGTERM"])
def test_workers_end_with_the_command_that_started_them(tmp_path, kind, number):
    code = (
        "import time\nimport tests.evals.models.test_parallel as t\n"
        "from tests.evals.models.test_parallel import *\n"
        f"if __name__ == '__main__':\n    {WORKERS_OF[kind]}\n"
        "    print(next(found), next(found), flush=True)\n    time.sleep(600)\n"
    )
    (tmp_path / "command.py").write_text(code)
    command = subprocess.Popen([sys.executable, "command.py"], cwd=tmp_path, stdout=subprocess.PIPE, text=True,
                               env=os.environ | {"PYTHONPATH": str(ROOT)})  # fmt: skip
    workers = [psutil.Process(int(word)) for word in command.stdout.readline().split()]
    assert len(set(workers)) == 2
    command.send_signal(number)
    command.communicate()
    assert not psutil.wait_procs(workers, timeout=60)[1]


@pytest.mark.usefixtures("no_wandb_settings")
def test_bad_process_counts_and_wandb_of_a_run(run, launch):
    code, _, err = launch("evaluate.py", "runs/tiny", *MANY, "--ranks=0")
    assert code == 2 and "processes: expected at least 1 or auto, found 0" in err
    argv = [*QUICK, "--suites=humaneval", "--wandb=scores"]
    code, _, err = launch("evaluate.py", "runs/tiny", *argv)
    assert code == 0, err
    assert len(list((run / "wandb").glob("offline-run-*"))) == 1
