"""The token-shard format: little-endian uint16 files beside a manifest that vouches for them."""

import hashlib
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from llama_scale.data.tokenizer import MOST_BYTES, Tokenizer
from llama_scale.errors import InputError
from llama_scale.files import atomic_write, read_json, sha256

FORMAT = "llama_scale.tokens.v1"
DTYPE = np.dtype("<u2")
MAX_VOCAB = 1 << 16
MANIFEST = "manifest.json"
REBUILD = "delete the folder and run launch/prepare.py again"
Split = Literal["train", "val"]


class ShardWriter:
    """Writes the shards of one split, each whole or absent; use it as a context manager.

    A document never crosses shards: one that does not fit starts the next shard, and one longer than a shard has a
    shard of its own. ``shards`` has the ``{"file", "tokens", "sha256"}`` of each finished one.
    """

    def __init__(self, folder: str | Path, split: Split, shard_tokens: int = 1 << 26):
        self.folder, self.split, self.shard_tokens = Path(folder), split, shard_tokens
        self.shards: list[dict[str, Any]] = []
        self._open, self._file, self._tokens = ExitStack(), None, 0

    def add(self, ids: Sequence[int] | np.ndarray) -> tuple[int, int]:
        """Append one document's ids; return its shard and offset there. Raises OverflowError above 16 bits."""
        values = np.asarray(ids)
        if values.size and not 0 <= values.min() <= values.max() < MAX_VOCAB:
            raise OverflowError(f"{self.split}: ids must be in [0, {MAX_VOCAB})")
        if self._file and self._tokens + len(ids) > self.shard_tokens:
            self._close()
        if self._file is None:
            self._name = f"{self.split}-{len(self.shards):05d}.bin"
            self._file = self._open.enter_context(atomic_write(self.folder / self._name, "wb"))
            self._digest = hashlib.sha256()
        start = self._tokens
        data = values.astype(DTYPE).tobytes()
        self._file.write(data)
        self._digest.update(data)
        self._tokens += len(ids)
        return len(self.shards), start

    def _close(self) -> None:
        self._open.close()
        self.shards.append({"file": self._name, "tokens": self._tokens, "sha256": self._digest.hexdigest()})
        self._file, self._tokens = None, 0

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: Any) -> None:
        if kind:
            self._open.__exit__(kind, *error)
        elif self._file:
            self._close()


@dataclass(frozen=True)
class Tokens:
    """One split of a build, memory-mapped; n_tokens is the length of its joined shards."""

    folder: Path
    split: Split
    manifest: dict[str, Any]
    shards: list[np.ndarray] = field(repr=False)  # a (n,) uint16 array each
    ends: np.ndarray = field(repr=False)  # (shards,) int64, position after the last token of each shard

    @property
    def tokenizer_fingerprint(self) -> str:
        """Fingerprint of the tokenizer that made the ids."""
        return self.manifest["tokenizer"]["fingerprint"]

    @property
    def fingerprint(self) -> str:
        """Content hash of the whole build."""
        return self.manifest["fingerprint"]

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""
        return self.manifest["tokenizer"]["vocab_size"]

    @property
    def eos(self) -> int:
        """Id after the last token of every document."""
        return self.manifest["tokenizer"]["eos"]

    @property
    def n_tokens(self) -> int:
        """Tokens in the split, document ends included."""
        return int(self.ends[-1])

    @property
    def n_bytes(self) -> int:
        """Bytes of source code in the split."""
        return self.manifest["splits"][self.split]["bytes"]

    def read(self, start: int, length: int) -> np.ndarray:
        """Return ``length`` tokens from position ``start``, as ``windows`` does: (length,) uint16."""
        return self.windows(np.array([start]), length)[0].astype(DTYPE)

    def windows(self, starts: np.ndarray, length: int) -> np.ndarray:
        """Return ``length`` tokens from each of ``starts`` (n,), across the ends of shards: (n, length) int64.

        With shards of 10 and 5 tokens ``ends`` is [10, 15]; three tokens from position 8 are tokens 8 and 9 of shard 0
        and token 0 of shard 1. Raises IndexError where a window is not inside the split.
        """
        starts = np.asarray(starts, dtype=np.int64)  # (n,)
        if length < 0 or (len(starts) and (starts.min() < 0 or starts.max() + length > self.n_tokens)):
            where = f"{self.folder}/{self.split}, which has {self.n_tokens}"
            raise IndexError(f"windows of {length} tokens from {starts.min()} to {starts.max()} of {where}")
        out = np.empty((len(starts), length), dtype=np.int64)
        for row, start in zip(out, starts.tolist(), strict=True):
            filled = 0
            i = int(np.searchsorted(self.ends, start, side="right")) if len(self.shards) > 1 else 0
            while filled < length:
                shard = self.shards[i]
                local = start + filled - (int(self.ends[i]) - len(shard))  # position in this shard
                part = shard[local : local + length - filled]
                row[filled : filled + len(part)] = part
                filled, i = filled + len(part), i + 1
        return out


def open_tokens(folder: str | Path, split: Split, verify: bool = True) -> Tokens:
    """Open one split of a build made by launch/prepare.py, for example of data/quickstart.

    With ``verify`` the SHA-256 of every shard of the split and of the tokenizer is checked too. Raises InputError if
    the folder or its manifest is missing, a shard is missing, cut or changed, or the tokenizer beside the shards is not
    the one that made them.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    shards = [_open_shard(folder / entry["file"], entry, verify) for entry in manifest["splits"][split]["shards"]]
    tokens = Tokens(folder, split, manifest, shards, np.cumsum([len(shard) for shard in shards], dtype=np.int64))
    path = folder / manifest["tokenizer"]["file"]
    small = path.is_file() and path.stat().st_size <= MOST_BYTES
    if verify and not (small and sha256(path) == manifest["tokenizer"]["sha256"]):
        load_tokenizer(tokens)  # another file may hold the same pieces
    return tokens


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """Return the manifest of a build; raise InputError if there is none or it cannot be read."""
    path = Path(folder) / MANIFEST
    if not path.is_file():
        problem = "no manifest.json in it" if Path(folder).is_dir() else "no such folder"
        raise InputError(f"{folder}: {problem}; make the data with launch/prepare.py")
    manifest = read_json(path)
    if (found := manifest.get("format") if isinstance(manifest, dict) else manifest) != FORMAT:
        raise InputError(f"{path}: expected format {FORMAT!r}, found {found!r}; {REBUILD}")
    for name in ("tokenizer", "splits", "fingerprint"):
        if name not in manifest:
            raise InputError(f"{path}: {name!r} is missing; {REBUILD}")
    return manifest


def load_tokenizer(tokens: Tokens) -> Tokenizer:
    """Return the tokenizer beside the shards; raise InputError if it did not make them."""
    tokenizer = Tokenizer(tokens.folder / tokens.manifest["tokenizer"]["file"])
    check_tokenizer(tokens, tokenizer)
    return tokenizer


def check_tokenizer(tokens: Tokens, tokenizer: Tokenizer) -> None:
    """Raise InputError naming both files unless ``tokenizer`` made the ids of ``tokens``."""
    if tokenizer.fingerprint != tokens.tokenizer_fingerprint:
        names = f"tokenizer {tokenizer.fingerprint[:12]}, shards made with {tokens.tokenizer_fingerprint[:12]}"
        remedy = "use the data and the tokenizer of one build, or run launch/prepare.py again"
        raise InputError(f"{tokenizer.path}: does not match the shards of {tokens.folder} ({names}); {remedy}")


def data_fingerprint(splits: dict[str, dict[str, Any]], tokenizer_fingerprint: str) -> str:
    """Return the SHA-256 that names a build: over its tokenizer's and its shards' hashes."""
    digest = hashlib.sha256(tokenizer_fingerprint.encode())
    for split in sorted(splits):
        for shard in splits[split]["shards"]:
            digest.update(f"\n{shard['file']} {shard['sha256']}".encode())
    return digest.hexdigest()


def _open_shard(path: Path, entry: dict[str, Any], verify: bool) -> np.ndarray:
    if not path.is_file():
        raise InputError(f"{path}: no such file, but manifest.json lists it; {REBUILD}")
    if (size := path.stat().st_size) != (expected := entry["tokens"] * DTYPE.itemsize):
        raise InputError(f"{path}: {size} bytes, but manifest.json says {expected}: the file is damaged; {REBUILD}")
    if verify and (checksum := sha256(path)) != entry["sha256"]:
        problem = f"checksum {checksum[:12]} does not match manifest.json ({entry['sha256'][:12]})"
        raise InputError(f"{path}: {problem}: the file is damaged; {REBUILD}")
    return np.asarray(np.memmap(path, dtype=DTYPE, mode="r"))
