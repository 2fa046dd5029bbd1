"""Documents to token shards, each document proven to come back byte for byte."""

import functools
import gzip
import hashlib
import io
import json
import struct
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from data_tools.corpus import corpus
from data_tools.corpus.records import Record
from data_tools.encode.fim import Fim, arrange
from data_tools.encode.packing import best_fit
from llama_scale.data.shards import ShardWriter, Split
from llama_scale.data.tokenizer import Tokenizer
from llama_scale.errors import InputError
from llama_scale.files import atomic_write, sha256

DOCUMENTS = "documents.jsonl.gz"
KINDS = (None, "psm", "spm")
SPILL = "train.ids"  # the encoded documents of a split before they are packed


@dataclass(frozen=True)
class Layout:
    """How documents are laid out in shards.

    Attributes:
        shard_tokens: Most tokens in a shard.
        seed: Seed of the order of packed sequences.
        pack_length: Tokens of a packed sequence; None joins the documents.
        fim: Fill-in-the-middle, or None.
    """

    shard_tokens: int
    seed: int = 0
    pack_length: int | None = None
    fim: Fim | None = None


@dataclass(frozen=True)
class Encoded:
    """One document's ids, its end included, (n,) uint16; ``fim`` is "psm", "spm" or None."""

    ids: np.ndarray
    fim: str | None


def shuffled(records: Iterable[Record], seed: int) -> np.ndarray:
    """Return the order of the records by a hash of (seed, package, path): (D,) int64.

    Any prefix of it is a fair sample.
    """
    keys = array("Q")
    for record in records:
        name = f"{seed}/{record.package}/{record.path}".encode()
        keys.extend(struct.unpack(">2Q", hashlib.sha256(name).digest()[:16]))
    first, second = np.array(keys, dtype=np.uint64).reshape(-1, 2).T  # (D,), (D,)
    return np.lexsort([second, first])


def write_splits(
    splits: dict[Split, Sequence[Record]],
    contents: Path,
    folder: Path,
    tokenizer: Path,
    layout: Layout,
    map_: Callable,
) -> dict[str, dict]:
    """Write the shards of each split and documents.jsonl.gz; return the manifest's "splits".

    Only training documents are rearranged or packed: validation measures plain text.

    Args:
        splits: The documents of each split in shard order.
        contents: Folder of contents.bin.
        folder: Where the shards go.
        tokenizer: The model file.
        layout: How they are laid out.
        map_: Ordered map, see ``workers.mapper``.

    Raises:
        InputError: A document does not come back byte for byte, named.
    """
    summary = {}
    with (
        atomic_write(folder / DOCUMENTS, "wb") as raw,
        gzip.GzipFile("", "wb", compresslevel=6, fileobj=raw, mtime=0) as packed,
        io.TextIOWrapper(packed, encoding="utf-8") as rows,
    ):
        for split, records in splits.items():
            fim = layout.fim if split == "train" else None
            encoded = _progress(split, records, _encode(records, contents, tokenizer, fim, map_))
            write = _write_packed if split == "train" and layout.pack_length else _write_joined
            with ShardWriter(folder, split, layout.shard_tokens) as writer:
                extra = write(writer, records, encoded, rows, tokenizer, layout)
            summary[split] = {
                "tokens": sum(shard["tokens"] for shard in writer.shards),
                "bytes": int(corpus.sizes(records).sum()),
                "documents": len(records),
                "shards": writer.shards,
                **extra,
            }
    return summary


def _progress(
    split: str, records: Sequence[Record], encoded: Iterator[Encoded]
) -> Iterator[Encoded]:
    bar = tqdm(
        total=int(corpus.sizes(records).sum()), desc=f"encoding {split}", unit="B",
        unit_scale=True, leave=False, disable=None,
    )  # fmt: skip
    with bar:
        for record, document in zip(records, encoded, strict=True):
            yield document
            bar.update(record.size)


def _write_joined(
    writer: ShardWriter, records: Sequence[Record], encoded: Iterator[Encoded], rows: io.TextIOBase,
    tokenizer: Path, layout: Layout,
) -> dict:  # fmt: skip
    """Write one document after another."""
    for record, document in zip(records, encoded, strict=True):
        shard, start = writer.add(document.ids)
        row = _row(writer.split, shard, start, len(document.ids), record.size, record)
        rows.write(json.dumps(row | ({"fim": document.fim} if document.fim else {})) + "\n")
    return {}


def _write_packed(
    writer: ShardWriter, records: Sequence[Record], encoded: Iterator[Encoded], rows: io.TextIOBase,
    tokenizer: Path, layout: Layout,
) -> dict:  # fmt: skip
    """Write sequences of ``layout.pack_length`` tokens; what they lack is document ends.

    One more document end follows the last sequence, so that its last token has a target.
    """
    size, model = layout.pack_length, Tokenizer(tokenizer)
    lengths, kinds = array("q"), bytearray()
    spill = writer.folder / SPILL
    with open(spill, "wb") as file:
        for document in encoded:
            file.write(document.ids.astype("<u2").tobytes())
            lengths.append(len(document.ids))
            kinds.append(KINDS.index(document.fim))
    lengths = np.array(lengths, dtype=np.int64)  # (D,)
    begins = np.cumsum(lengths) - lengths
    n_sequences, sequences = best_fit(lengths, size, layout.seed)
    padding, cut = 0, int((lengths > size).sum())
    if len(lengths):
        ids = np.memmap(spill, dtype="<u2", mode="r")
        for number, sequence in enumerate(sequences):
            last = number == n_sequences - 1
            parts = [ids[begins[d] + s : begins[d] + s + n] for d, s, n in sequence]
            filler = size - sum(map(len, parts)) + last
            padding += filler
            shard, start = writer.add(
                np.concatenate([*parts, np.full(filler, model.eos, dtype="<u2")])
            )
            for (d, s, n), part in zip(sequence, parts, strict=True):
                row = _row(
                    writer.split, shard, start, n, int(model.byte_lengths[part].sum()), records[d]
                )
                row |= {"fim": KINDS[kinds[d]]} if kinds[d] else {}
                row |= {"first": s, "of": int(lengths[d])} if lengths[d] > n else {}
                rows.write(json.dumps(row) + "\n")
                start += n
        del ids
    spill.unlink()
    packing = {"length": size, "sequences": n_sequences, "padding": padding, "cut": cut}
    return {"packing": packing}


def _encode(
    records: Sequence[Record], contents: Path, tokenizer: Path, fim: Fim | None, map_: Callable
) -> Iterator[Encoded]:
    """Yield each record encoded."""
    task = functools.partial(encode_batch, contents, tokenizer, sha256(tokenizer), fim)
    for ids, lengths, kinds in map_(task, corpus.batches(records)):
        yield from map(Encoded, np.split(ids, np.cumsum(lengths[:-1])), kinds)


def encode_batch(
    contents: Path, tokenizer: Path, checksum: str, fim: Fim | None, batch: list[Record]
) -> tuple[np.ndarray, list[int], list[str | None]]:
    """Encode documents and decode them again.

    ``checksum`` is the tokenizer file's, so that a process never keeps an older model.

    Returns:
        All their ids joined, each document followed by the end id, (n,) uint16; the number of
        ids of each; and how each is rearranged.

    Raises:
        InputError: A document does not come back byte for byte.
    """
    model = _tokenizer(tokenizer, checksum)
    raw = list(corpus.contents(contents, batch))
    texts = [content.decode("utf-8") for content in raw]
    if fim is None:
        kinds, cut = [None] * len(texts), [(text, "", "") for text in texts]
    else:
        keyed = zip(texts, batch, strict=True)
        found = [arrange(text, record.sha256, fim) for text, record in keyed]
        kinds, cut = [kind for kind, _ in found], [parts for _, parts in found]
    encoded = iter(model.encode_batch([text for parts in cut for text in parts]))
    documents = []
    for record, content, kind in zip(batch, raw, kinds, strict=True):
        prefix, middle, suffix = next(encoded), next(encoded), next(encoded)
        if model.decode_bytes([*prefix, *middle, *suffix]) != content:
            raise InputError(
                f"{record.package}: {record.path}: does not come back byte for byte from the "
                "tokenizer; nothing was written"
            )
        ids = prefix if kind is None else _rearranged(kind, prefix, middle, suffix, model)
        documents.append(np.array([*ids, model.eos], dtype=np.uint16))
    return np.concatenate(documents), [len(ids) for ids in documents], kinds


def _rearranged(
    kind: str, prefix: list[int], middle: list[int], suffix: list[int], model: Tokenizer
) -> list[int]:
    pre, suf, mid = model.fim
    if kind == "psm":
        return [pre, *prefix, suf, *suffix, mid, *middle]
    return [pre, suf, *suffix, mid, *prefix, *middle]


@functools.lru_cache(maxsize=1)
def _tokenizer(path: Path, checksum: str) -> Tokenizer:
    """Read the model once in each process, and again when the file has another checksum."""
    return Tokenizer(path)


def _row(split: str, shard: int, start: int, tokens: int, size: int, record: Record) -> dict:
    row = {
        "split": split,
        "shard": shard,
        "start": start,
        "tokens": tokens,
        "bytes": size,
        "package": record.package,
        "path": record.path,
        "license": record.license,
        "sha256": record.sha256,
    }
    return row | ({"redacted": record.redacted} if record.redacted else {})
