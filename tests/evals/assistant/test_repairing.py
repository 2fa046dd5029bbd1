"""POST /repair: the rounds of the pipelines' loop as events, and the same answers as a checkpoint gives."""

import json
import time

import httpx2
import pytest

from evals.assistant import repairing
from evals.assistant.repairing import best, changes, read_task
from evals.repair.backends.checkpoint import CheckpointBackend
from evals.repair.backends.protocol import Ask, Message
from evals.repair.backends.scripted import Scripted
from evals.repair.backends.served import ServedBackend, StoppedError
from evals.repair.loop import Step
from evals.repair.outcome import Outcome
from llama_scale.device import Precision
from llama_scale.generation.config import SamplingConfig
from llama_scale.serving.protocol import ProtocolError
from llama_scale.serving.shelf import Loaded
from tests.evals.sandbox.hostile_programs import cheats
from tests.llama_scale.serving.conftest import make_engine, runs, served, tokenizer  # noqa: F401, fixtures

WRONG, RIGHT = "def f(x):\n    return x + x\n", "def f(x):\n    return x * x\n"
TESTS = "assert f(2) == 4\nassert f(3) == 9\n"


def ask(server, **body):
    answer = httpx2.post(f"{server.url}/repair", json={"program": WRONG, "tests": TESTS} | body, timeout=120)
    if answer.status_code != 200:
        return answer.status_code, answer.json()["error"]
    lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if line]
    assert lines[-1] == "[DONE]"
    return 200, [json.loads(line) for line in lines[:-1]]


@pytest.fixture
def answering(monkeypatch):
    def use(*programs):
        class Model(Scripted):
            stopped = False

            def __init__(self, engine, loaded, drawn):
                super().__init__(lambda ask, n: f"```python\n{programs[min(ask.key[1], len(programs)) - 1]}```")

            def stop(self):
                self.stopped = True

        monkeypatch.setattr(repairing, "ServedBackend", Model)

    return use


def test_rounds_come_as_events(assistant, answering):
    answering("def g(:\n", "def square(x):\n    return x * x\n")
    status, events = ask(assistant, seed=3)
    assert status == 200 and [event["type"] for event in events] == ["round", "round", "round", "end"]
    first, broken, renamed, end = events
    assert (first["held"], first["tests"], first["passed"], first["diff"]) == (1, 2, False, [])
    assert "The value is 6, expected is 9." in first["feedback"]
    assert not broken["parses"] and not broken["taken"]
    assert renamed["passed"] and renamed["renamed"] == "square -> f" and "+    return x * x\n" in renamed["diff"]
    assert end["passed"] and end["round"] == 2 and end["seed"] == 3 and "f = square" in end["program"]


def test_what_is_right_needs_no_model(assistant, answering):
    answering("never")
    _, events = ask(assistant, program=RIGHT)
    assert [event["type"] for event in events] == ["round", "end"] and events[1]["passed"] and events[1]["round"] == 0


def test_a_repeat_ends_it_and_nothing_hostile_passes(assistant, answering):
    answering(WRONG)
    _, events = ask(assistant, rounds=5)
    assert [event.get("repeat_of") for event in events[:-1]] == [None, 0] and not events[-1]["passed"]
    for program in list(cheats().values())[:5]:
        answering(program)
        _, events = ask(assistant, rounds=1)
        assert not any(event.get("passed") for event in events), program


def test_a_model_writes_and_is_stopped_when_its_client_leaves(assistant):
    status, events = ask(assistant, rounds=1, max_tokens=24, model="a", temperature=0.9)
    rounds = [event for event in events if event["type"] == "round"]
    text = "".join(event["text"] for event in events if event["type"] == "draft")
    assert status == 200 and len(rounds) == 2 and events[-1]["type"] == "end" and text
    body = {"program": WRONG, "tests": TESTS, "rounds": 10, "max_tokens": 200, "model": "a"}
    with httpx2.stream("POST", f"{assistant.url}/repair", json=body, timeout=60) as answer:
        next(answer.iter_lines())
    deadline = time.monotonic() + 60
    while assistant.engine.rows or assistant.engine.waiting or any(m.users for m in assistant.shelf.loaded.values()):
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"program": ""}, 400, "program: there is nothing"),
        ({"tests": ""}, 400, "tests: expected assertions"),
        ({"tests": "x = 1"}, 400, "tests: expected assertions"),
        ({"tests": "assert ("}, 400, "tests: not Python"),
        ({"critic": "model"}, 400, "critic: expected one of assertion"),
        ({"rounds": 11}, 400, "rounds: expected a whole number from 1 to 10"),
        ({"temperature": "hot"}, 400, "temperature"),
        ({"model": "no"}, 404, "model: there is no 'no'"),
    ],
)
def test_what_cannot_be_repaired_is_refused(assistant, body, status, words):
    found, error = ask(assistant, **body)
    assert found == status and error["message"].startswith(words)


def test_answers_are_those_of_a_checkpoint(served, make_engine):  # noqa: F811
    loaded = Loaded(served, None, "x", Precision(False, "as asked"), None, None)
    sampling = SamplingConfig(temperature=0.8, max_new_tokens=20, seed=4, stop=("zz",))
    asks = [Ask((Message("user", text),), (n, 1, 0, 0), 2) for n, text in enumerate(["def f(x):\n", "# a" * 200, ""])]

    class Model:
        model, tokenizer = served.llama, served.tokenizer

    expected = dict(CheckpointBackend(Model, {}, 8).ask(asks, sampling))
    drawn = []
    backend = ServedBackend(make_engine(), loaded, drawn.append)
    found = dict(backend.ask(asks, sampling))
    assert {n: [r.text for r in replies] for n, replies in found.items()} == {
        n: [r.text for r in replies] for n, replies in expected.items()
    }
    assert [found[n][0].prompt_truncated for n in range(3)] == [False, True, False]
    assert found[1][0].prompt_tokens == expected[1][0].prompt_tokens
    assert sum(map(len, drawn)) == sum(len(replies[0].text) for replies in found.values())
    backend.stop()
    with pytest.raises(StoppedError):
        list(backend.ask(asks, sampling))


def test_the_task_of_a_program():
    shown, visible = read_task(
        WRONG, "import math\nassert f(2) == 4\nfor i in range(3):\n    assert f(i) == math.pow(i, 2)\n"
    )
    assert shown.entry == "f" and len(shown.tests) == 2 and shown.start == WRONG
    assert visible.templates[0].names == ("f",) and visible.templates[0].source == ""
    with pytest.raises(ProtocolError):
        read_task(WRONG, "")


def test_diffs_and_the_best_round():
    assert changes("a\nb\n", "a\nc\n")[2:] == ["@@ -1,2 +1,2 @@\n", " a\n", "-b\n", "+c\n"]
    about = dict.fromkeys(("arm", "task_id", "prompt", "program"), "") | {"number": 0, "sample": 0}
    rows = [(True, False, 1), (True, False, 2), (False, False, 0), (True, False, 2)]
    steps = [Step(**about, round=n, outcome=Outcome(p, q, h, 3, "")) for n, (p, q, h) in enumerate(rows)]
    assert best(steps).round == 1
