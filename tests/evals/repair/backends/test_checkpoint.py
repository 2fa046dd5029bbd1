"""A checkpoint as a backend: an answer is that of its ask alone, whatever stands beside it."""

import json

import pytest

from evals.repair.backends.load import open_backend
from evals.repair.backends.protocol import Ask, BackendConfig, Message, task_of
from llama_scale.errors import InputError
from llama_scale.generation.config import SamplingConfig
from llama_scale.generation.generate import generate
from tests.evals.repair.helpers import write_tasks

SAMPLING = SamplingConfig(temperature=0.9, max_new_tokens=12, seed=4, stop=("\n\n",))


def asks(n=1):
    """Tasks of several lengths over two rounds; the last two have the keys of the first two and other prompts."""
    known = [Ask((Message("user", "def f(x):\n" * (1 + t % 3)),), (t, r, 0, 0), n) for r in range(2) for t in range(5)]
    return known + [Ask((Message("user", f"# other\n{ask.messages[0].content}"),), ask.key, n) for ask in known[:2]]


def opened(run, **settings):
    return open_backend(BackendConfig(model=str(run), device="cpu", precision="fp32", **settings), None)


@pytest.mark.parametrize("n", [1, 3])
def test_answers_are_equal_for_every_batch_size_and_to_those_drawn_alone(run, n):
    wanted = asks(n)
    found = [dict(opened(run, batch_size=size).ask(wanted, SAMPLING)) for size in (1, 8, 64)]
    assert found[0] == found[1] == found[2] and sorted(found[0]) == list(range(len(wanted)))
    backend = opened(run)
    for number, ask in enumerate(wanted):
        prompt, task = ask.messages[0].content, task_of(ask.key)
        rows = list(generate(backend.model.model, backend.model.tokenizer, [prompt], SAMPLING, n, 1, tasks=[task]))
        assert [row.text for row in rows] == [reply.text for reply in found[0][number]]
        assert [len(row.context) for row in rows] == [reply.prompt_tokens for reply in found[0][number]]
        assert [len(row.tokens) for row in rows] == [reply.tokens for reply in found[0][number]]


def test_two_processes_give_the_answers_of_one(run, tmp_path):
    """The file of replies too, but for the order in which they came."""
    one, two = opened(run), opened(run, processes=2, threads=1)
    try:
        assert two.identity == one.identity and two.parameters == one.parameters > 0
        assert dict(two.ask(asks(2), SAMPLING)) == dict(one.ask(asks(2), SAMPLING))
    finally:
        two.close()


def test_every_part_of_a_key_gives_other_numbers(run):
    keys = [(1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1), (0, 0, 0, 0)]
    replies = dict(opened(run).ask([Ask((Message("user", "x ="),), key) for key in keys], SAMPLING))
    assert len({reply.text for (reply,) in replies.values()}) == len(keys)


def test_what_a_run_cannot_do_is_one_line(run, tmp_path):
    for settings, words in (
        ({"form": "chat"}, r"backend\.form: .* continues texts"),
        ({"preset": "phi-3-mini"}, r"backend\.preset: .* continues texts"),
        ({"preset": "phi-4"}, r"backend\.preset: phi-4 is not known; give one of distilgpt2, "),
        ({"preset": "deberta"}, r"backend\.preset: microsoft/deberta-v3-base is an encoder"),
    ):
        with pytest.raises(InputError, match=words):
            opened(run, **settings)
    with pytest.raises(InputError, match="no such run, folder or file"):
        opened(tmp_path / "none")
    with pytest.raises(InputError, match="batch_size"):
        BackendConfig(batch_size=0)


def test_a_run_goes_through_the_command_and_its_replies_give_the_same_figures(run, launch, tmp_path):
    data = write_tasks(tmp_path / "tasks.jsonl", 2)
    common = ["--mbpp.data", data, "--plan.arms", "resample,tests:interpreter", "--plan.rounds", 1]
    common += ["--select", "first_visible", "--sampling.max_new_tokens", 8, "--execution.workers", 1]
    code, out, err = launch("repair.py", *common, "--backend.model", run, "--out", tmp_path / "a")
    assert code == 0, err
    assert "2 tasks" in out
    kept = tmp_path / "a" / "repair-mbpp-replies.jsonl"
    assert launch("repair.py", *common, "--backend.model", kept, "--out", tmp_path / "b")[0] == 0
    results = [json.loads((tmp_path / name / "repair-mbpp.json").read_text()) for name in "ab"]
    assert results[0]["arms"] == results[1]["arms"] and results[0]["backend"]["step"] == 7
