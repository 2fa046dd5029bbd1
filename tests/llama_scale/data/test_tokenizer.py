"""The tokenizer gives every byte back, and its ids are SentencePiece's own."""

import random
import sysconfig
from pathlib import Path

import numpy as np
import pytest
import sentencepiece

from llama_scale.data.tokenizer import CHUNK, Tokenizer, _sentences, train_tokenizer
from llama_scale.errors import InputError

LIBRARY = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
ADVERSARIAL = {
    "empty": "",
    "one space": " ",
    "only spaces": " " * 37,
    "leading and trailing spaces": "   x = 1   ",
    "escape character": "\u2581",
    "escape character among spaces": " \u2581 \u2581\u2581 a\u2581b ",
    "escape character at line start": "if x:\n \u2581\n  \u2581y\n",
    "tabs": "\t\tif x:\n\t \ty\t",
    "carriage returns": "a = 1\r\nb = 2\r\n\r\r\n",
    "newlines only": "\n\n\n\n",
    "no newline at the end": "x",
    "indented lines": "if x:\n    y\n        z\n \n  \n",
    "byte order mark": "\ufeffimport os\n",
    "nul": "a\0b\0",
    "control characters": "".join(map(chr, range(1, 32))) + "\x7f\x85",
    "unicode line ends": "a\u2028b\u2029c\x0bd\x0ce\x1cf",
    "astral": "𝕏 = '😀🏳️‍🌈👩‍👩‍👧‍👦'",
    "highest code point": "\U0010ffff\ue000\ufffe",
    "combining": "e\u0301 \u0061\u0328\u0301 \u1100\u1161",
    "compatibility forms": "ﬁ ﬀ ① ｘ K",
    "right to left": "שלום \u202eעולם\u202c مرحبا",
    "replacement and unknown": "\ufffd \u2047 \u2585 \u2047",
    "spelled control pieces": "</s><s> <unk> <pad>",
    "spelled byte pieces": "<0x41><0x0A> <0xE2><0x96><0x81>",
    "long run": "a" * 5000 + "=" * 5000,
    "long line without spaces": "x=[" + ",".join(map(str, range(3000))) + "]",
    "non-breaking spaces": "a\u00a0b\u3000c\u200b\u2009d",
    "all latin-1": bytes(range(1, 256)).decode("latin-1"),
}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    train_tokenizer((file.read_text() for file in LIBRARY[:40]), path, 1024)
    return path


@pytest.fixture(scope="module")
def tokenizer(path):
    return Tokenizer(path)


@pytest.mark.parametrize("text", ADVERSARIAL.values(), ids=ADVERSARIAL)
def test_round_trip(tokenizer, text):
    ids = tokenizer.encode(text)
    assert tokenizer.decode_bytes(ids) == text.encode()
    assert tokenizer.decode(ids) == text
    assert min(ids, default=3) > 2, "text became a control id"
    assert tokenizer.byte_lengths[ids].sum() == len(text.encode())


def test_real_files(tokenizer):
    texts = [file.read_bytes().decode() for file in LIBRARY]
    for text, ids in zip(texts, tokenizer.encode_batch(texts), strict=True):
        assert tokenizer.decode_bytes(ids) == text.encode()


def test_ids_are_those_of_sentencepiece(path, tokenizer):
    reference = sentencepiece.SentencePieceProcessor(model_file=str(path))
    texts = [file.read_text() for file in LIBRARY[40:60]]
    random.seed(0)
    texts += ["".join(random.choices(" \n\tab.=(é", k=200)) for _ in range(300)]
    for text, ids in zip(texts, tokenizer.encode_batch(texts), strict=True):
        assert ids == reference.encode(text)


def test_batch_equals_single(tokenizer):
    texts = list(ADVERSARIAL.values())
    assert tokenizer.encode_batch(texts) == [tokenizer.encode(text) for text in texts]
    assert tokenizer.encode_batch([]) == []
    assert tokenizer.encode("") == []


def test_ids_and_table(tokenizer):
    assert tokenizer.vocab_size == 1024
    assert tokenizer.eos == 2
    assert tokenizer.byte_lengths.shape == (1024,)
    assert tokenizer.byte_lengths.dtype == np.int64
    assert tokenizer.fim == (3, 4, 5)
    assert tokenizer.byte_lengths[:6].tolist() == [0] * 6
    assert tokenizer.byte_lengths[6:].min() == 1
    assert tokenizer.decode_bytes([1, 2, 0]) == b""
    half = tokenizer.encode("\u2581")[:1]
    assert tokenizer.decode_bytes(half) == b"\xe2"
    assert tokenizer.decode(half) == "\ufffd"


def test_lone_surrogate_is_named(tokenizer):
    with pytest.raises(UnicodeEncodeError):
        tokenizer.encode("a\ud800")


def test_training_is_the_same_for_any_threads(path, tokenizer, tmp_path):
    train_tokenizer((f.read_text() for f in LIBRARY[:40]), tmp_path / "two.model", 1024, threads=3)
    assert Tokenizer(tmp_path / "two.model").fingerprint == tokenizer.fingerprint
    train_tokenizer((f.read_text() for f in LIBRARY[:40]), tmp_path / "less.model", 1000)
    assert Tokenizer(tmp_path / "less.model").fingerprint != tokenizer.fingerprint


def test_training_sentences_keep_the_text():
    texts = ["a\u2581b\n\n", "é" * 9000, "x = 1\n" * 3000, "", "\n", "tail without end"]
    for text in texts:
        sentences = list(_sentences([text]))
        assert "".join(sentences) == text.replace("\u2581", "")
        assert all(0 < len(sentence.encode()) <= CHUNK for sentence in sentences)
    inside = list(_sentences(["x = 1\n" * 3000]))
    assert all(sentence.endswith("\n") for sentence in inside)
    assert len(inside) == -(-18000 // (CHUNK // 6 * 6))


@pytest.mark.parametrize("vocab_size", [200, 60_000])
def test_impossible_vocabulary(tmp_path, vocab_size):
    with pytest.raises(InputError, match=f"^vocab_size: cannot train {vocab_size} pieces") as error:
        train_tokenizer([LIBRARY[0].read_text()], tmp_path / "no.model", vocab_size)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_unusable_files(path, tmp_path):
    with pytest.raises(InputError, match=r"no such tokenizer; run launch/prepare\.py"):
        Tokenizer(tmp_path / "absent.model")
    for content in (b"", b"not a model", path.read_bytes()[:4000]):
        (tmp_path / "broken.model").write_bytes(content)
        with pytest.raises(InputError, match=r"broken\.model: not a SentencePiece model"):
            Tokenizer(tmp_path / "broken.model")


def train_elsewhere(prefix, **settings):
    """Write PREFIX.model, a SentencePiece model of other settings than this project's."""
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(LIBRARY[0].read_text().splitlines()),
        model_prefix=str(prefix),
        vocab_size=400,
        model_type="bpe",
        minloglevel=2,
        **settings,
    )


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"byte_fallback": True},
        {"byte_fallback": True, "normalization_rule_name": "identity", "add_dummy_prefix": False},
    ],
)
def test_a_model_that_loses_bytes_is_refused(tmp_path, settings):
    train_elsewhere(tmp_path / "lossy", **settings)
    with pytest.raises(InputError, match=r"lossy\.model: .* byte for byte"):
        Tokenizer(tmp_path / "lossy.model")


def test_a_model_from_elsewhere_is_not_taken_for_one_of_ours(tmp_path):
    """Yi's and Baichuan's lose no byte; their models were not trained with a document end before a text."""
    train_elsewhere(
        tmp_path / "elsewhere", byte_fallback=True, normalization_rule_name="identity", add_dummy_prefix=False,
        remove_extra_whitespaces=False,
    )  # fmt: skip
    with pytest.raises(InputError, match=r"elsewhere\.model: a SentencePiece model from elsewhere.*tokenizer\.json"):
        Tokenizer(tmp_path / "elsewhere.model")


def test_a_model_that_joins_words_is_refused(tmp_path):
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["import os\nimport sys\n"] * 50),
        model_prefix=str(tmp_path / "joined"),
        vocab_size=290,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        split_by_whitespace=False,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    with pytest.raises(InputError, match="joins words"):
        Tokenizer(tmp_path / "joined.model")
