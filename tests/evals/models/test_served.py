"""A server of ours as others use it: lm-eval's local-completions, and this project's own evaluation."""

import pytest

from evals.models.checkpoint import CheckpointCompleter
from evals.models.request import Request
from evals.models.server import ServerCompleter
from evals.perplexity import reference_bits_per_byte
from llama_scale.generation.sampling import SamplingConfig
from tests.llama_scale.serving.conftest import runs, served, server, tokenizer  # noqa: F401, fixtures

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


def test_lm_eval_scores_as_we_do(server, served, monkeypatch):  # noqa: F811
    """Its log-likelihoods of 50 continuations, by its own client with the tokenizer of the server."""
    completions = pytest.importorskip("lm_eval.models.openai_completions", reason="lm_eval is not installed")
    instance = pytest.importorskip("lm_eval.api.instance")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    tokenizer = served.tokenizer  # noqa: F811
    words = ["return x\n", "x = 1\n", "pass\n", "é = 'a'\n", "for i in range(10):\n        x += i\n"]
    pairs = [(prompt, f"    {word}") for prompt in PROMPTS for word in words]
    pairs = [(a, b) for a, b in pairs if tokenizer.encode(a) + tokenizer.encode(b) == tokenizer.encode(a + b)][:50]
    assert len(pairs) == 50
    client = completions.LocalCompletionsAPI(
        model="a", base_url=f"{server.url}/v1/completions", tokenizer_backend="auto", max_length=256, num_concurrent=1,
    )  # fmt: skip
    asked = [instance.Instance("loglikelihood", {}, pair, number) for number, pair in enumerate(pairs)]
    found = client.loglikelihood(asked)
    ours = reference_bits_per_byte(served.llama, tokenizer, pairs)
    for (nats, _), score in zip(found, ours.tasks, strict=True):
        assert -nats == pytest.approx(score.nats, abs=1e-4)
