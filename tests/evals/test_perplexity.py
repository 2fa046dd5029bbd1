import gzip
import json
import math
import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers

from evals import perplexity
from evals.perplexity import PerplexityConfig, by_source, evaluate, reference_bits_per_byte, score
from llama_scale.config import ModelConfig
from llama_scale.data.shards import open_tokens
from llama_scale.data.tokenizer import Tokenizer, train_tokenizer
from llama_scale.errors import InputError
from llama_scale.model.hf import hf_config, to_hf
from llama_scale.model.llama import Llama

CONTEXT = 48


@pytest.fixture(scope="module")
def tokens(tiny_data):
    return open_tokens(tiny_data, "val")


@pytest.fixture(scope="module")
def tokenizer(tiny_data):
    return Tokenizer(tiny_data / "tokenizer.model")


@pytest.fixture(scope="module")
def model(tokenizer):
    config = ModelConfig(
        d_model=32, n_layers=2, n_heads=2, d_ff=64,
        vocab_size=tokenizer.vocab_size, context_length=CONTEXT,
    )  # fmt: skip
    model = Llama(config).init_weights(0)
    for parameter in model.parameters():
        parameter.data *= 3
    return model


def nats_alone(model, ids, position):
    """Nats of one token after all before it in ``ids``, on its own."""
    with torch.no_grad():
        logits = model(torch.tensor([ids[:position]]))[0, -1].double()
    return -torch.log_softmax(logits, -1)[ids[position]].item()


@pytest.mark.parametrize("max_tokens", [1, CONTEXT, 3 * CONTEXT + 7])
@pytest.mark.parametrize("batch_tokens", [1, 2 * CONTEXT, 10_000])
def test_score_equals_one_token_at_a_time(model, tokens, tokenizer, max_tokens, batch_tokens):
    result = score(model, tokens, tokenizer.byte_lengths, max_tokens, batch_tokens)
    nats, targets = 0.0, []
    for start in range(0, max_tokens, CONTEXT):
        window = tokens.read(start, min(CONTEXT, max_tokens - start) + 1).astype(int).tolist()
        nats += sum(nats_alone(model, window, i) for i in range(1, len(window)))
        targets += window[1:]
    source = tokenizer.decode_bytes(targets)
    assert targets == tokens.read(1, max_tokens).tolist()
    assert (result.tokens, result.bytes) == (max_tokens, len(source))
    assert result.nats == pytest.approx(nats, rel=1e-5)
    assert result.loss == pytest.approx(nats / max_tokens, rel=1e-5)
    assert result.perplexity == pytest.approx(math.exp(nats / max_tokens), rel=1e-4)
    assert result.bits_per_byte == pytest.approx(nats / len(source) / math.log(2), rel=1e-5)


def test_score_equals_transformers(model, tokens, tokenizer):
    peer = transformers.LlamaForCausalLM(transformers.LlamaConfig(**hf_config(model.config)))
    peer.load_state_dict(to_hf(model.state_dict()))
    rows = torch.from_numpy(tokens.windows(np.arange(6) * CONTEXT, CONTEXT + 1))
    with torch.no_grad():
        logits = peer(rows[:, :-1]).logits
    expected = F.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten()).item()
    result = score(model, tokens, tokenizer.byte_lengths, 6 * CONTEXT)
    assert result.loss == pytest.approx(expected, abs=1e-5)


def test_whole_split_counts_document_ends_and_every_byte(model, tokens, tokenizer):
    result = score(model, tokens, tokenizer.byte_lengths)
    assert result.tokens == tokens.n_tokens - 1
    first = int(tokens.read(0, 1)[0])
    assert result.bytes == tokens.n_bytes - tokenizer.byte_lengths[first]
    more = score(model, tokens, tokenizer.byte_lengths, max_tokens=10 * tokens.n_tokens)
    assert more == result


def test_large_vocabularies_are_scored_in_parts(model, tokens, tokenizer, monkeypatch):
    whole = score(model, tokens, tokenizer.byte_lengths, 500)
    monkeypatch.setattr(perplexity, "LOGITS", 3 * tokenizer.vocab_size)
    assert score(model, tokens, tokenizer.byte_lengths, 500).nats == pytest.approx(whole.nats)


@pytest.mark.parametrize("training", [True, False])
def test_score_restores_the_mode_and_keeps_no_graph(model, tokens, tokenizer, training):
    model.train(training)
    score(model, tokens, tokenizer.byte_lengths, 100)
    assert model.training is training and torch.is_grad_enabled()
    assert all(p.grad is None for p in model.parameters())


def test_autocast_is_the_callers(model, tokens, tokenizer):
    full = score(model, tokens, tokenizer.byte_lengths, 500)
    context = torch.autocast("cpu", torch.bfloat16)
    lower = score(model, tokens, tokenizer.byte_lengths, 500, autocast=context)
    assert lower.nats != full.nats and lower.loss == pytest.approx(full.loss, rel=0.02)


PAIRS = [
    ("def f(x):\n", "    return x + 1\n"),
    ("", "import os\n"),
    ("x = " + "1 + " * 60, "2\n"),  # the prompt is cut
    ("# π\n", "y = 'é中'\n" + "z = z * 3\n" * 30),  # longer than the context
]


def test_references_equal_one_token_at_a_time(model, tokenizer):
    result = reference_bits_per_byte(model, tokenizer, PAIRS, batch_tokens=60)
    nats, size = 0.0, 0
    for (prompt, solution), found in zip(PAIRS, result.tasks, strict=True):
        targets = tokenizer.encode(solution)
        ids = [tokenizer.eos, *tokenizer.encode(prompt), *targets]
        assert (found.tokens, found.bytes) == (len(targets), len(solution.encode()))
        if len(ids) <= CONTEXT + 1:
            expected = sum(nats_alone(model, ids, i) for i in range(len(ids) - len(targets), len(ids)))
            assert found.nats == pytest.approx(expected, rel=1e-5)
        nats, size = nats + found.nats, size + found.bytes
    assert result.total.bits_per_byte == pytest.approx(nats / math.log(2) / size)
    assert result.truncated == 2


def test_long_references_lose_context_but_no_target(model, tokenizer):
    cut, long = reference_bits_per_byte(model, tokenizer, PAIRS[2:]).tasks
    prompt, solution = map(tokenizer.encode, PAIRS[2])
    window = (prompt + solution)[-CONTEXT - 1 :]
    expected = sum(nats_alone(model, window, i) for i in range(len(window) - len(solution), len(window)))
    assert cut.nats == pytest.approx(expected, rel=1e-5)

    prompt, solution = map(tokenizer.encode, PAIRS[3])
    ids = [tokenizer.eos, *prompt, *solution]
    assert len(solution) > 2 * CONTEXT
    expected, step = 0.0, CONTEXT // 2
    for number, i in enumerate(range(1 + len(prompt), len(ids))):
        piece_end = min(1 + len(prompt) + (number // step + 1) * step, len(ids))
        start = max(0, piece_end - CONTEXT - 1)
        expected += nats_alone(model, ids[start:], i - start)
    assert long.nats == pytest.approx(expected, rel=1e-5)


def test_references_do_not_depend_on_the_batch(model, tokenizer):
    one, many = (reference_bits_per_byte(model, tokenizer, PAIRS, n) for n in (1, 100_000))
    assert [t.nats for t in one.tasks] == pytest.approx([t.nats for t in many.tasks], rel=1e-5)


def test_evaluate_checks_the_tokenizer(model, tokens, tokenizer, tmp_path):
    config = PerplexityConfig(data=str(tokens.folder), max_tokens=1000)
    result = evaluate(model, tokenizer, tokens, config)
    expected = score(model, tokens, tokenizer.byte_lengths, 1000)
    assert result["bits_per_byte"] == expected.bits_per_byte and result["tokens"] == 1000
    assert result["data_fingerprint"] == tokens.fingerprint
    train_tokenizer(["other = text\n" * 50, "def f(): return 'abcdefghij'\n"], tmp_path / "m", 300)
    with pytest.raises(InputError, match="does not match"):
        evaluate(model, Tokenizer(tmp_path / "m"), tokens, config)


def test_sources_add_up(tiny_data, tmp_path):
    """Documents of two sources: their bits and bytes are those of the split without its start."""
    folder = tmp_path / "data"
    shutil.copytree(tiny_data, folder)
    tokens, tokenizer = open_tokens(folder, "val"), Tokenizer(folder / "tokenizer.model")
    ids = tokens.read(0, tokens.n_tokens)
    ends = np.flatnonzero(ids == tokenizer.eos) + 1
    starts = np.concatenate([[0], ends[:-1]])
    sizes = [s["tokens"] for s in tokens.manifest["splits"]["val"]["shards"]]
    offsets = np.cumsum([0, *sizes])
    rows = []
    for number, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
        shard = int(np.searchsorted(offsets, start, side="right")) - 1
        rows.append({
            "split": "val", "shard": shard, "start": start - int(offsets[shard]),
            "tokens": end - start, "package": "ab"[number % 2],
            "bytes": int(tokenizer.byte_lengths[ids[start:end]].sum()),
        })  # fmt: skip
    lines = "".join(json.dumps(row) + "\n" for row in [rows[0] | {"split": "train"}, *rows])
    (folder / "documents.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    each = np.random.default_rng(0).random(tokens.n_tokens - 1).astype(np.float32)
    found = by_source(folder, each)
    bits = sum(s["bits_per_byte"] * s["bytes"] for s in found["sources"].values())
    assert found["sources"].keys() == {"a", "b"}
    assert bits * math.log(2) == pytest.approx(each.sum(), rel=1e-4)
    low, high = found["bits_per_byte_interval"]
    assert low < bits / sum(s["bytes"] for s in found["sources"].values()) < high
    short = by_source(folder, each[: int(ends[1])])
    assert sum(s["documents"] for s in short["sources"].values()) == 2
