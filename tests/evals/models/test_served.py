"""A server of ours as others use it: lm-eval's local-completions, and this project's own evaluation."""

import httpx2
import pytest
import torch

from evals.benchmarks import humaneval
from evals.models.checkpoint import CheckpointCompleter
from evals.models.request import Request
from evals.models.server import ServerCompleter
from evals.perplexity import reference_bits_per_byte
from llama_scale.generation.sampling import SamplingConfig
from tests.llama_scale.serving.conftest import Server, runs, served, server, small_model, tokenizer, write_run  # noqa: F401, fixtures

PROMPTS = [f'def f{n}(x):\n    """{word} x."""\n' for n, word in enumerate(["Add", "é", "Sort a", "x" * 90] * 5)]


@pytest.mark.parametrize("temperature", [0, 0.9])
def test_greedy_completions_are_those_drawn_here(server, served, temperature):  # noqa: F811
    sampling = SamplingConfig(temperature=temperature, max_new_tokens=24, stop=("\ndef", "\nclass", "x =", "a", "b"))
    prompts = dict(enumerate(PROMPTS))
    local = CheckpointCompleter(served.llama, served.tokenizer).complete(Request(prompts, sampling))
    over_http = ServerCompleter(f"{server.url}/v1", "a").complete(Request(prompts, sampling))
    if temperature == 0:
        expected = {row.task: row.text for row in local}
        assert {row.task: row.text for row in over_http} == expected
        assert len(set(expected.values())) > 5
    else:  # with seeds of its own
        again = ServerCompleter(f"{server.url}/v1", "a").complete(Request(prompts, sampling))
        assert {row.task: row.text for row in over_http} == {row.task: row.text for row in again}


@pytest.mark.slow
def test_all_of_humaneval_is_completed_as_here(tmp_path, tokenizer):  # noqa: F811
    model = small_model(tokenizer, context_length=4096)
    serving = Server(write_run(tmp_path / "runs" / "a", model, tokenizer.path).parent)
    sampling = SamplingConfig(temperature=0, max_new_tokens=32, stop=humaneval.STOPS["codex"])
    request = Request({n: row["prompt"] for n, row in enumerate(humaneval.problems())}, sampling)
    try:
        over_http = {row.task: row.text for row in ServerCompleter(f"{serving.url}/v1", "a").complete(request)}
    finally:
        serving.close()
    assert over_http == {row.task: row.text for row in CheckpointCompleter(model, tokenizer).complete(request)}
    assert len(over_http) == 164 and len(set(over_http.values())) > 50


WORDS = ["return x\n", "x = 1\n", "pass\n", "é = 'a'\n", "for i in range(10):\n        x += i\n"]


def test_echoed_scores_are_those_of_references(server, served):  # noqa: F811
    """The log-likelihoods of 50 solutions after their prompts, as evaluation scores them here."""
    encode = served.tokenizer.encode
    pairs = [(prompt, f"    {word}") for prompt in PROMPTS[:10] for word in WORDS]
    ours = reference_bits_per_byte(served.llama, served.tokenizer, pairs)
    body = {"model": "a", "max_tokens": 0, "echo": True, "logprobs": 1}
    body["prompt"] = [encode(prompt) + encode(solution) for prompt, solution in pairs]
    choices = httpx2.post(f"{server.url}/v1/completions", json=body, timeout=60).json()["choices"]
    assert len(choices) == 50
    for (prompt, _), choice, score in zip(pairs, choices, ours.tasks, strict=True):
        nats = -sum(choice["logprobs"]["token_logprobs"][len(encode(prompt)) :])
        assert nats == pytest.approx(score.nats, abs=1e-4)


def test_lm_eval_scores_as_the_model_does(server, served, monkeypatch):  # noqa: F811
    """Its log-likelihoods of 50 continuations, by its own client with the tokenizer of the server."""
    completions = pytest.importorskip("lm_eval.models.openai_completions", reason="lm_eval is not installed")
    instance = pytest.importorskip("lm_eval.api.instance")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    encode = served.tokenizer.encode
    pairs = [(prompt[:-1], f"\n    {word}") for prompt in PROMPTS[:10] for word in WORDS]  # it moves spaces at an end
    client = completions.LocalCompletionsAPI(
        model="a", base_url=f"{server.url}/v1/completions", tokenizer_backend="auto", max_length=256, num_concurrent=1,
    )  # fmt: skip
    asked = [instance.Instance("loglikelihood", {}, pair, number) for number, pair in enumerate(pairs)]
    found = client.loglikelihood(asked)
    assert len(found) == 50
    for (prompt, continuation), (nats, greedy) in zip(pairs, found, strict=True):
        before = len(encode(prompt))
        ids = encode(prompt) + encode(prompt + continuation)[before:]  # as it puts them together
        with torch.inference_mode():
            logprobs = served.llama(torch.tensor([[served.tokenizer.eos, *ids]]))[0].log_softmax(-1)  # (T + 1, V)
        targets = range(before, len(ids))
        assert nats == pytest.approx(sum(float(logprobs[t, ids[t]]) for t in targets), abs=1e-4)
        assert greedy == all(int(logprobs[t].argmax()) == ids[t] for t in targets)
