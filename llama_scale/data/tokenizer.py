"""A SentencePiece tokenizer that gives every byte of source code back."""

import hashlib
import io
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import sentencepiece

from llama_scale.errors import InputError
from llama_scale.files import atomic_write, read_bytes

ESCAPE = "\u2581"  # SentencePiece writes a space as this character
CHUNK = 4096  # bytes of one training sentence
MOST_BYTES = 1 << 28  # of a tokenizer
ESCAPED = re.compile(f"({ESCAPE})")
LINE = re.compile(r"[^\n]*\n|[^\n]+")
CODE_SETTINGS = {
    "model_type": "bpe",
    "byte_fallback": True,
    "normalization_rule_name": "identity",
    "add_dummy_prefix": False,
    "remove_extra_whitespaces": False,
    "allow_whitespace_only_pieces": True,
    "split_digits": True,
    "split_by_whitespace": True,
    "split_by_unicode_script": False,
    "character_coverage": 0.9999,
    "max_sentence_length": 1 << 20,
    "user_defined_symbols": ["\t"],
    "control_symbols": ["<fim_prefix>", "<fim_suffix>", "<fim_middle>"],
}


class Tokenizer:
    """Text to token ids and back, byte for byte.

    SentencePiece stores a space as U+2581, so that character itself would come back as a space. Here it is encoded as
    its three UTF-8 bytes; then each id stands for fixed bytes, and decoding is a table.

    Attributes:
        vocab_size: Number of ids V.
        n_text_ids: The same; marks that no text makes are below it.
        eos: Id that ends a document, and stands before a text too: ``bos`` is the same, ``start`` a list of it.
        ends: Ids that end a completion.
        fim: Ids of the prefix, suffix and middle marks of fill-in-the-middle, which no text can make, or None.
        byte_lengths: (V,) int64, bytes that each id stands for; 0 for control ids.
        fingerprint: SHA-256 over the ordered pieces: the hash of the file would depend on paths and threads as well.

    Raises InputError if the file is missing, is no SentencePiece model, is not of launch/prepare.py or loses bytes.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._processor = _load(self.path)
        self.vocab_size = self.n_text_ids = self._processor.vocab_size()
        self.eos = self.bos = self._processor.eos_id()
        self.start, self.ends = [self.eos], frozenset([self.eos])
        marks = self._processor.piece_to_id(CODE_SETTINGS["control_symbols"])
        self.fim = tuple(marks) if all(map(self._processor.is_control, marks)) else None
        ids = list(range(self.vocab_size))
        pieces = self._processor.id_to_piece(ids)
        self._bytes = [self._piece_bytes(i, piece) for i, piece in zip(ids, pieces, strict=True)]
        self.byte_lengths = np.array([len(b) for b in self._bytes], dtype=np.int64)  # (V,)
        self.fingerprint = hashlib.sha256(json.dumps(pieces).encode()).hexdigest()
        self._escaped = self._processor.piece_to_id([f"<0x{b:02X}>" for b in ESCAPE.encode()])
        probe = f" \t a  {ESCAPE}\r\n é\x00𝕏 </s> "
        crossing = any(b" " in piece.lstrip(b" ") for piece in self._bytes)
        if self.eos < 0 or crossing or self.decode_bytes(self.encode(probe)) != probe.encode():
            problem = "this SentencePiece model does not give text back byte for byte or joins words"
            raise InputError(f"{self.path}: {problem}; use one that launch/prepare.py trained")
        tab = self._processor.piece_to_id("\t")  # a symbol of ours; of others a byte, or a piece with a score
        if self._processor.is_unknown(tab) or self._processor.get_score(tab) != 0:
            problem = "a SentencePiece model from elsewhere, which does not say what begins a text"
            raise InputError(f"{self.path}: {problem}; lay the model's own tokenizer.json beside it")

    def _piece_bytes(self, i: int, piece: str) -> bytes:
        if self._processor.is_control(i) or self._processor.is_unknown(i):
            return b""
        if self._processor.is_byte(i):
            return bytes([int(piece[3:5], 16)])
        return piece.replace(ESCAPE, " ").encode()

    def context(self, prompt: str) -> list[int]:
        """Return the ids that a completion of ``prompt`` follows: a document end, then the prompt's."""
        return [self.eos, *self.encode(prompt)]

    def encode(self, text: str) -> list[int]:
        """Return the ids of ``text``, without any control id; ``[]`` for an empty text."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """Return the ids of each text. A lone surrogate raises UnicodeEncodeError."""
        parts = [_parts(text) for text in texts]
        try:
            encoded = iter(self._processor.encode([part for row in parts for part in row]))
        except TypeError:
            "".join(texts).encode()
            raise
        batch = []
        for row in parts:
            ids = []
            for part, part_ids in zip(row, encoded, strict=False):
                ids += self._escaped if part == ESCAPE else part_ids
            batch.append(ids)
        return batch

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """Return the exact bytes that the ids stand for; control ids, and ids that the model alone has, for none."""
        return b"".join([self._bytes[i] for i in ids if i < self.vocab_size])

    def name(self, token: int) -> str:
        """Return what the tokenizer calls an id, such as </s>."""
        return self._processor.id_to_piece(token) if token < self.vocab_size else f"<{token}>"

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of the ids, with U+FFFD for bytes that are not UTF-8."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")


def train_tokenizer(texts: Iterable[str], path: str | Path, vocab_size: int, threads: int = 1) -> None:
    """Train a byte-pair encoding with byte fallback on ``texts`` and write the model to ``path``.

    The pieces depend on the texts and the vocabulary size alone. Ids: 0 ``<unk>`` (never made), 1 ``<s>``, 2 ``</s>``
    (document end), 3 to 5 the marks of fill-in-the-middle. Raises InputError if the vocabulary is too large or too
    small for the texts.
    """
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_sentences(texts),
            model_writer=model,
            vocab_size=vocab_size,
            num_threads=threads,
            minloglevel=2,
            **CODE_SETTINGS,
        )
    except RuntimeError as error:
        reason = " ".join(str(error).split()).rpartition("] ")[2].partition(". Increase vocab_size")[0]
        problem = f"cannot train {vocab_size} pieces on this text ({reason})"
        raise InputError(f"vocab_size: {problem}; choose another vocab_size or more text") from None
    with atomic_write(path, "wb") as file:
        file.write(model.getvalue())


def _load(path: Path) -> sentencepiece.SentencePieceProcessor:
    try:
        if not path.exists():
            raise InputError(f"{path}: no such tokenizer; run launch/prepare.py first")
        proto = read_bytes(path, MOST_BYTES)
        if not proto:
            raise RuntimeError("empty file")
        return sentencepiece.SentencePieceProcessor(model_proto=proto)
    except RuntimeError:
        remedy = "delete its folder and run launch/prepare.py again"
        raise InputError(f"{path}: not a SentencePiece model; {remedy}") from None


def _parts(text: str) -> list[str]:
    """Cut a text where that cannot change its ids: short parts are encoded faster.

    That is around U+2581, and before a line that begins with a space, as no piece has a space
    after another character: "if x:\\n  y" is cut into "if x:\\n" and "  y".
    """
    parts = []
    for segment in ESCAPED.split(text):
        lines = [f" {line}\n" for line in segment.split("\n ")]
        lines[0] = lines[0][1:]
        lines[-1] = lines[-1][:-1]
        parts += lines
    return parts


def _sentences(texts: Iterable[str]) -> Iterator[str]:
    """Cut texts into chunks of at most CHUNK bytes that end at a line end where possible."""
    step = CHUNK // 4  # characters of a line too long for a chunk: each has at most 4 bytes
    for part in (part for text in texts for part in text.split(ESCAPE)):
        chunk, size = "", 0
        for piece in (line[i : i + step] for line in LINE.findall(part) for i in range(0, len(line), step)):
            length = len(piece.encode())
            if size + length > CHUNK:
                yield chunk
                chunk, size = "", 0
            chunk, size = chunk + piece, size + length
        if chunk:
            yield chunk
