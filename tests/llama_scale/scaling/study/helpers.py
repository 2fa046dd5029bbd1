"""Studies of tasks that are small Python programs, which note what happens in events.txt."""

import sys

from llama_scale.scaling.study.backends.task import Task
from llama_scale.scaling.study.grids import Grid
from llama_scale.scaling.study.plan import Study
from llama_scale.scaling.study.settings import StudyConfig
from tests.conftest import ROOT

TRAIN = {"model.vocab_size": 256, "model.context_length": 64}


def task(name, code, inputs=(), outputs=(), flops=0.0, metrics=None):
    """A task that is a Python program; ``note(word)`` appends a line to events.txt."""
    note = (
        "import os, time, sys, signal\n"
        "exit = sys.exit\n"
        "def note(word):\n"
        f"    with open('events.txt', 'a') as f: f.write(f'{{word}} {name} {{time.time()}}\\n')\n"
    )
    argv = (sys.executable, "-S", "-c", note + code)
    return Task(name, argv, tuple(inputs), tuple(outputs), flops, metrics)


def make_study(root, tasks, runs=(), parallel=2, train=TRAIN, **settings):
    config = StudyConfig("toy", [Grid(["S1"], [1e5])], device="cpu", threads=1, parallel=parallel, train=dict(train))
    settings = {"data": {"name": "d"}, "sizes": {}, "train": dict(train)} | settings
    return Study(config, "toy.yaml", root, ROOT / "launch", list(runs), list(tasks), settings)


def events(root):
    text = (root / "events.txt").read_text() if (root / "events.txt").exists() else ""
    return [(word, name, float(when)) for word, name, when in map(str.split, text.splitlines())]


def kill_tasks():
    """Eight short tasks and two long ones, one of which has a child of its own."""
    pid = "open(f'pid-{os.getpid()}', 'w').close()\n"
    long = pid + "note('start'); time.sleep(0 if os.path.exists('hurry') else 60); note('end')"
    parent = f"if not os.fork():\n    {pid}    time.sleep(60)\n" + long
    tasks = [task(f"train-{i}", pid + "note('start'); time.sleep(.1); note('end')", flops=9 - i)
             for i in range(6)]  # fmt: skip
    tasks += [task("train-long", long, flops=0.2), task("train-parent", parent, flops=0.1)]
    return [*tasks, task("collect", "note('end')", [t.name for t in tasks])]
