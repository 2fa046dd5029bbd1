"""Completions join as others end, and nobody sees it."""

from collections.abc import Sequence

import pytest
import torch

from llama_scale.data.tokenizer import Tokenizer
from llama_scale.generation.completion import Completion
from llama_scale.generation.generate import generate
from llama_scale.generation.running_batch import MOST_COHORTS, whole_prompts
from llama_scale.generation.sampling import SamplingConfig
from llama_scale.model.llama import Llama
from tests.llama_scale.helpers import small

PROMPTS = [f"x = {'a' * n}" for n in range(12)]


@pytest.fixture(scope="module")
def tokenizer(tiny_data):
    return Tokenizer(tiny_data / "tokenizer.model")


@pytest.fixture(scope="module")
def model(tokenizer):
    model = Llama(small(vocab_size=tokenizer.vocab_size, context_length=128)).init_weights(1)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data *= 6
    return model.eval()


@pytest.fixture
def uneven(monkeypatch):
    """Let completions end after 1, 5, 9, ... tokens, by task and sample."""
    push = Completion.push

    def short(self, token, piece, stops, limit):
        push(self, token, piece, stops, min(limit, 1 + 4 * ((3 * self.task + self.sample) % 7)))

    monkeypatch.setattr(Completion, "push", short)


def drawn(model, tokenizer, sampling, **settings):
    return {(row.task, row.sample): row.tokens for row in generate(model, tokenizer, PROMPTS, sampling, **settings)}


@pytest.mark.parametrize("sampling", [SamplingConfig(0, 1.0, None, 30), SamplingConfig(1.0, 0.9, 20, 30, seed=3)])
def test_texts_are_those_of_rows_alone(model, tokenizer, uneven, sampling):
    alone = drawn(model, tokenizer, sampling, batch_size=1, n_samples=3)
    assert len(alone) == 36 and len({len(tokens) for tokens in alone.values()}) > 3
    for size in (2, 5, 8, 64):
        assert drawn(model, tokenizer, sampling, batch_size=size, n_samples=3) == alone, size


def test_places_that_are_free_are_taken(model, tokenizer, uneven, monkeypatch):
    rows, hidden = [], model.hidden

    def record(tokens, cache=None):
        rows.extend([len(tokens)] if tokens.shape[1] == 1 else [])
        return hidden(tokens, cache)

    monkeypatch.setattr(model, "hidden", record)
    sampling = SamplingConfig(1.0, 1.0, None, 30)
    drawn(model, tokenizer, sampling, batch_size=4, n_samples=2)
    assert max(rows) <= 4
    running = len(rows)
    monkeypatch.setattr("llama_scale.generation.running_batch.MOST_COHORTS", 1)
    rows.clear()
    drawn(model, tokenizer, sampling, batch_size=4, n_samples=2)
    assert running < 0.75 * len(rows)
    assert MOST_COHORTS > 1


def test_samples_of_a_prompt_come_together_and_in_order(model, tokenizer, uneven):
    sampling = SamplingConfig(1.0, 1.0, None, 30)
    found = [(row.task, row.sample) for row in generate(model, tokenizer, PROMPTS, sampling, 5, batch_size=3)]
    assert [sample for _, sample in found] == [0, 1, 2, 3, 4] * 12
    assert all(found[start][0] == found[start + 4][0] for start in range(0, 60, 5))


@pytest.mark.parametrize(
    ("prompts", "most", "count"),
    [("aaabbb", 5, 3), ("aaabbb", 2, 2), ("aaabbb", 6, 6), ("ab", 9, 2), ("abbbbbb", 5, 5)],
)
def test_whole_prompts_begin_where_they_are_half_of_the_room(prompts: Sequence[str], most, count):
    contexts = {letter: [1, 2] for letter in prompts}
    rows = [Completion(0, n, contexts[letter], False) for n, letter in enumerate(prompts)]
    assert whole_prompts(rows, most) == count


def test_no_inference_tensor_is_left_in_the_model(model):
    assert not any(torch.is_inference(parameter) for parameter in model.parameters())
