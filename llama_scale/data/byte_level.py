"""A byte-pair encoding of the ``tokenizers`` library (tokenizer.json), with the surface of ``Tokenizer``."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from llama_scale.errors import InputError
from llama_scale.files import read_json

# Every byte that UTF-8 has, and capitals: a tokenizer may lose what it has no piece for, or make it small.
PROBE = " \t a  \r\n é𝕏 def f(x):\n    return x " + " ".join(
    map(chr, (*range(192), *range(0x90, 0x800, 64), *(0x813 + 4096 * i for i in range(16) if i not in (13, 14)),
              0xD013, 0xE013, *(0x10013 + 0x40000 * i for i in range(4)), 0x100013))
)  # fmt: skip
SPACE = "\u2581"  # a space, as Llama-2's pieces have it


def byte_of_character() -> dict[str, int]:
    """Return the byte that each character of a byte-level piece stands for (GPT-2's table).

    Printable bytes stand for themselves, the others for characters from U+0100 on, in order.
    """
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


class ByteLevelTokenizer:
    """Text to token ids and back, byte for byte, by a model's tokenizer.json.

    Attributes:
        vocab_size: Number of ids V that the tokenizer has.
        n_text_ids: One more than the largest id that a text can have or that ends one; marks may be above.
        eos: Id that ends a document.
        ends: Ids that end a completion: ``eos``, and those of generation_config.json.
        start: Ids that the model's own tokenizer puts before a text.
        bos: Id that its settings say begins one, whether it is put there or not; None where they name none.
        fim: None, as no marks of fill-in-the-middle are known.
        byte_lengths: (V,) int64, bytes that each id stands for; 0 for control ids.
        fingerprint: SHA-256 over the ordered pieces.

    Raises InputError if the folder has no such file, names no end of a document, or the tokenizer loses bytes.
    """

    fim = None

    def __init__(self, folder: str | Path):
        import tokenizers

        folder = Path(folder)
        self.path = folder / "tokenizer.json"
        if not self.path.is_file():
            raise InputError(f"{folder}: no tokenizer.json or tokenizer.model in it; copy the model's own there")
        fields = read_json(self.path)
        try:
            whole = tokenizers.Tokenizer.from_str(json.dumps(fields))
            self._tokenizer = tokenizers.Tokenizer.from_str(json.dumps(without_prefix(fields)))
        except Exception as error:  # tokenizers raises this class itself
            raise InputError(f"{self.path}: not a tokenizer ({error})") from None
        for each in (whole, self._tokenizer):
            each.no_padding()
            each.no_truncation()
        settings = read_json(folder / "tokenizer_config.json") if (folder / "tokenizer_config.json").is_file() else {}
        self._whole = whole
        self.eos = self._end(folder, settings)
        self.ends = frozenset([self.eos, *end_ids(folder)])
        self.start, bos = prefix(whole), self._id(settings.get("bos_token"))
        if settings.get("add_bos_token") and not self.start and bos is not None:
            self.start = [bos]
        self.bos = self.start[0] if self.start else bos
        self._before_nothing = self.start or [self.eos if bos is None else bos]
        special = {i for i, token in whole.get_added_tokens_decoder().items() if token.special}
        special |= {self.eos, *self._before_nothing}  # a file need not mark its own
        if (unknown := self._id(settings.get("unk_token"))) is not None:
            special.add(unknown)
        self._tokenizer.encode_special_tokens = whole.encode_special_tokens = True  # no text makes a control id
        self.vocab_size = whole.get_vocab_size()
        pieces = [whole.id_to_token(i) or "" for i in range(self.vocab_size)]
        self._bytes = piece_bytes(pieces, fields, special)
        self.byte_lengths = np.array([len(b) for b in self._bytes], dtype=np.int64)  # (V,)
        self.fingerprint = hashlib.sha256(json.dumps(pieces).encode()).hexdigest()
        self.n_text_ids = 1 + max(self.eos, *(i for i in range(self.vocab_size) if i not in special))
        if self.decode_bytes(self.encode(PROBE)) != PROBE.encode():
            raise InputError(f"{self.path}: this tokenizer does not give text back byte for byte; it cannot be used")

    def _id(self, token: Any) -> int | None:
        content = token.get("content") if isinstance(token, dict) else token
        return self._whole.token_to_id(content) if isinstance(content, str) else None

    def _end(self, folder: Path, settings: dict[str, Any]) -> int:
        """Return the id that ends a document: the tokenizer's own, or the model's."""
        if (named := self._id(settings.get("eos_token"))) is not None:
            return named
        for name in ("generation_config.json", "config.json"):
            value = read_json(folder / name).get("eos_token_id") if (folder / name).is_file() else None
            if isinstance(value := value[0] if isinstance(value, list) and value else value, int):
                return value
        raise InputError(f"{folder}: neither tokenizer_config.json nor config.json names an eos token; add eos_token")

    def context(self, prompt: str) -> list[int]:
        """Return the ids that a completion of ``prompt`` follows: those of the model's own tokenizer, at least one."""
        ids = self._whole.encode(prompt, add_special_tokens=False).ids
        return [*self.start, *ids] if ids else self._before_nothing

    def encode(self, text: str) -> list[int]:
        """Return the ids of ``text`` as it goes on after another, without any control id; ``[]`` for an empty text."""
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """Return the ids of each text."""
        return [row.ids for row in self._tokenizer.encode_batch(texts, add_special_tokens=False)]

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """Return the exact bytes that the ids stand for; control ids, and ids that the model alone has, for none."""
        return b"".join([self._bytes[i] for i in ids if i < self.vocab_size])

    def name(self, token: int) -> str:
        """Return what the tokenizer calls an id, such as <|im_end|>."""
        return self._whole.id_to_token(token) or f"<{token}>"

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of the ids, with U+FFFD for bytes that are not UTF-8."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")


def end_ids(folder: Path) -> list[int]:
    """Return the ids that end a text by a folder's generation_config.json; raise InputError if it is no object."""
    path = folder / "generation_config.json"
    fields = read_json(path) if path.is_file() else {}
    if not isinstance(fields, dict):
        raise InputError(f"{path}: expected an object, found {type(fields).__name__}")
    ends = fields.get("eos_token_id")
    return [i for i in (ends if isinstance(ends, list) else [ends]) if type(i) is int and i >= 0]


def prefix(tokenizer: Any) -> list[int]:
    """Return the ids that a tokenizer of the ``tokenizers`` library puts before a text, whatever they are called."""
    plain, whole = (tokenizer.encode("a", add_special_tokens=added).ids for added in (False, True))
    return whole[: next((n for n in range(len(whole)) if whole[n : n + len(plain)] == plain), 0)]


def without_prefix(fields: dict[str, Any]) -> dict[str, Any]:
    """Return a tokenizer.json without the space that it would put before a text."""

    def cleaned(part: Any) -> Any:
        if isinstance(part, list):
            return [cleaned(item) for item in part if not (isinstance(item, dict) and item.get("type") == "Prepend")]
        if not isinstance(part, dict):
            return part
        values = {name: cleaned(value) for name, value in part.items()}
        if part.get("type") == "Metaspace":
            values |= {"prepend_scheme": "never"}
        return values | ({"add_prefix_space": False} if "add_prefix_space" in part else {})

    kept = {name: cleaned(fields.get(name)) for name in ("normalizer", "pre_tokenizer")}
    if isinstance(kept["normalizer"], dict) and kept["normalizer"].get("type") == "Prepend":
        kept["normalizer"] = None
    return fields | kept


def piece_bytes(pieces: list[str], fields: dict[str, Any], special: set[int]) -> list[bytes]:
    """Return the bytes of each piece of a tokenizer.json; ``special`` ids have none.

    Pieces are written in GPT-2's characters for bytes, or, with a ByteFallback decoder, as text with <0x0A> for a byte.
    """
    table, added = byte_of_character(), {token["id"] for token in fields.get("added_tokens", [])}
    decoder = json.dumps(fields.get("decoder"), ensure_ascii=False)
    fallback, spaced = "ByteFallback" in decoder, SPACE in decoder
    result = []
    for i, piece in enumerate(pieces):
        if i in special:
            result.append(b"")
        elif fallback and len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
            result.append(bytes([int(piece[3:5], 16)]))
        elif fallback or i in added:
            result.append((piece.replace(SPACE, " ") if spaced and i not in added else piece).encode())
        else:
            known = all(character in table for character in piece)
            result.append(bytes(table[character] for character in piece) if known else piece.encode())
    return result
