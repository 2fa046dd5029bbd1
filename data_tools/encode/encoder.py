"""Documents to token shards, each document proven to come back byte for byte."""

import functools
import gzip
import io
import json
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_tools.corpus.corpus import batches, document_sizes, read_contents
from data_tools.corpus.records import Record
from data_tools.encode.fim import FimSettings, cut_for_fim, with_fim_marks
from data_tools.encode.packing import best_fit
from data_tools.progress import with_progress
from llama_scale.data.documents import DOCUMENTS
from llama_scale.data.shards import ShardWriter, Split
from llama_scale.data.tokenizer import Tokenizer
from llama_scale.errors import InputError
from llama_scale.files import atomic_write, sha256

FIM_KINDS = (None, "psm", "spm")
UNPACKED = "train.ids"  # the encoded documents of a split before they are packed


@dataclass(frozen=True)
class ShardLayout:
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
    fim: FimSettings | None = None


@dataclass(frozen=True)
class EncodedDocument:
    """One document's ids, its end included, (n,) uint16; ``fim`` is "psm", "spm" or None."""

    ids: np.ndarray
    fim: str | None


def write_splits(
    splits: dict[Split, Sequence[Record]],
    contents: Path,
    folder: Path,
    tokenizer: Path,
    layout: ShardLayout,
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
        map_: Ordered map, see ``process_map.process_map``.

    Raises:
        InputError: A document does not come back byte for byte, named.
    """
    summary = {}
    # No time and no name in the head of the gzip file: equal documents make equal bytes.
    with (
        atomic_write(folder / DOCUMENTS, "wb") as raw,
        gzip.GzipFile("", "wb", compresslevel=6, fileobj=raw, mtime=0) as packed,
        io.TextIOWrapper(packed, encoding="utf-8") as rows,
    ):
        for split, records in splits.items():
            fim = layout.fim if split == "train" else None
            encoded = _encode(records, contents, tokenizer, fim, map_)
            sizes = document_sizes(records)
            encoded = with_progress(encoded, f"encoding {split}", int(sizes.sum()), "B", sizes)
            pack = split == "train" and layout.pack_length
            write = _write_packed if pack else _write_concatenated
            with ShardWriter(folder, split, layout.shard_tokens) as writer:
                extra = write(writer, records, encoded, rows, tokenizer, layout)
            summary[split] = {
                "tokens": sum(shard["tokens"] for shard in writer.shards),
                "bytes": int(sizes.sum()),
                "documents": len(records),
                "shards": writer.shards,
                **extra,
            }
    return summary


def _write_concatenated(
    writer: ShardWriter, records: Sequence[Record], encoded: Iterator[EncodedDocument],
    rows: io.TextIOBase, tokenizer: Path, layout: ShardLayout,
) -> dict:  # fmt: skip
    """Write one document after another."""
    for record, document in zip(records, encoded, strict=True):
        shard, start = writer.add(document.ids)
        row = _document_row(
            record, split=writer.split, shard=shard, start=start, tokens=len(document.ids), size=record.size
        )
        rows.write(json.dumps(row | ({"fim": document.fim} if document.fim else {})) + "\n")
    return {}


def _write_packed(
    writer: ShardWriter, records: Sequence[Record], encoded: Iterator[EncodedDocument],
    rows: io.TextIOBase, tokenizer: Path, layout: ShardLayout,
) -> dict:  # fmt: skip
    """Write sequences of ``layout.pack_length`` tokens; what they lack is document ends.

    One more document end follows the last sequence, so that its last token has a target.
    """
    size, model = layout.pack_length, Tokenizer(tokenizer)
    # Packing takes the documents in the order of their lengths, which are known only when all are
    # encoded: the ids wait in a file, document d at offsets[d], and are read from there by pieces.
    lengths, kinds = array("q"), bytearray()
    unpacked = writer.folder / UNPACKED
    with open(unpacked, "wb") as file:
        for document in encoded:
            file.write(document.ids.astype("<u2").tobytes())
            lengths.append(len(document.ids))
            kinds.append(FIM_KINDS.index(document.fim))
    lengths = np.array(lengths, dtype=np.int64)  # (D,)
    offsets = np.cumsum(lengths) - lengths  # (D,)
    n_sequences, sequences = best_fit(lengths, size, layout.seed)
    padding, n_cut = 0, int((lengths > size).sum())
    if len(lengths):
        ids = np.memmap(unpacked, dtype="<u2", mode="r")  # (tokens,)
        for number, sequence in enumerate(sequences):
            is_last = number == n_sequences - 1
            pieces = [ids[offsets[d] + first :][:n] for d, first, n in sequence]
            n_padding = size - sum(map(len, pieces)) + is_last
            padding += n_padding
            ends = np.full(n_padding, model.eos, dtype="<u2")
            shard, start = writer.add(np.concatenate([*pieces, ends]))
            for (d, first, n), piece in zip(sequence, pieces, strict=True):
                n_bytes = int(model.byte_lengths[piece].sum())
                row = _document_row(records[d], split=writer.split, shard=shard, start=start, tokens=n, size=n_bytes)
                row |= {"fim": FIM_KINDS[kinds[d]]} if kinds[d] else {}
                row |= {"first": first, "of": int(lengths[d])} if lengths[d] > n else {}
                rows.write(json.dumps(row) + "\n")
                start += n
        del ids
    unpacked.unlink()
    packing = {"length": size, "sequences": n_sequences, "padding": padding, "cut": n_cut}
    return {"packing": packing}


def _encode(
    records: Sequence[Record], contents: Path, tokenizer: Path, fim: FimSettings | None, map_: Callable
) -> Iterator[EncodedDocument]:
    """Yield each record encoded."""
    task = functools.partial(encode_batch, contents, tokenizer, sha256(tokenizer), fim)
    for ids, lengths, kinds in map_(task, batches(records)):
        # One array of all ids and their lengths travel from the worker: ends at 3 and 5 cut an
        # array of 9 into 3, 2 and 4.
        yield from map(EncodedDocument, np.split(ids, np.cumsum(lengths[:-1])), kinds)


def encode_batch(
    contents: Path, tokenizer: Path, checksum: str, fim: FimSettings | None, batch: list[Record]
) -> tuple[np.ndarray, list[int], list[str | None]]:
    """Encode documents and decode them again.

    ``checksum`` is the tokenizer file's, so that a process never keeps an older model.

    Returns:
        All their ids joined, each document followed by the end id, (n,) uint16; the number of
        ids of each; and how each is rearranged.

    Raises:
        InputError: A document does not come back byte for byte.
    """
    model = _load_tokenizer(tokenizer, checksum)
    raw = list(read_contents(contents, batch))
    cuts = [
        cut_for_fim(content.decode("utf-8"), record.sha256, fim) for content, record in zip(raw, batch, strict=True)
    ]
    kinds = [kind for kind, _ in cuts]
    # Three texts a document, most of them empty without fill-in-the-middle, in one call.
    encoded = iter(model.encode_batch([text for _, parts in cuts for text in parts]))
    documents = []
    for record, content, kind in zip(batch, raw, kinds, strict=True):
        prefix, middle, suffix = next(encoded), next(encoded), next(encoded)
        if model.decode_bytes([*prefix, *middle, *suffix]) != content:
            raise InputError(
                f"{record.package}: {record.path}: does not come back byte for byte from the "
                "tokenizer; nothing was written"
            )
        ids = with_fim_marks(kind, prefix, middle, suffix, model.fim)
        documents.append(np.array([*ids, model.eos], dtype=np.uint16))
    return np.concatenate(documents), [len(ids) for ids in documents], kinds


@functools.lru_cache(maxsize=1)
def _load_tokenizer(path: Path, checksum: str) -> Tokenizer:
    """Read the model once in each process, and again when the file has another checksum."""
    return Tokenizer(path)


def _document_row(record: Record, *, split: str, shard: int, start: int, tokens: int, size: int) -> dict:
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
