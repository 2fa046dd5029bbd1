"""Studies run as real processes: order, failure, interruption, SIGKILL and continuation."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import psutil
import pytest

from llama_scale.errors import InputError
from llama_scale.scaling.study.backends.local import LocalExecutor, cpu_count, gpus, pick_slots
from llama_scale.scaling.study.backends.slurm import SlurmAttempt
from llama_scale.scaling.study.backends.state import State, describe_exit
from llama_scale.scaling.study.backends.task import Task
from llama_scale.scaling.study.progress import Progress, clock
from llama_scale.scaling.study.runner import run_study
from llama_scale.scaling.study.runs import plan_runs
from tests.conftest import ROOT
from tests.llama_scale.scaling.study.helpers import TRAIN, events, kill_tasks, make_study, task


def test_order_parallelism_and_rerun(tmp_path, capsys):
    work = "note('start'); time.sleep(.25); note('end'); open('{0}.out', 'w')"
    tasks = [task("prepare", work.format("prepare"), outputs=["prepare.out"])]
    sizes = {"train-small": 1.0, "train-large": 9.0, "train-middle": 5.0, "train-tiny": 0.5}
    for name, flops in sizes.items():
        tasks.append(task(name, work.format(name), ["prepare"], [f"{name}.out"], flops))
    tasks.append(task("collect", work.format("collect"), sizes, ["collect.out"]))
    run_study(make_study(tmp_path, tasks))
    seen = events(tmp_path)
    starts = [name for word, name, _ in seen if word == "start"]
    assert starts[0] == "prepare" and starts[-1] == "collect"
    assert set(starts[1:3]) == {"train-large", "train-middle"}
    assert set(starts[3:5]) == {"train-small", "train-tiny"}
    level = peak = 0
    for word, _, _ in sorted(seen, key=lambda event: event[2]):
        level += 1 if word == "start" else -1
        peak = max(peak, level)
    assert peak == 2
    record = json.loads((tmp_path / "studies/toy/state/train-large.json").read_text())
    assert record["argv"] == list(tasks[2].argv) and record["attempts"] == 1
    assert (tmp_path / "studies/toy/runs").resolve() == tmp_path / "runs/toy"
    assert os.readlink(tmp_path / "studies/toy/runs") == "../../runs/toy"
    out = capsys.readouterr().out
    assert "[6/6] collect finished" in out and "already done" not in out

    run_study(make_study(tmp_path, tasks))
    assert len(events(tmp_path)) == len(seen)
    assert "6 of 6 tasks already done" in capsys.readouterr().out

    # A lost output is made again, alone; a changed command is run with all that follows it.
    (tmp_path / "train-tiny.out").unlink()
    run_study(make_study(tmp_path, tasks))
    assert Counter(name for word, name, _ in events(tmp_path) if word == "start") == {
        "prepare": 1, "train-small": 1, "train-large": 1, "train-middle": 1,
        "train-tiny": 2, "collect": 1,
    }  # fmt: skip
    tasks[1] = task("train-small", work.format("train-small") + "#", ["prepare"], [], 1.0)
    run_study(make_study(tmp_path, tasks))
    again = Counter(name for word, name, _ in events(tmp_path)[2 * 7 :] if word == "start")
    assert again == {"train-small": 1, "collect": 1}


@pytest.mark.parametrize("how", ["changed", "lost"])
def test_what_has_changed_since_a_task_wrote_it_is_made_again(tmp_path, capsys, how):
    """With all that follows where it comes out otherwise than before, and alone where it does not."""
    copy = "note('start'); open('{0}.out', 'w').write(open('{1}').read() + '{0}')"
    (tmp_path / "given").write_text("1")
    tasks = [task("split", copy.format("split", "given"), [], ["split.out"])]
    tasks += [task("collect", copy.format("collect", "split.out"), ["split"], ["collect.out"])]
    tasks += [task("report", copy.format("report", "collect.out"), ["collect"], ["report.out"])]

    def runs_again(name):
        before = len(events(tmp_path))
        (tmp_path / name).write_text("by hand") if how == "changed" else (tmp_path / name).unlink()
        run_study(make_study(tmp_path, tasks))
        assert (f"{name} has changed since" in capsys.readouterr().out) == (how == "changed")
        return [name for _, name, _ in events(tmp_path)[before:]]

    run_study(make_study(tmp_path, tasks))
    assert (tmp_path / "report.out").read_text() == "1splitcollectreport"
    assert runs_again("collect.out") == ["collect"]
    (tmp_path / "given").write_text("2")
    assert runs_again("split.out") == ["split", "collect", "report"]
    assert (tmp_path / "report.out").read_text() == "2splitcollectreport"
    run_study(make_study(tmp_path, tasks))
    assert "3 of 3 tasks already done" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["{", "[]", '"x"', b"\xff\xfe", "[" * 100_000, None])
def test_a_record_that_cannot_be_believed_is_none(tmp_path, text):
    """None of these, nor a bit that changed, makes a task done that was not."""
    tasks = [task("split", "note('start'); open('out', 'w')", [], ["out"])]
    run_study(make_study(tmp_path, tasks))
    record = tmp_path / "studies/toy/state/split.json"
    if text is None:
        text = record.read_text().replace('"attempts": 1', '"attempts": 3')
    record.write_bytes(text.encode() if isinstance(text, str) else text)
    run_study(make_study(tmp_path, tasks))
    assert [name for _, name, _ in events(tmp_path)] == ["split", "split"]


def test_a_task_of_two_places_runs_alone_on_two(tmp_path):
    work = "note('start'); time.sleep(.25); note('end')"
    sizes = {"train-wide": 9.0, "train-middle": 5.0, "train-small": 1.0, "train-large": 10.0}
    tasks = [task(name, work, flops=flops) for name, flops in sizes.items()]
    tasks[0] = replace(tasks[0], places=2)
    run_study(make_study(tmp_path, tasks))
    when = {(word, name): time for word, name, time in events(tmp_path)}
    start, end = when["start", "train-wide"], when["end", "train-wide"]
    assert [name for name in sizes if when["start", name] < end and start < when["end", name]] == ["train-wide"]
    # None overtakes it, so that it comes to run; with more places than there are it takes all.
    assert when["start", "train-large"] < start < min(when["start", "train-middle"], when["start", "train-small"])
    wide = [replace(task("train-wider", work), places=5)]
    run_study(make_study(tmp_path, tasks + wide))
    assert ("end", "train-wider") in {(word, name) for word, name, _ in events(tmp_path)}


def test_crash_is_retried_once_and_the_rest_goes_on(tmp_path, capsys):
    flaky = (
        "note('start')\n"
        "if not os.path.exists('seen'):\n"
        "    open('seen', 'w'); print('first time'); os.kill(os.getpid(), signal.SIGSEGV)\n"
    )
    broken = "note('start'); print('line one'); print('the last words', file=sys.stderr); exit(7)"
    tasks = [
        task("train-flaky", flaky, flops=3.0),
        task("train-broken", broken, flops=2.0),
        task("train-fine", "note('start')", flops=1.0),
        task("train-lying", "note('start')", outputs=["never-written"], flops=0.5),
        task("evaluate-broken", "note('start')", ["train-broken"]),
        task("collect", "note('start')", ["evaluate-broken", "train-fine"]),
    ]
    with pytest.raises(SystemExit) as stop:
        run_study(make_study(tmp_path, tasks))
    assert stop.value.code == (
        "study.py: 2 of 6 tasks failed (train-broken: exit code 7; train-lying); 2 not run "
        "because of it: evaluate-broken, collect; the same command tries again"
    )
    assert Counter(name for _, name, _ in events(tmp_path)) == {
        "train-flaky": 2, "train-broken": 2, "train-fine": 1, "train-lying": 2,
    }  # fmt: skip
    state = tmp_path / "studies/toy/state"
    assert sorted(p.stem for p in state.glob("*.json")) == ["train-fine", "train-flaky"]
    assert json.loads((state / "train-flaky.json").read_text())["attempts"] == 2
    out = capsys.readouterr().out
    assert "train-flaky crashed and is run once more" in out and "first time" in out
    assert "train-broken FAILED (exit code 7; " in out and "        the last words" in out
    assert "exit code 0 without never-written" in out
    log = (tmp_path / "studies/toy/logs/train-broken.log").read_text()
    assert log.count("\nline one\nthe last words\n") == 2


def test_user_error_is_passed_on_without_retry(tmp_path):
    tasks = [
        task("prepare", "note('start'); print('x'); print('prepare.py: error: no disk'); exit(2)"),
        task("train-a", "note('start')", ["prepare"], flops=1.0),
    ]
    with pytest.raises(InputError, match=r"\(prepare: prepare.py: error: no disk\); 1 not run"):
        run_study(make_study(tmp_path, tasks))
    assert len(events(tmp_path)) == 1


SCRIPT = """
import sys
from pathlib import Path
from llama_scale.cli import run_cli
from llama_scale.scaling.study.runner import run_study
from tests.llama_scale.scaling.study.helpers import kill_tasks, make_study
run_cli(lambda: run_study(make_study(Path.cwd(), kill_tasks())), resumes=True)
"""


def start_script(root):
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT],
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for(condition, seconds=240.0):
    """Wait, on however loaded a machine; the limit is for what never comes."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.02)


def alive(root):
    pids = [int(path.name.removeprefix("pid-")) for path in root.glob("pid-*")]
    running = [pid for pid in pids if psutil.pid_exists(pid)]
    return [pid for pid in running if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE]


def test_sigkill_leaves_no_orphan_and_the_rerun_repeats_nothing(tmp_path):
    study = start_script(tmp_path)
    wait_for(lambda: Counter(w for w, _, _ in events(tmp_path))["start"] == 8)
    state = tmp_path / "studies/toy/state"
    wait_for(lambda: len(alive(tmp_path)) == 3 and len(list(state.glob("train-?.json"))) == 6)
    study.kill()
    study.wait()
    wait_for(lambda: not alive(tmp_path))
    done = {path.stem for path in (tmp_path / "studies/toy/state").glob("*.json")}
    assert done == {f"train-{i}" for i in range(6)}

    (tmp_path / "hurry").touch()
    again = start_script(tmp_path)
    output, _ = again.communicate(timeout=240)
    assert again.returncode == 0, output
    assert "6 of 9 tasks already done" in output
    counts = Counter(name for word, name, _ in events(tmp_path) if word == "end")
    assert counts == {t.name: 1 for t in kill_tasks()}
    wait_for(lambda: not alive(tmp_path))  # the sleeping grandchild of a finished task, too


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_stops_the_tasks_and_exits_130(tmp_path, number):
    study = start_script(tmp_path)
    wait_for(lambda: Counter(w for w, _, _ in events(tmp_path))["start"] == 8)
    study.send_signal(number)
    output, _ = study.communicate(timeout=30)
    assert study.returncode == 130
    assert "interrupted; the same command continues" in output
    wait_for(lambda: not alive(tmp_path))


def test_processes_have_a_grace_to_stop_and_are_then_killed(tmp_path):
    polite = "signal.signal(signal.SIGTERM, lambda *_: (note('stopped'), exit(143)))\nnote('start'); time.sleep(60)"
    deaf = "signal.signal(signal.SIGTERM, signal.SIG_IGN); note('start'); time.sleep(60)"
    tasks = [task("train-polite", polite), task("train-deaf", deaf)]
    state = State(tmp_path / "state", tmp_path, tasks)
    study = make_study(tmp_path, tasks)

    def interrupt():
        wait_for(lambda: len(events(tmp_path)) == 2)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with Progress(study, state, 2) as progress, pytest.raises(KeyboardInterrupt):
        executor = LocalExecutor(state, tmp_path / "logs", [{}, {}], progress, import_path=ROOT, grace=0.5)
        executor.run()
    thread.join()
    assert [name for word, name, _ in events(tmp_path) if word == "stopped"] == ["train-polite"]
    assert [r.process.returncode for r in executor.running] == [143, -signal.SIGKILL]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_what_crashes_while_stopping_is_not_run_again(tmp_path, monkeypatch):
    tasks = [task("train-a", "exit(7)")]
    state = State(tmp_path / "state", tmp_path, tasks)

    def interrupted(_):
        """The process crashes and the signal to stop arrives while the executor waits."""
        executor.running[0].process.wait()
        os.kill(os.getpid(), signal.SIGTERM)

    with Progress(make_study(tmp_path, tasks), state, 1) as progress:
        executor = LocalExecutor(state, tmp_path / "logs", [{}], progress, import_path=ROOT, grace=0.5)
        monkeypatch.setattr("llama_scale.scaling.study.backends.local.time.sleep", interrupted)
        with pytest.raises(KeyboardInterrupt):
            executor.run()
    assert (tmp_path / "logs/train-a.log").read_text().count("$ ") == 1
    assert [failure.reason for failure in executor.failures] == ["exit code 7"]


def test_lock(tmp_path, monkeypatch):
    monkeypatch.setattr("llama_scale.files.LOCK_PATIENCE", 0.2)
    folder = tmp_path / "studies/toy"
    folder.mkdir(parents=True)
    with open(folder / "lock", "w+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write("4321\n")
        file.flush()
        with pytest.raises(InputError, match="process 4321 is running this study; wait for it"):
            run_study(make_study(tmp_path, []))
    run_study(make_study(tmp_path, []))


def test_changed_study_is_refused_where_runs_exist(tmp_path):
    runs = plan_runs(make_study(tmp_path, []).config, "data/d")
    shape = {"S1": {"d_model": 64, "n_layers": 6}, "S2": {"d_model": 128}}

    def study(**changes):
        return make_study(tmp_path, [], runs, **({"sizes": shape} | changes))

    run_study(study())
    run_study(study(train={"model.vocab_size": 512}))  # nothing has been trained yet
    run_study(study())
    folder = tmp_path / "runs/toy" / runs[0].name
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("x: 1\n")
    run_study(study(suites=["perplexity"], sizes=shape | {"S2": {"d_model": 99}}))
    changes = {
        "train.model.vocab_size is 512": {"train": TRAIN | {"model.vocab_size": 512}},
        "train.optim.lr is 0.1": {"train": TRAIN | {"optim.lr": 0.1}},
        "sizes.S1.n_layers is 7": {"sizes": shape | {"S1": {"d_model": 64, "n_layers": 7}}},
        "data.name is e": {"data": {"name": "e"}},
    }
    for words, change in changes.items():
        with pytest.raises(InputError, match=rf"^toy.yaml: {words}, but S1-100k-seed0 was trained"):
            run_study(study(**change))


def test_foreign_study_yaml_is_not_taken_for_the_past(tmp_path):
    runs = plan_runs(make_study(tmp_path, []).config, "data/d")
    folder = tmp_path / "runs/toy" / runs[0].name
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("x: 1\n")
    path = tmp_path / "studies/toy/study.yaml"
    path.parent.mkdir(parents=True)
    for text, message in (("- 1\n", "not the settings of a study"), ("a: [\n", "not valid YAML")):
        path.write_text(text)
        with pytest.raises(InputError, match=rf"studies/toy/study.yaml: {message}"):
            run_study(make_study(tmp_path, [], runs))
        assert path.read_text() == text


def test_runs_folder_that_is_no_link_is_not_touched(tmp_path):
    mine = tmp_path / "studies/toy/runs"
    mine.mkdir(parents=True)
    with pytest.raises(InputError, match="studies/toy/runs: not a link"):
        run_study(make_study(tmp_path, []))
    assert mine.is_dir() and not mine.is_symlink()


def test_time_left(tmp_path):
    tasks = [
        Task("prepare", ("x",)),
        Task("train-a", ("x",), flops=100.0),
        Task("train-b", ("x",), flops=300.0),
        Task("evaluate-a", ("x",), ("train-a",)),
        Task("evaluate-b", ("x",), ("train-b",)),
        Task("fit", ("x",)),
    ]
    state = State(tmp_path / "state", tmp_path, tasks)
    progress = Progress(make_study(tmp_path, tasks), state, slots=2)
    assert progress.seconds_left() is None
    for name, seconds in (("prepare", 30.0), ("train-a", 20.0), ("evaluate-a", 6.0)):
        state.done.add(name)
        state.records[name] = {"seconds": seconds}
    # .2 s a FLOP: 60 s of b and 6 s of its evaluation over two slots, and the fit's guess of 15.
    assert progress.seconds_left() == pytest.approx((60 + 6) / 2 + 15)
    assert clock(3725) == "1:02:05" and clock(65.4) == "1:05"


def test_slots(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,GPU-abc")
    assert gpus() == ["2", "GPU-abc"]
    assert pick_slots("auto", "auto", None) == [{"CUDA_VISIBLE_DEVICES": "2"}, {"CUDA_VISIBLE_DEVICES": "GPU-abc"}]
    used = [slot["CUDA_VISIBLE_DEVICES"] for slot in pick_slots("cuda", 3, None)]
    assert used == ["2", "GPU-abc", "2"]
    one = {"OMP_NUM_THREADS": "1"}
    assert pick_slots("cpu", "auto", 1) == [one] * cpu_count()
    assert pick_slots("cpu", 3, 1) == [one] * 3
    assert pick_slots("cpu", "auto", None) == [{}]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    fake = tmp_path / "nvidia-smi"
    fake.write_text("#!/bin/sh\necho 'GPU 0: X (UUID: a)'\necho 'GPU 1: X (UUID: b)'\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert gpus() == ["0", "1"]
    fake.write_text("#!/bin/sh\necho 'no driver'\nexit 9\n")
    assert gpus() == []


@pytest.mark.parametrize(
    ("visible", "names"),
    [
        ("-1", []), ("NoDevFiles", []), ("", []), ("0,-1,1", ["0"]), ("1, 0", ["1", "0"]), ("0,0", []),
        ("MIG-a,GPU-b", ["MIG-a", "GPU-b"]),
    ],
)  # fmt: skip
def test_gpus_are_those_that_cuda_sees(monkeypatch, visible, names):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert gpus() == names
    assert pick_slots("auto", "auto", None) == ([{"CUDA_VISIBLE_DEVICES": name} for name in names] or [{}])


def test_runs_that_share_a_gpu_are_told_their_part_of_its_memory(tmp_path):
    def started(slots, stage="train"):
        flag = tmp_path / "argv"
        command = (sys.executable, "-c", f"import sys; open({str(flag)!r}, 'w').write(' '.join(sys.argv[1:]))")
        state = State(tmp_path / f"state-{len(slots)}-{stage}", tmp_path, [Task(f"{stage}-a", command)])
        silent = SimpleNamespace(**dict.fromkeys(("started", "finished", "retried", "failed", "tick"), lambda _: None))
        executor = LocalExecutor(state, tmp_path / "logs", slots, silent, import_path=tmp_path)
        assert executor.run() == []
        return flag.read_text()

    one = {"CUDA_VISIBLE_DEVICES": "0"}
    assert started([one] * 4) == "--memory_share=0.25"
    assert started([one] * 4, "evaluate") == ""
    assert started([one, {"CUDA_VISIBLE_DEVICES": "1"}]) == ""
    assert started([{}] * 3) == ""


def test_time_in_the_queue_and_output_of_earlier_tries_are_left_out(tmp_path, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    log = tmp_path / "one.log"
    log.write_text("said the first time\n")
    job = SlurmAttempt(task=task("one", ""), number=2, log=log, log_start=20, job=None, started=clock[0])
    for clock[0] in (500.0, 900.0):
        job.restart_clock_in_queue()
        assert (job.seconds, job.tail()) == (0, [])
    with open(log, "a") as file:
        file.write("$ one\nsaid now\n")
    for clock[0] in (905.0, 960.0):
        job.restart_clock_in_queue()
    assert job.seconds == 60
    assert job.tail() == ["$ one", "said now"]


def test_exits_in_words():
    assert describe_exit(3, []) == "exit code 3"
    assert describe_exit(-signal.SIGSEGV, []) == "killed by SIGSEGV"
    assert describe_exit(-signal.SIGKILL, []) == "killed by SIGKILL, perhaps out of memory"
