"""The cache of keys and values against the model without one."""

import pytest
import torch

from llama_scale.generation.cuda_graph import Decoder
from llama_scale.generation.kv_cache import JoinedCaches, KVCache
from llama_scale.model.llama import Llama
from tests.llama_scale.helpers import SHAPES, small


@torch.no_grad()
@pytest.mark.parametrize("fields", SHAPES.values(), ids=SHAPES)
def test_cached_steps_equal_one_pass(fields):
    config = small(**fields)
    model = Llama(config).init_weights(1).eval()
    prompts = torch.randint(0, config.vocab_size, (3, 12))
    lengths, prompt = torch.tensor([12, 5, 1]), torch.tensor([1, 0, 1, 2, 1])
    cache = KVCache(config, lengths)
    model(prompts, cache)
    cache.start_sequences(prompt)
    new = torch.randint(0, config.vocab_size, (5, 25))
    alone = [
        model(torch.cat([prompts[p, : lengths[p]], row])[None])[0, lengths[p] :]
        for p, row in zip(prompt, new, strict=True)
    ]
    sequences, decoder = torch.arange(5), Decoder(model, cache)
    for step in range(25):
        if step in (4, 20):  # one sequence of three leaves, then a whole prompt
            kept = torch.tensor([0, 1, 3, 4] if step == 4 else [3, 0, 1])
            cache.keep_sequences(kept)
            decoder = Decoder(model, cache)
            sequences = sequences[kept]
        logits = model.head(decoder(new[sequences, step]))
        for sequence, row in zip(sequences, logits, strict=True):
            torch.testing.assert_close(row, alone[sequence][step], atol=2e-5, rtol=0)
    assert len(cache.prompt_kv[0][0]) == 2


@torch.no_grad()
def test_the_table_of_sequences_has_a_row_for_each_prompt():
    model = Llama(small()).init_weights(0)
    cache = KVCache(model.config, torch.tensor([2, 3]))
    model(torch.ones(2, 3, dtype=torch.long), cache)
    cache.start_sequences(torch.tensor([0, 1, 0, 0]))
    assert cache.sequence_at.view(2, cache.most_sequences).tolist() == [[0, 2, 3], [1, 0, 0]]
    assert cache.place_of.tolist() == [0, 3, 1, 2]
    assert cache.sequence_at[cache.place_of].tolist() == [0, 1, 2, 3]
    cache.keep_sequences(torch.tensor([3, 1]))
    assert cache.sequence_at.tolist() == [0, 1] and cache.prompt_of.tolist() == [0, 1]


@torch.no_grad()
def test_joined_caches_are_as_each_alone():
    config = small()
    model = Llama(config).init_weights(1).eval()
    prompts, new = torch.randint(0, config.vocab_size, (2, 9)), torch.randint(0, config.vocab_size, (5, 12))
    caches = []
    for lengths, prompt_of, ahead in ([9, 4], [0, 1, 0], 5), ([7], [0, 0], 0):
        cache = KVCache(config, torch.tensor(lengths), growth=3)
        model(prompts[: len(lengths)], cache)
        cache.start_sequences(torch.tensor(prompt_of))
        rows = new[:3] if len(lengths) == 2 else new[3:]
        for step in range(ahead):
            Decoder(model, cache)(rows[:, step])
        caches.append(cache)
    decoder = Decoder(model, JoinedCaches(caches))
    for step in range(7):
        logits = model.head(decoder(torch.cat([new[:3, 5 + step], new[3:, step]])))
    for row, (prompt, length, count) in enumerate([(0, 9, 12), (1, 4, 12), (0, 9, 12), (0, 7, 7), (0, 7, 7)]):
        alone = model(torch.cat([prompts[prompt, :length], new[row, :count]])[None])[0, -1]
        torch.testing.assert_close(logits[row], alone, atol=2e-5, rtol=0)
