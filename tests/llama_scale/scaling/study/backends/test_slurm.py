"""Tasks as submitit jobs on this machine: order, failure, retry, resume and requeue."""

import sys
import threading
import time

import pytest

from llama_scale.errors import InputError
from llama_scale.files import read_json
from llama_scale.scaling.study.backends.state import State
from tests.conftest import ROOT
from tests.llama_scale.scaling.study.helpers import events, task

submitit = pytest.importorskip("submitit", reason="the extra slurm is not installed")

from llama_scale.scaling.study.backends.slurm import Command, SlurmExecutor  # noqa: E402


class Silent:
    """Remembers what it is told of."""

    def __init__(self):
        self.said = []

    def __getattr__(self, word):
        return lambda what: self.said.append((word, what))


def executor(root, tasks):
    state = State(root / "studies/toy/state", root, tasks)
    return SlurmExecutor(
        state, root / "logs", {"timeout_min": 5}, Silent(), import_path=ROOT, cluster="local", poll=0.2
    )


def test_jobs_run_in_order_and_are_done_once(tmp_path):
    tasks = [
        task("one", "note('end'); open('one.out', 'w')", outputs=["one.out"]),
        task("two", "note('end'); open('two.out', 'w')", ["one"], ["two.out"]),
    ]
    jobs = executor(tmp_path, tasks)
    assert jobs.run() == []
    assert [name for _, name, _ in events(tmp_path)] == ["one", "two"]
    assert jobs.state.done == {"one", "two"}
    assert "$ " in (tmp_path / "logs/two.log").read_text()
    assert executor(tmp_path, tasks).run() == []
    assert len(events(tmp_path)) == 2


def test_crash_is_tried_again_and_bad_input_is_not(tmp_path):
    tasks = [
        task("crash", "note('try'); exit(7)"),
        task("input", "note('try'); print('size: no such rung'); exit(2)"),
        task("after", "note('try')", ["crash"]),
    ]
    failures = {f.task.name: f for f in executor(tmp_path, tasks).run()}
    assert failures["crash"].reason == "exit code 7"
    assert failures["input"].message == "input: size: no such rung"
    tries = [name for _, name, _ in events(tmp_path)]
    assert sorted(tries) == ["crash", "crash", "input"]


def test_output_of_an_earlier_study_is_not_this_ones(tmp_path):
    jobs = executor(tmp_path, [task("one", "print('done')")])
    (tmp_path / "logs/one.log").write_text("an older try\n")
    assert jobs._submit_ready()
    assert read_json(jobs.submitted)["one"]["log_start"] == len("an older try\n")
    assert jobs.run() == []
    finished = next(what for word, what in jobs.observer.said if word == "finished")
    assert finished.tail()[0].startswith("$ ") and finished.tail()[-1] == "done"


def test_command_saves_and_goes_back_into_the_queue(tmp_path):
    code = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (open('saved', 'w'), sys.exit(143)))\n"
        "open('begun', 'w')\ntime.sleep(60)"
    )
    command = Command((sys.executable, "-c", code), str(tmp_path), str(tmp_path / "x.log"))
    codes = []
    thread = threading.Thread(target=lambda: codes.append(command()))
    thread.start()
    while not (tmp_path / "begun").exists():
        time.sleep(0.05)
    again = command.checkpoint()
    thread.join()
    assert codes == [143]
    assert (tmp_path / "saved").exists()
    assert again.function == Command(command.argv, command.root, command.log)


def test_unknown_parameters_are_refused(tmp_path):
    state = State(tmp_path / "state", tmp_path, [])
    with pytest.raises(InputError, match=r"slurm: .*partitoin"):
        SlurmExecutor(state, tmp_path / "logs", {"partitoin": "gpu"}, Silent(), import_path=ROOT, cluster="local")
