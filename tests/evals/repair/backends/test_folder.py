"""Transformers folders as backends: templates, padding and an encoder, against transformers' own generation."""

import json

import pytest
import torch
import transformers
from tokenizers import Tokenizer as Bpe
from tokenizers import decoders, models, pre_tokenizers, processors

from evals.models.hf import TransformersCompleter
from evals.repair.backends.load import open_backend
from evals.repair.backends.protocol import Ask, BackendConfig, Message
from llama_scale.errors import InputError
from llama_scale.generation.config import SamplingConfig

TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
REFUSING = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}" + TEMPLATE
SAMPLING = SamplingConfig(temperature=0.9, max_new_tokens=10, seed=4)
CHAT = (Message("system", "S"), Message("user", "hello"), Message("assistant", "x"), Message("user", "again"))


def tokenizer(template=None, ends=False):
    """A tokenizer of bytes; with ``ends`` it puts the end's id behind each text, as T5's does."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {"<pad>": 0, "</s>": 1} | {c: i + 2 for i, c in enumerate(alphabet)}
    bpe = Bpe(models.BPE(vocab, []))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    if ends:
        bpe.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    made = transformers.PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="</s>", pad_token="<pad>")
    made.chat_template = template
    return made


def saved(path, config, model, scale=3.0, **options):
    made = tokenizer(**options)
    made.save_pretrained(path)
    torch.manual_seed(1)
    network = model(config)
    for parameter in network.parameters():
        parameter.data *= scale  # else all tokens are about as likely
    network.save_pretrained(path)
    return path


def llama(path, **options):
    config = transformers.LlamaConfig(
        vocab_size=258, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=160, bos_token_id=None, eos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    return saved(path, config, transformers.LlamaForCausalLM, **options)


def gpt2(path, **options):
    config = transformers.GPT2Config(
        vocab_size=258, n_positions=160, n_embd=32, n_layer=2, n_head=2, bos_token_id=1, eos_token_id=1
    )
    return saved(path, config, transformers.GPT2LMHeadModel, **options)


def t5(path):
    config = transformers.T5Config(
        vocab_size=258, d_model=32, d_kv=16, d_ff=48, num_layers=2, num_heads=2, decoder_start_token_id=0,
        pad_token_id=0, eos_token_id=1, tie_word_embeddings=False,
    )  # fmt: skip
    return saved(path, config, transformers.T5ForConditionalGeneration, scale=1.0, ends=True)


def opened(path, **settings):
    return open_backend(BackendConfig(model=str(path), device="cpu", precision="fp32", **settings), None)


@pytest.mark.parametrize("make", [llama, gpt2, t5])
def test_answers_are_equal_for_every_batch_size(make, tmp_path):
    path = make(tmp_path / "model")
    asks = [Ask((Message("user", "def f(x): " + "y" * (t * 5)),), (t, r, 0, 0), 2) for r in range(2) for t in range(4)]
    found = [dict(opened(path, batch_size=size).ask(asks, SAMPLING)) for size in (1, 8, 64)]
    assert found[0] == found[1] == found[2] and sorted(found[0]) == list(range(8))
    assert len({reply.text for replies in found[0].values() for reply in replies}) > 8
    assert all(reply.prompt_tokens >= 10 for replies in found[0].values() for reply in replies)


@pytest.mark.parametrize("make", [llama, gpt2, t5])
def test_prompts_of_several_lengths_are_drawn_together(make, tmp_path, monkeypatch):
    backend = opened(make(tmp_path / "model"), batch_size=4)
    draw, sizes = backend.model.draw, []
    monkeypatch.setattr(
        backend.model, "draw", lambda prompts, *rest: sizes.append(len(prompts)) or draw(prompts, *rest)
    )
    list(backend.ask([Ask((Message("user", "x" * (n + 1)),), (n,)) for n in range(6)], SAMPLING))
    assert sizes == [4, 2]


@pytest.mark.parametrize("make", [llama, gpt2, t5])
def test_greedy_answers_are_those_of_transformers(make, tmp_path):
    path = make(tmp_path / "model")
    kind = transformers.AutoModelForSeq2SeqLM if make is t5 else transformers.AutoModelForCausalLM
    model, known = kind.from_pretrained(path).eval(), transformers.AutoTokenizer.from_pretrained(path)
    texts = ["def f(x):", "print(", "a much longer text than the others"]
    asks = [Ask((Message("user", text),), (n,)) for n, text in enumerate(texts)]
    backend = opened(path)
    assert backend.chat is False
    found = dict(backend.ask(asks, SamplingConfig(temperature=0, max_new_tokens=12)))
    for n, text in enumerate(texts):
        ids = known(text, return_tensors="pt")["input_ids"]
        out = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=12)[0]
        new = out[1:] if make is t5 else out[ids.shape[1] :]
        assert found[n][0].text == known.decode(new, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert found[n][0].prompt_tokens == ids.shape[1]


def test_a_llama_is_drawn_natively_and_as_by_transformers(tmp_path):
    """Prompts of several lengths, three samples each, with a stop string; the model's generation ends at two ids."""
    path = llama(tmp_path / "model")
    (path / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, 70]}))
    native, theirs = TransformersCompleter(path), TransformersCompleter(path, natively=False)
    assert native.native and not theirs.native
    assert not TransformersCompleter(gpt2(tmp_path / "gpt2")).native
    assert native.native.llama.embedding.weight.data_ptr() == native.model.get_input_embeddings().weight.data_ptr()
    sampling = SamplingConfig(temperature=1.1, max_new_tokens=60, seed=2, stop=("ab", "\n"))
    prompts, drawn = [native.encode_prompt("x" * (7 * n + 1)) for n in range(12)], []
    for model in (native, theirs):
        rows = model.draw(prompts, [(n, n % 3) for n in range(12)], 60, sampling)
        drawn.append([model.completion((n, 0), prompts[n], row, sampling, False) for n, row in enumerate(rows)])
    assert drawn[0] == drawn[1]
    ended = [(reply.finish_reason, reply.tokens) for reply in drawn[0]]
    assert len(set(ended)) > 4 and any(reason == "stop" for reason, _ in ended)
    one = native.draw(prompts[3:4], [(3, 0)], 60, sampling)
    assert native.completion((3, 0), prompts[3], one[0], sampling, False) == drawn[0][3]


@pytest.mark.parametrize("change", ["gap", "more", "bias", "vocabulary"])
def test_what_our_sampler_would_draw_otherwise_is_left_to_transformers(change, tmp_path):
    """Ids that the tokenizer lacks: between others, and behind them, which are left out; biases; another tokenizer."""
    path = llama(tmp_path / "model")
    model = transformers.LlamaForCausalLM.from_pretrained(path)
    if change == "more":
        model.resize_token_embeddings(264, mean_resizing=False)
    elif change == "gap":
        model.resize_token_embeddings(264, mean_resizing=False)
        fields = json.loads((path / "tokenizer.json").read_text())
        fields["added_tokens"].append({**fields["added_tokens"][0], "id": 261, "content": "<late>"})
        fields["model"]["vocab"]["<late>"] = 261
        (path / "tokenizer.json").write_text(json.dumps(fields))
    elif change == "bias":
        model.config.attention_bias = True
        model = transformers.LlamaForCausalLM(model.config)
    model.save_pretrained(path)
    if change == "vocabulary":
        (path / "tokenizer.json").unlink()
        words = Bpe(models.WordLevel({"<pad>": 0, "</s>": 1, "def": 2}, unk_token="<pad>"))
        transformers.PreTrainedTokenizerFast(tokenizer_object=words, eos_token="</s>").save_pretrained(path)
    opened_model = TransformersCompleter(path)
    assert bool(opened_model.native) is (change == "more")
    if change == "more":
        sampling = SamplingConfig(temperature=3.0, top_p=1, max_new_tokens=40)
        rows = opened_model.draw([[5, 6]] * 20, [(0, n) for n in range(20)], 40, sampling)
        assert max(map(max, rows)) < 258


def test_a_chat_is_written_by_the_template_of_the_folder(tmp_path):
    backend = opened(llama(tmp_path / "a", template=TEMPLATE))
    assert backend.chat and backend.identity["chat"]
    written = "<system>S\n<user>hello\n<assistant>x\n<user>again\n<assistant>"
    assert backend.chat_text(CHAT) == written
    ((_, (reply,)),) = backend.ask([Ask(CHAT, (0, 0))], SAMPLING)
    assert reply.prompt_tokens == len(written)
    plain = opened(tmp_path / "a", form="completion")
    assert not plain.chat
    ((_, (other,)),) = plain.ask([Ask((Message("user", written),), (0, 0))], SAMPLING)
    assert other == reply  # the same ids, the same numbers


def test_a_template_without_system_gets_it_before_the_first_question(tmp_path):
    backend = opened(llama(tmp_path / "a", template=REFUSING))
    assert backend.chat_text(CHAT) == "<user>S\n\nhello\n<assistant>x\n<user>again\n<assistant>"
    broken = opened(llama(tmp_path / "b", template="{{ raise_exception('never') }}"))
    with pytest.raises(InputError, match=r"its chat template refuses these messages \(never\)"):
        list(broken.ask([Ask(CHAT, (0,))], SAMPLING))


def test_a_prompt_that_is_too_long_loses_its_start(tmp_path):
    backend = opened(llama(tmp_path / "a"))
    ((_, (reply,)),) = backend.ask([Ask((Message("user", "x" * 400),), (0,))], SAMPLING)
    assert reply.prompt_truncated and reply.prompt_tokens == 150 and reply.tokens <= 10


def test_what_a_folder_is_not_is_one_line(tmp_path):
    path = llama(tmp_path / "a")
    assert opened(path, preset="smollm2-135m", form="completion").chat is False
    for settings, words in (
        ({"form": "chat"}, r"backend\.form: .* has no chat template"),
        ({"preset": "deepseek-coder-1.3b"}, r"backend\.form: .* has no chat template"),
        ({"preset": "flan-t5-small"}, r"of the family llama, google/flan-t5-small of t5"),
    ):
        with pytest.raises(InputError, match=words):
            opened(path, **settings)
    config = json.loads((path / "config.json").read_text())
    (path / "model.safetensors").rename(path / "other.safetensors")
    with pytest.raises(InputError, match="transformers cannot load it"):
        opened(path)
    assert config["model_type"] == "llama"


def test_an_encoder_is_no_model_to_score(tmp_path):
    with pytest.raises(InputError, match="transformers cannot load it"):
        TransformersCompleter(t5(tmp_path / "a"))
