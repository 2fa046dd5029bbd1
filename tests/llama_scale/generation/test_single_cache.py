"""The cache of prompts with one sequence each, against the model without one."""

import pytest
import torch

from llama_scale.generation.cuda_graph import Decoder
from llama_scale.generation.generate import generate
from llama_scale.generation.kv_cache import JoinedCaches, KVCache
from llama_scale.generation.sampling import SamplingConfig
from llama_scale.generation.single_cache import SingleCache
from llama_scale.model.llama import Llama
from tests.llama_scale.helpers import SHAPES, small


@torch.no_grad()
@pytest.mark.parametrize("fields", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("lengths", [[12, 5, 1, 12], [12, 12, 12, 12]])
def test_cached_steps_equal_one_pass(fields, lengths):
    """Of prompts of one length and of several; rows leave, in another order, and the cache grows."""
    config = small(**fields)
    model = Llama(config).init_weights(1).eval()
    prompts = torch.randint(0, config.vocab_size, (4, 12))
    cache = SingleCache(config, torch.tensor(lengths), growth=3)
    model(prompts, cache)
    cache.start_sequences(torch.arange(4))
    new = torch.randint(0, config.vocab_size, (4, 25))
    alone = [model(torch.cat([prompts[p, : lengths[p]], new[p]])[None])[0, lengths[p] :] for p in range(4)]
    sequences, decoder = torch.arange(4), Decoder(model, cache)
    for step in range(25):
        if step in (4, 20):
            kept = torch.tensor([3, 0, 1] if step == 4 else [1])
            cache.keep_sequences(kept)
            sequences = sequences[kept]
        logits = model.head(decoder(new[sequences, step]))
        for sequence, row in zip(sequences, logits, strict=True):
            torch.testing.assert_close(row, alone[sequence][step], atol=2e-5, rtol=0)
    assert all(pair.shape[1] == 1 and pair.shape[3] >= 12 + 25 for pair in cache.kv) and len(cache.kv) == 3


@torch.no_grad()
def test_it_joins_another():
    config = small()
    model = Llama(config).init_weights(1).eval()
    prompts, new = torch.randint(0, config.vocab_size, (2, 9)), torch.randint(0, config.vocab_size, (4, 6))
    single, other = SingleCache(config, torch.tensor([9, 4]), growth=3), KVCache(config, torch.tensor([7]), growth=3)
    for cache, prompt_of in ((single, [0, 1]), (other, [0, 0])):
        model(prompts[: len(cache.lengths)], cache)
        cache.start_sequences(torch.tensor(prompt_of))
    decoder = Decoder(model, JoinedCaches([single, other]))
    for step in range(6):
        logits = model.head(decoder(new[:, step]))
    for row, (prompt, length) in enumerate([(0, 9), (1, 4), (0, 7), (0, 7)]):
        alone = model(torch.cat([prompts[prompt, :length], new[row]])[None])[0, -1]
        torch.testing.assert_close(logits[row], alone, atol=2e-5, rtol=0)


def test_it_is_taken_for_prompts_with_one_sample_in_any_format(tiny_data, monkeypatch):
    from llama_scale.data.tokenizer import Tokenizer
    from llama_scale.generation import running_batch

    made = []

    class Seen(SingleCache):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            made.append(len(arguments[1]))

    monkeypatch.setattr(running_batch, "SingleCache", Seen)
    tokenizer = Tokenizer(tiny_data / "tokenizer.model")
    model = Llama(small(vocab_size=tokenizer.vocab_size)).init_weights(1).eval()
    sampling = SamplingConfig(temperature=0.8, max_new_tokens=6)
    for dtype in (torch.float32, torch.bfloat16):
        rows = list(generate(model.to(dtype), tokenizer, ["a", "b = 1", "def f"], sampling))
        assert len(rows) == 3 and all(row.finish_reason for row in rows)
    assert made == [3, 3]
    list(generate(model, tokenizer, ["a"], sampling, n_samples=2))
    assert made == [3, 3]
