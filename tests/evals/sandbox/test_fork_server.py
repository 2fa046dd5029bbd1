"""The clock of the fork server, with programs forked by the test."""

import os
import signal
import socket
import time
from types import SimpleNamespace

import pytest

from evals.sandbox import load, worker
from evals.sandbox.fork_server import ForkServer
from evals.sandbox.load import EXTENSIONS, SLICES, SLOWEST, Load, Pace
from evals.sandbox.types import Program


class Said(Load):
    """A machine that says whether it is overloaded, and how often it was asked."""

    def __init__(self, *answers):
        self.files, self.answers, self.asked = [], answers, 0
        self.tasks = None

    def overloaded(self, before, seconds):
        self.asked += 1
        return self.answers[min(self.asked, len(self.answers)) - 1]


def drip():
    """Sleep most of the time and work a little, for ever."""
    while True:
        time.sleep(0.005)
        sum(range(10_000))


def waited(play, load, wall=0.1):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        server = ForkServer(theirs, "none", None, load)
        pid = os.fork()
        if pid == 0:
            try:
                ours.send(b"x")
                play()
            finally:
                os._exit(7)
        theirs.recv(1)  # a fork may take long on a busy machine
        return server.wait(pid, wall)


@pytest.mark.parametrize(("answers", "asked"), [([False], 1), ([True], EXTENSIONS + 1), ([True, True, False], 3)])
def test_the_clock_is_set_again_only_while_the_machine_is_overloaded(answers, asked):
    load = Said(*answers)
    load.working = lambda share: True  # whether a tenth of a second came to it is up to the machine
    reply = waited(drip, load)
    assert (load.asked, reply["timed_out"], reply["overloaded"]) == (asked, True, answers[0])
    assert reply["ended"][0] == -signal.SIGKILL


def test_a_program_that_only_sleeps_gets_no_more_time():
    load = Said(True)
    assert waited(lambda: time.sleep(60), load)["timed_out"] and load.asked <= 2  # its start counts as work


def test_a_program_that_ends_is_not_late():
    reply = waited(lambda: None, Said(True), 60)
    assert reply["ended"][0] == 7 and not reply["timed_out"] and not reply["overloaded"]


def test_one_that_slept_is_not_run_again_and_one_that_starved_is():
    reply = {"ended": [-9, 0.3], "timed_out": True}
    late = [worker._clock(reply | {"overloaded": overloaded}, 1.0, 2.0, gone=True) for overloaded in (False, True)]
    assert [(reason, again) for _, reason, again in late] == [("timeout", False), ("timeout", True)]


def test_load_is_the_share_of_time_that_some_task_waited(tmp_path):
    file = tmp_path / "cpu"
    load = Load()
    load.files = [os.open(file, os.O_RDONLY | os.O_CREAT)]
    file.write_text("some avg10=0.00 avg60=0.00 avg300=0.00 total=1000000\nfull avg10=0.00 total=0\n")
    before = load.waited()
    assert before == [1.0]
    file.write_text("some avg10=0.00 avg60=0.00 avg300=0.00 total=7000000\nfull avg10=0.00 total=0\n")
    assert load.overloaded(before, 10.0) and not load.overloaded(before, 13.0)
    load.files = []
    assert load.overloaded([], 1.0)


@pytest.mark.parametrize(
    ("running", "share", "working"),
    [(1, 0.9, True), (1, 0.2, False), (4, 0.2, True), (4, 0.1, False), (40, 0.02, True), (40, 0.01, False),
     (4000, 0.006, True), (4000, 0.004, False)],
)  # fmt: skip
def test_a_program_works_if_it_takes_its_share_of_a_core(tmp_path, monkeypatch, running, share, working):
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    file = tmp_path / "loadavg"
    file.write_text(f"0.20 0.18 0.12 {running}/5000 11206\n")
    load = Load()
    load.tasks = os.open(file, os.O_RDONLY)
    assert load.working(share) is working


@pytest.mark.parametrize(("slices", "slowdown"), [((1.0,), 1.0), ((1.0, 1.6), 1.3), ((1.0, 9.0), SLOWEST)])
def test_pace_is_the_mean_beside_the_least(monkeypatch, slices, slowdown):
    times = [slices[i % len(slices)] for i in range(SLICES)]
    monkeypatch.setattr(load, "slice_seconds", times.pop)
    assert Pace().slowdown() == pytest.approx(slowdown)


def test_the_least_of_all_times_is_what_work_takes_undisturbed(monkeypatch):
    pace, times = Pace(), [1.0] * SLICES
    monkeypatch.setattr(load, "slice_seconds", lambda: times.pop() if times else 1.25)
    assert [pace.slowdown(), pace.slowdown()] == [1.0, 1.25]


@pytest.mark.parametrize(("slowdown", "passed"), [(1.0, False), (1.4, True)])
def test_what_others_made_longer_is_taken_off_a_program_that_was_run_alone(slowdown, passed):
    """It takes a little more than its CPU time; what a loaded machine added to that is not its own."""
    program = Program("import time\ndef f():\n    while time.process_time() < 0.55: pass\n", "f()", ("f",))
    one = worker.Worker("none")
    try:
        one.pace = SimpleNamespace(slowdown=lambda: slowdown)
        first, again = one.run(program, 0.5, 1.0)
        verdict, no_more = one.run(program, 0.5, 0.5)
    finally:
        one.close()
    assert not first.passed and again and not no_more
    assert (verdict.passed, verdict.reason) == ((True, "passed") if passed else (False, "timeout"))
