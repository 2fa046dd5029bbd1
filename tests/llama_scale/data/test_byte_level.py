"""A byte-level BPE beside transformers' own, and the files of a LLaMA folder."""

import json

import pytest

from llama_scale.data.byte_level import ByteLevelTokenizer, byte_of_character
from llama_scale.data.open_tokenizer import open_tokenizer
from llama_scale.data.tokenizer import Tokenizer
from llama_scale.errors import InputError
from llama_scale.model.hf import tokenizer_config, tokenizer_json

TEXTS = ["def f(x):\n\treturn x  # é 𝕏\r\n", "", "    \n\n  a\u2581b", "<|endoftext|> in a text", "日本語 = 1"]


def write_bpe(folder, special=("<|endoftext|>",), **settings):
    """Train a small byte-level BPE by the tokenizers library."""
    tokenizers = pytest.importorskip("tokenizers")
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=400, special_tokens=list(special), initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(["def f(x):\n    return x\n"] * 50 + ["for i in range(10):\n    print(i)\n"] * 50, trainer)
    folder.mkdir(exist_ok=True)
    made.save(str(folder / "tokenizer.json"))
    fields = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>"} | settings
    (folder / "tokenizer_config.json").write_text(json.dumps(fields))
    return folder


def test_a_tokenizer_that_lacks_a_byte_or_capitals_is_refused(tmp_path):
    """The library drops what it has no piece for, without a word."""
    folder = write_bpe(tmp_path / "bpe")
    whole = json.loads((folder / "tokenizer.json").read_text())
    for byte in (0, 0x41, 0x7F, 0x80, 0xDF, 0xE4, 0xF4):
        fields = json.loads(json.dumps(whole))
        character = next(c for c, b in byte_of_character().items() if b == byte)
        number = fields["model"]["vocab"].pop(character)
        fields["model"]["merges"] = [m for m in fields["model"]["merges"] if character not in "".join(m)]
        fields["model"]["vocab"][f"<unused {number}>"] = number
        (folder / "tokenizer.json").write_text(json.dumps(fields))
        with pytest.raises(InputError, match="does not give text back byte for byte"):
            ByteLevelTokenizer(folder)
    (folder / "tokenizer.json").write_text(json.dumps(whole | {"normalizer": {"type": "NFC"}}))
    assert ByteLevelTokenizer(folder).encode("x")  # as Qwen's: of code it changes next to nothing


def test_the_table_is_that_of_the_library():
    tokenizers = pytest.importorskip("tokenizers")
    assert set(byte_of_character()) == set(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    assert sorted(byte_of_character().values()) == list(range(256))


def test_ids_are_transformers_and_bytes_come_back(tmp_path):
    transformers = pytest.importorskip("transformers")
    ours = ByteLevelTokenizer(write_bpe(tmp_path / "bpe"))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "bpe", local_files_only=True)
    assert ours.eos == theirs.eos_token_id == 0
    for text in TEXTS:
        ids = ours.encode(text)
        assert ours.decode_bytes(ids) == text.encode()
        assert sum(ours.byte_lengths[i] for i in ids) == len(text.encode())
        assert ours.eos not in ids
        if "<|" not in text:
            assert ids == theirs(text, add_special_tokens=False)["input_ids"]
    assert ours.encode_batch(TEXTS) == [ours.encode(text) for text in TEXTS]
    assert ours.decode_bytes([ours.eos, ours.vocab_size + 5]) == b""
    assert ours.context("") == [ours.eos] and ours.context("x") == ours.encode("x")
    assert ours.fingerprint == open_tokenizer(tmp_path / "bpe").fingerprint


def test_what_the_model_puts_before_a_text_opens_a_context_alone(tmp_path):
    ours = ByteLevelTokenizer(write_bpe(tmp_path / "bpe", bos_token="<|endoftext|>", add_bos_token=True))
    assert ours.context("def") == [0, *ours.encode("def")]


def test_an_exported_sentencepiece_gives_the_same_ids(tiny_data, tmp_path):
    """Its tokenizer.json falls back to bytes; the folder's tokenizer.model, of this project, comes first."""
    own = Tokenizer(tiny_data / "tokenizer.model")
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer_json(tiny_data / "tokenizer.model")))
    (tmp_path / "config.json").write_text('{"eos_token_id": [2, 0]}')
    ours = ByteLevelTokenizer(tmp_path)
    assert ours.eos == own.eos
    for text in TEXTS:
        assert ours.encode(text) == own.encode(text), text
        assert ours.decode_bytes(ours.encode(text)) == text.encode()
    (tmp_path / "tokenizer.model").write_bytes((tiny_data / "tokenizer.model").read_bytes())
    assert isinstance(open_tokenizer(tmp_path), Tokenizer)
    (tmp_path / "tokenizer.model").write_bytes(b"of another kind")
    assert isinstance(open_tokenizer(tmp_path), ByteLevelTokenizer)


def test_the_exported_twin_begins_a_text_as_the_model_was_trained(tiny_data, tmp_path):
    """Its tokenizer.json puts the document end before a text, without marking that piece as special."""
    transformers = pytest.importorskip("transformers")
    own = Tokenizer(tiny_data / "tokenizer.model")
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer_json(tiny_data / "tokenizer.model")))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(tokenizer_config(tiny_data / "tokenizer.model", 64)))
    ours = ByteLevelTokenizer(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    for text in ("def f(x):\n", " x", ""):
        assert ours.context(text) == own.context(text) == theirs(text)["input_ids"]
    assert ours.decode_bytes([own.eos, *ours.encode("x")]) == b"x" and ours.byte_lengths[own.eos] == 0


def test_nothing_follows_the_beginning_of_a_document(tmp_path):
    """SmolLM2's tokenizer begins with one mark and ends with another, and puts neither before a text."""
    marks = ["<|im_start|>", "<|im_end|>"]
    folder = write_bpe(tmp_path / "bpe", marks, bos_token=marks[0], eos_token=marks[1])
    ours = ByteLevelTokenizer(folder)
    assert (ours.eos, ours.context(""), ours.context("x")) == (1, [0], ours.encode("x"))


def test_a_completion_ends_at_each_id_that_the_generation_config_names(tmp_path):
    """As of LLaMA 3: the tokenizer ends a turn, the configuration a text as well."""
    folder = write_bpe(tmp_path / "bpe", ["<|end|>", "<|turn|>"], eos_token="<|turn|>")
    assert ByteLevelTokenizer(folder).ends == {1}
    for value, ends in (([0, 1, 7], {0, 1, 7}), (0, {0, 1}), (None, {1}), ("0", {1}), ([True, -1], {1})):
        (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": value}))
        assert ByteLevelTokenizer(folder).ends == ends
    (folder / "generation_config.json").write_text("[]")
    with pytest.raises(InputError, match=r"generation_config\.json: expected an object, found list"):
        ByteLevelTokenizer(folder)


def test_bad_folders_are_told_in_one_line(tmp_path):
    with pytest.raises(InputError, match=r"no tokenizer.json or tokenizer.model in it"):
        open_tokenizer(tmp_path)
    folder = write_bpe(tmp_path / "bpe", eos_token=None)
    with pytest.raises(InputError, match="names an eos token"):
        ByteLevelTokenizer(folder)
    fields = json.loads((folder / "tokenizer.json").read_text()) | {"normalizer": {"type": "Lowercase"}}
    write_bpe(folder)
    (folder / "tokenizer.json").write_text(
        json.dumps(fields | {"normalizer": {"type": "Strip", "strip_left": True, "strip_right": True}})
    )
    with pytest.raises(InputError, match="does not give text back byte for byte"):
        ByteLevelTokenizer(folder)
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match="not a tokenizer"):
        ByteLevelTokenizer(folder)
