"""Tasks forked from a warm interpreter: as from one of their own, and none outlives its study."""

import json
import os
import signal
import sys
import time

import pytest

from llama_scale.scaling.study.backends.local import group_that_dies_with_us
from llama_scale.scaling.study.backends.warm import WarmServer

SCRIPT = """
import json, os, random, sys, time
print(json.dumps({
    "argv": sys.argv, "name": __name__, "path": sys.path[0], "cwd": os.getcwd(), "group": os.getpgid(0),
    "warm": "colorsys" in sys.modules, "state": "left" in vars(sys), "random": random.random(), "pid": os.getpid(),
}), flush=True)
print("to stderr", file=sys.stderr)
sys.left = True
if sys.argv[1] == "wait":
    time.sleep(600)
sys.exit(int(sys.argv[1]))
"""


@pytest.fixture
def server(tmp_path):
    (tmp_path / "task.py").write_text(SCRIPT)
    with group_that_dies_with_us() as group:
        warm = WarmServer(["colorsys"], dict(os.environ), tmp_path / "warm.log", group)
        yield warm
        warm.close()


def start(server, folder, argument, log="log"):
    return server.start((sys.executable, str(folder / "task.py"), argument), folder, folder / log)


def test_a_forked_task_is_as_one_of_its_own(server, tmp_path):
    (tmp_path / "log").write_text("$ before\n")
    first, second = start(server, tmp_path, "0"), start(server, tmp_path, "7", "other")
    assert (first.wait(), second.wait()) == (0, 7)
    before, told, error = (tmp_path / "log").read_text().splitlines()
    assert (before, error) == ("$ before", "to stderr")
    told, other = json.loads(told), json.loads((tmp_path / "other").read_text().splitlines()[0])
    assert told["argv"] == [str(tmp_path / "task.py"), "0"]
    assert (told["name"], told["path"], told["cwd"]) == ("__main__", str(tmp_path), str(tmp_path))
    assert told["group"] == server.group and told["pid"] == first.pid
    assert told["warm"] and not told["state"] and not other["state"]
    assert told["random"] != other["random"]


def test_a_task_is_stopped_and_killed(server, tmp_path):
    stopped, killed = start(server, tmp_path, "wait"), start(server, tmp_path, "wait", "other")
    assert stopped.poll() is None
    stopped.terminate()
    killed.kill()
    assert (stopped.wait(), killed.wait()) == (-signal.SIGTERM, -signal.SIGKILL)


def test_tasks_die_with_the_server(server, tmp_path):
    task = start(server, tmp_path, "wait")
    deadline = time.monotonic() + 60
    while not (tmp_path / "log").exists() or not (tmp_path / "log").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(server.server.pid, signal.SIGKILL)
    assert task.wait() == -signal.SIGKILL
    while os.path.exists(f"/proc/{task.pid}"):
        assert time.monotonic() < deadline, "the task outlived its server"
        time.sleep(0.05)
    with pytest.raises(OSError):
        start(server, tmp_path, "0")


def test_a_server_that_cannot_import_forks_nothing(tmp_path):
    with group_that_dies_with_us() as group:
        warm = WarmServer(["no_such_module"], dict(os.environ), tmp_path / "warm.log", group)
        with pytest.raises(OSError):
            warm.start((sys.executable, "task.py", "0"), tmp_path, tmp_path / "log")
        warm.close()
    assert "no_such_module" in (tmp_path / "warm.log").read_text()
