"""Kept replies: nothing is asked twice, and the file answers without the backend."""

import json

import pytest

from evals.repair.backends.load import open_backend
from evals.repair.backends.protocol import Ask, BackendConfig, Message
from evals.repair.backends.replies import KeptReplies, Replay
from evals.repair.backends.scripted import Scripted
from llama_scale.errors import InputError
from llama_scale.generation.config import SamplingConfig

SAMPLING = SamplingConfig()


def asks(*tasks, n=1):
    return [Ask((Message("user", f"task {task}"),), (task, 0, 0, 0), n) for task in tasks]


def answer(ask, number):
    return f"answer {ask.key[0]}.{number}"


def texts(backend, wanted, sampling=SAMPLING):
    found = dict(backend.ask(wanted, sampling))
    return [[reply.text for reply in found[number]] for number in range(len(wanted))]


def test_equal_asks_are_asked_once_and_all_are_answered(tmp_path):
    scripted = Scripted(answer)
    kept = KeptReplies(scripted, tmp_path / "replies.jsonl")
    first, second = ["answer 1.0", "answer 1.1"], ["answer 2.0", "answer 2.1"]
    assert texts(kept, asks(1, 2, 1, n=2)) == [first, second, first]
    assert [ask.key[0] for ask in scripted.asked] == [1, 2]
    again = KeptReplies(Scripted(lambda *_: pytest.fail("asked")), tmp_path / "replies.jsonl")
    assert texts(again, asks(2, 1, n=2)) == [second, first]
    assert all(reply.cached for _, replies in again.ask(asks(1, n=2), SAMPLING) for reply in replies)


def test_another_sampling_key_model_or_text_is_asked_anew(tmp_path):
    scripted = Scripted(answer)
    kept = KeptReplies(scripted, tmp_path / "replies.jsonl")
    texts(kept, asks(1))
    texts(kept, asks(1), SamplingConfig(seed=1))
    texts(kept, [Ask((Message("user", "task 1"),), (1, 1, 0, 0))])
    texts(kept, [Ask((Message("user", "other"),), (1, 0, 0, 0))])
    texts(KeptReplies(Scripted(answer, "other"), tmp_path / "replies.jsonl"), asks(1))
    assert len(scripted.asked) == 4 and len(Replay(tmp_path / "replies.jsonl").known) == 5


def test_what_came_before_a_kill_is_kept(tmp_path):
    path = tmp_path / "replies.jsonl"
    drawing = KeptReplies(Scripted(answer), path).ask(asks(1, 2, 3), SAMPLING)
    next(drawing), next(drawing)
    drawing.close()
    with open(path, "a") as file:
        file.write('\n{"ask": "torn", "repl')
    scripted = Scripted(answer)
    assert texts(KeptReplies(scripted, path), asks(1, 2, 3)) == [["answer 1.0"], ["answer 2.0"], ["answer 3.0"]]
    assert [ask.key[0] for ask in scripted.asked] == [3]


def test_a_file_of_replies_is_a_backend(tmp_path):
    path = tmp_path / "x-replies.jsonl"
    texts(KeptReplies(Scripted(answer, "m", chat=False), path), asks(1, 2))
    replay = open_backend(BackendConfig(str(path)), None)
    assert replay.identity == {"backend": "scripted", "name": "m"} and replay.chat is False
    assert texts(replay, asks(2, 1)) == [["answer 2.0"], ["answer 1.0"]]
    with pytest.raises(InputError, match="has no reply to task 3, round 0 with these settings"):
        texts(replay, asks(3))


def test_what_is_no_backend_is_refused(tmp_path):
    other = tmp_path / "other.jsonl"
    other.write_text(json.dumps({"format": "llama_scale.replies.v0"}) + "\n")
    for model, words in (
        (None, r"backend\.model: name a run"),
        (str(other), r"llama_scale\.replies\.v0, expected llama_scale\.replies\.v1"),
        (str(tmp_path / "none.jsonl"), "no such file"),
    ):
        with pytest.raises(InputError, match=words):
            open_backend(BackendConfig(model), None)
