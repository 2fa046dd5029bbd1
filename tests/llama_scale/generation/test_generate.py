import itertools
import random

import pytest
import torch
import transformers

from llama_scale.config import ModelConfig
from llama_scale.data.tokenizer import Tokenizer
from llama_scale.errors import InputError
from llama_scale.generation.completion import Completion, compile_stops
from llama_scale.generation.generate import generate, stream
from llama_scale.generation.sampling import SamplingConfig
from llama_scale.model.hf import hf_config, to_hf
from llama_scale.model.llama import Llama

PROMPTS = [
    "",
    "def",
    "import os\n\n\ndef main(argv):\n",
    "x = [i for i in range(10)]\n",
    "class A:\n    def __init__(self):\n",
]
GREEDY = SamplingConfig(temperature=0, max_new_tokens=20)


@pytest.fixture(scope="module")
def tokenizer(tiny_data):
    return Tokenizer(tiny_data / "tokenizer.model")


@pytest.fixture(scope="module")
def model(tokenizer):
    config = ModelConfig(
        d_model=48, n_layers=2, n_heads=4, n_kv_heads=2, d_ff=96,
        vocab_size=tokenizer.vocab_size, context_length=96,
    )  # fmt: skip
    model = Llama(config).init_weights(1)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data *= 6  # logits far apart, so that contexts matter
    return model.eval()


def naive(model, ids, eos, count):
    """Greedy continuation with a full forward pass for each token."""
    ids, new = list(ids), []
    for _ in range(count):
        with torch.no_grad():
            token = int(model(torch.tensor([ids]))[0, -1].argmax())
        if token == eos:
            break
        ids.append(token)
        new.append(token)
    return new


def by_key(completions):
    return {(c.task, c.sample): (c.tokens, c.text, c.finish_reason) for c in completions}


def test_greedy_equals_full_recompute(model, tokenizer):
    for row in generate(model, tokenizer, PROMPTS, GREEDY):
        ids = [tokenizer.eos, *tokenizer.encode(PROMPTS[row.task])]
        assert row.tokens == naive(model, ids, tokenizer.eos, 20)
        assert row.raw == tokenizer.decode_bytes(row.tokens)
        assert not row.prompt_truncated


def test_greedy_equals_transformers(model, tokenizer):
    peer = transformers.LlamaForCausalLM(transformers.LlamaConfig(**hf_config(model.config)))
    peer.load_state_dict(to_hf(model.state_dict()))
    peer.eval()
    for row in generate(model, tokenizer, PROMPTS, GREEDY):
        ids = torch.tensor([[tokenizer.eos, *tokenizer.encode(PROMPTS[row.task])]])
        out = peer.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=20,
            eos_token_id=tokenizer.eos, pad_token_id=0,
        )  # fmt: skip
        new = out[0, ids.shape[1] :].tolist()
        assert row.tokens == [token for token in new if token != tokenizer.eos]


@pytest.mark.parametrize("twins", [False, True])
def test_greedy_does_not_depend_on_the_batch(model, tokenizer, twins):
    config = model.config
    copy = Llama(config)
    copy.load_state_dict(model.state_dict())
    if twins:  # every token has a twin whose logit is the same up to rounding
        weight = copy.embedding.weight.data
        half = len(weight) // 2
        weight[half:] = weight[:half] * (1 + 1e-7 * torch.randn(half, 1).sign())
    prompts = [p + "a" * n for n in range(3) for p in PROMPTS]
    results = [by_key(generate(copy, tokenizer, prompts, GREEDY, batch_size=size)) for size in (1, 4, 64)]
    assert results[0] == results[1] == results[2]
    assert len({text for _, text, _ in results[0].values()}) > 5


def test_samples_depend_on_seed_task_and_sample_alone(model, tokenizer):
    sampling = SamplingConfig(temperature=1.0, top_p=0.9, max_new_tokens=12, seed=3)
    full = by_key(generate(model, tokenizer, PROMPTS, sampling, n_samples=3))
    for size in (1, 4):
        assert by_key(generate(model, tokenizer, PROMPTS, sampling, 3, size)) == full
    part = by_key(generate(model, tokenizer, PROMPTS[1:4:2], sampling, 2, tasks=[1, 3]))
    assert part == {key: full[key] for key in part}
    assert len(part) == 4
    other = SamplingConfig(temperature=1.0, top_p=0.9, max_new_tokens=12, seed=4)
    assert by_key(generate(model, tokenizer, PROMPTS, other, 3)) != full
    assert len({full[2, sample][1] for sample in range(3)}) == 3


@pytest.mark.parametrize("letters", ["ab", "a.\n", "é中|"])
def test_the_earliest_stop_string_ends_the_text(letters):
    """Whichever tokens the bytes come in: one may hold a stop string, several or part of one."""
    rng = random.Random(letters)
    for _ in range(1500):
        stops = ["".join(rng.choices(letters, k=rng.randint(1, 4))) for _ in range(rng.randrange(4))]
        parts = ["".join(rng.choices(f"{letters}c", k=rng.randint(0, 4))) for _ in range(3)]
        text = "".join(rng.sample([*parts, *stops], k=len(parts) + len(stops))).encode()
        ends = sorted(rng.randint(0, len(text)) for _ in range(rng.choice([0, 3, 9])))
        pieces = [text[i:j] for i, j in itertools.pairwise([0, *ends, len(text)])]
        row = Completion(0, 0, [], False)
        for count, piece in enumerate(pieces, start=1):
            row.push(count, piece, compile_stops(stops), limit=len(pieces))
            seen = b"".join(pieces[:count])
            starts = [seen.find(stop.encode()) for stop in stops if stop.encode() in seen]
            last = "length" if count == len(pieces) else None
            expected = ("stop", seen[: min(starts)]) if starts else (last, seen)
            assert (row.finish_reason, row.raw) == expected
            assert row.tokens == list(range(1, count + 1))
            if starts:
                break


def chain(tokenizer, texts):
    """A real model that, token after token, spells each text and then ends the document."""
    size = tokenizer.vocab_size
    shape = {"d_model": size, "n_layers": 1, "n_heads": 1, "d_ff": 8, "vocab_size": size}
    model = Llama(ModelConfig(**shape, context_length=64, tie_embeddings=False)).init_weights(0)
    follows = {}
    for text in texts:
        ids = [*tokenizer.encode(text), tokenizer.eos]
        for token, after in itertools.pairwise(ids):
            assert follows.setdefault(token, after) == after, "the text must not branch"
    with torch.no_grad():
        model.blocks[0].attention.o.weight.zero_()
        model.blocks[0].ffn.down.weight.zero_()
        model.embedding.weight.copy_(torch.eye(size))
        model.head.weight.zero_()
        for token, after in follows.items():
            model.head.weight[after, token] = 1.0
    return model.eval()


def test_stream_yields_whole_characters_and_no_stop_string(tokenizer):
    text = "7 é中𝕏 ok\nde:"
    model = chain(tokenizer, [text])
    sampling = SamplingConfig(temperature=0, max_new_tokens=60)
    parts = list(stream(model, tokenizer, text[0], sampling))
    assert "".join(parts) == text[1:]
    assert any("𝕏" in part for part in parts) and len(parts) > 5
    # The bytes of a character come one by one; a line end is held back, as it may be a stop.
    sampling = SamplingConfig(temperature=0, max_new_tokens=60, stop=("\ndef", "k\nde:"))
    assert "".join(stream(model, tokenizer, text[0], sampling)) == " é中𝕏 o"
    sampling = SamplingConfig(temperature=0, max_new_tokens=3)
    cut = list(stream(model, tokenizer, text[0], sampling))
    (row,) = generate(model, tokenizer, [text[0]], sampling)
    assert "".join(cut) == row.text and row.finish_reason == "length"


def test_prompts_are_prefilled_once_and_finished_rows_leave(tokenizer, monkeypatch):
    texts = ["0123456789", "(q)", "W["]
    model = chain(tokenizer, texts)
    shapes = []
    hidden = model.hidden

    def record(tokens, cache=None):
        shapes.append(tuple(tokens.shape))
        return hidden(tokens, cache)

    monkeypatch.setattr(model, "hidden", record)
    sampling = SamplingConfig(temperature=0.1, max_new_tokens=30)
    rows = list(generate(model, tokenizer, [t[0] for t in texts], sampling, n_samples=4))
    assert all(row.text == texts[row.task][1:] and row.finish_reason == "stop" for row in rows)
    longest = 1 + max(len(tokenizer.encode(t[0])) for t in texts)
    assert shapes[0] == (3, longest)
    assert shapes[1] == (12, 1) and shapes[-1] == (4, 1)


@pytest.mark.parametrize("room", [8, 400])
def test_cache_grows_to_the_end_of_the_context(model, tokenizer, room, monkeypatch):
    monkeypatch.setattr("llama_scale.generation.running_batch.GROWTH", room)
    prompt = "import sys\n" * 40
    sampling = SamplingConfig(temperature=0, max_new_tokens=400)
    rows = sorted(generate(model, tokenizer, [prompt, "x"], sampling), key=lambda row: row.task)
    for row, ids in zip(rows, (tokenizer.encode(prompt), tokenizer.encode("x")), strict=True):
        context = [tokenizer.eos, *ids]
        assert row.prompt_truncated == (row.task == 0)
        assert row.context == (context[-48:] if row.prompt_truncated else context)
        room = 96 - len(row.context)
        assert row.tokens == naive(model, row.context, tokenizer.eos, room)
        assert row.finish_reason == ("length" if len(row.tokens) == room else "stop")


def test_a_stopped_generator_leaves_no_inference_mode(model, tokenizer):
    drawn = generate(model, tokenizer, PROMPTS, GREEDY, batch_size=1)
    next(drawn)
    parts = stream(model, tokenizer, "def", GREEDY)
    next(parts)
    assert not torch.is_inference_mode_enabled()


def test_a_diverged_model_is_named(model, tokenizer):
    broken = Llama(model.config).init_weights(0)
    broken.norm.weight.data.fill_(torch.nan)
    with pytest.raises(InputError, match="not finite"):
        list(generate(broken, tokenizer, ["x"], GREEDY))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_graphs_change_nothing(model, tokenizer):
    on_gpu = Llama(model.config)
    on_gpu.load_state_dict(model.state_dict())
    on_gpu.cuda().eval()
    sampling = SamplingConfig(temperature=0.8, max_new_tokens=60)
    plain, replayed = (
        by_key(generate(on_gpu, tokenizer, PROMPTS, sampling, 4, cuda_graphs=replay)) for replay in (False, True)
    )
    assert plain == replayed


def test_a_tokenizer_of_more_ids_than_the_model_is_refused(model, tokenizer):
    small = Llama(ModelConfig(d_model=48, n_layers=1, n_heads=4, d_ff=96, vocab_size=480, context_length=96))
    small.init_weights(1)
    with pytest.raises(InputError, match=r"tokenizer.model: the tokenizer has 512 ids, the model 480; they are not of"):
        list(generate(small, tokenizer, ["x"], GREEDY))
    with pytest.raises(InputError, match="not of one model"):
        list(stream(small, tokenizer, "x", GREEDY))


@pytest.mark.parametrize("temperature", [1e-40, 5e-324, 1e-38, 1e-30, 1e-9])
@pytest.mark.parametrize("top_p", [1.0, 0.9])
def test_the_smallest_temperatures_are_greedy(model, tokenizer, temperature, top_p):
    sampling = SamplingConfig(temperature=temperature, max_new_tokens=20, top_p=top_p)
    assert [c.text for c in generate(model, tokenizer, PROMPTS, sampling)] == [
        c.text for c in generate(model, tokenizer, PROMPTS, GREEDY)
    ]


@pytest.mark.parametrize("temperature", [-1.0, float("nan"), float("inf")])
def test_temperatures_that_are_none_are_refused(temperature):
    with pytest.raises(InputError, match="temperature: expected at least 0, found"):
        SamplingConfig(temperature=temperature)
