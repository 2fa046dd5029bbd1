import math

import pytest
import torch
import transformers
from tokenizers import Tokenizer as Bpe
from tokenizers import decoders, models, pre_tokenizers

from evals.models.hf import TransformersCompleter
from evals.models.request import Request, cut_at_stop
from llama_scale.errors import InputError
from llama_scale.generation.sampling import SamplingConfig


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A transformers folder of another architecture with a tokenizer of bytes."""
    path = tmp_path_factory.mktemp("gpt2")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {"<|end|>": 0} | {c: i + 1 for i, c in enumerate(alphabet)}
    bpe = Bpe(models.BPE(vocab, []))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|end|>")
    tokenizer.save_pretrained(path)
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=len(vocab), n_positions=96, n_embd=32, n_layer=1, n_head=2,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    model = transformers.GPT2LMHeadModel(config)
    for parameter in model.parameters():
        parameter.data *= 4  # else every token costs about ln(V) nats
    model.save_pretrained(path)
    return path


def test_a_transformers_folder_completes_and_is_scored(folder):
    model = TransformersCompleter(folder)
    sampling = SamplingConfig(temperature=0.8, max_new_tokens=8, stop=("\n",))
    request = Request({4: "def f():", 7: "x" * 200}, sampling, 3, 2)
    rows = list(model.complete(request))
    assert [(r.task, r.sample) for r in rows] == [(t, s) for t in (4, 7) for s in range(3)]
    assert [r.prompt_truncated for r in rows] == [False] * 3 + [True] * 3
    assert all("\n" not in r.text for r in rows)
    again = list(model.complete(request))
    assert rows == again
    references = model.score_references([("def f():", "\n    return 1\n"), ("", "é" * 100)])
    assert references.tasks[0].bytes == references.tasks[0].tokens == 14 and references.truncated == 1


def nats_alone(model, ids, position):
    """Nats of one token after all before it in ``ids``, on its own."""
    with torch.inference_mode():
        logits = model.model(torch.tensor([ids[:position]])).logits[0, -1].double()
    return -torch.log_softmax(logits, -1)[ids[position]].item()


def test_solutions_are_scored_as_one_token_at_a_time(folder):
    """After a prompt that fits, none, one that is cut, and in pieces of half the context."""
    model, room = TransformersCompleter(folder), 96 + 1
    pairs = [
        ("def f():", "\n    return 1\n"),
        ("", "import os\n"),
        ("x = 1 +" * 13, "3 + 4\n"),  # just fits: the last token is a target alone
        ("x = 1 + " * 12, "2\n"),
        ("def g(x):\n", "".join(f"    x += {n}\n" for n in range(18))),
    ]
    found = model.score_references(pairs)
    expected = []
    for prompt, solution in pairs:
        before = model.tokenizer(prompt)["input_ids"] or [model.tokenizer.eos_token_id]
        after = model.tokenizer(solution)["input_ids"]
        ids, step = before + after, len(after) if len(after) <= 96 else 48
        nats = 0.0
        for number in range(len(after)):
            end = len(before) + min((number // step + 1) * step, len(after))
            start = max(0, end - room)
            nats += nats_alone(model, ids[start:], len(before) + number - start)
        expected.append(nats)
        assert abs(nats / len(after) - math.log(257)) > 0.2
    assert [task.nats for task in found.tasks] == pytest.approx(expected, rel=1e-5)
    sizes = [len(solution.encode()) for _, solution in pairs]
    assert [task.bytes for task in found.tasks] == [task.tokens for task in found.tasks] == sizes
    assert sizes[4] > 2 * 96 and found.truncated == 2
    bits = sum(expected) / math.log(2) / sum(sizes)
    assert found.total.bits_per_byte == pytest.approx(bits, rel=1e-5)


def test_a_greedy_completion_is_the_likeliest(folder):
    model = TransformersCompleter(folder)
    sampling = SamplingConfig(temperature=0, max_new_tokens=3)
    (row,) = model.complete(Request({0: "def f"}, sampling))
    ids = torch.tensor([model.tokenizer("def f")["input_ids"]])
    for _ in range(3):
        with torch.inference_mode():
            ids = torch.cat([ids, model.model(ids).logits[:, -1:].argmax(-1)], 1)
    assert row.text == model.tokenizer.decode(ids[0, 5:], skip_special_tokens=True)


def test_a_folder_that_is_none_is_named(tmp_path):
    with pytest.raises(InputError, match="transformers cannot load it"):
        TransformersCompleter(tmp_path)


def test_cut_is_at_the_first_stop():
    assert cut_at_stop("a\ndef b\nclass", ("\nclass", "\ndef")) == "a"
    assert cut_at_stop("abc", ()) == "abc"
