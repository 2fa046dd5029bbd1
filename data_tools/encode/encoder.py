"""Documents to token shards, each document proven to come back byte for byte."""

import functools
import gzip
import io
import json
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.corpus.corpus import batches, document_sizes, read_contents
from data_tools.corpus.records import Record, Records
from data_tools.encode.fim import FimSettings, cut_for_fim
from data_tools.encode.packing import best_fit
from data_tools.progress import with_progress
from llama_scale.data.documents import DOCUMENTS
from llama_scale.data.fim import FimOrder, with_fim_marks
from llama_scale.data.shards import ShardWriter, Split
from llama_scale.data.tokenizer import Tokenizer
from llama_scale.errors import InputError
from llama_scale.files import atomic_write, sha256

FIM_KINDS: tuple[FimOrder | None, ...] = (None, "psm", "spm")
UNPACKED = "train.ids"  # the encoded documents of a split before they are packed


@dataclass(frozen=True)
class ShardLayout:
    """How documents are laid out in shards."""

    shard_tokens: int  # at most, in one shard
    seed: int = 0  # of the order of packed sequences
    pack_length: int | None = None  # tokens of a packed sequence; None joins the documents
    fim: FimSettings | None = None  # None leaves all as they are


# A document's ids, its end included, (n,) uint16, and how it is rearranged.
EncodedDocument = tuple[np.ndarray, FimOrder | None]


def write_splits(
    splits: dict[Split, Records], folder: Path, tokenizer: Path, layout: ShardLayout, map_: Callable
) -> dict[str, dict]:
    """Write the shards of each split and documents.jsonl.gz; return the manifest's "splits".

    Only training documents are rearranged or packed: validation measures plain text.

    Args:
        splits: The documents of each split in shard order.
        folder: Folder of contents.bin, where the shards go.
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
            encoded = _encode(records, folder, tokenizer, fim, map_)
            sizes = document_sizes(records)
            encoded = with_progress(encoded, f"encoding {split}", int(sizes.sum()), "B", sizes)
            size = layout.pack_length if split == "train" else None
            extra = {}
            with ShardWriter(folder, split, layout.shard_tokens) as writer:
                if size:
                    model, seed = Tokenizer(tokenizer), layout.seed
                    packing = _write_packed(writer, records, encoded, rows=rows, model=model, size=size, seed=seed)
                    extra = {"packing": packing}
                else:
                    _write_concatenated(writer, records, encoded, rows)
            summary[split] = {
                "tokens": sum(shard["tokens"] for shard in writer.shards),
                "bytes": int(sizes.sum()),
                "documents": len(records),
                "shards": writer.shards,
                **extra,
            }
    return summary


def _write_concatenated(
    writer: ShardWriter, records: Sequence[Record], encoded: Iterator[EncodedDocument], rows: io.TextIOBase
) -> None:
    for record, (ids, fim) in zip(records, encoded, strict=True):
        shard, start = writer.add(ids)
        extent = {"split": writer.split, "shard": shard, "start": start, "tokens": len(ids), "bytes": record.size}
        rows.write(json.dumps(_document_row(record, fim, extent)) + "\n")


def _write_packed(
    writer: ShardWriter, records: Sequence[Record], encoded: Iterator[EncodedDocument], rows: io.TextIOBase,
    model: Tokenizer, size: int, seed: int,
) -> dict:  # fmt: skip
    """Write sequences of ``size`` tokens; what they lack is document ends. Return the manifest's "packing".

    One more document end follows the last sequence, so that its last token has a target.
    """
    # Packing takes the documents in the order of their lengths, which are known only when all are
    # encoded: the ids wait in a file, document d at offsets[d], and are read from there by pieces.
    lengths, kinds = array("q"), bytearray()
    unpacked = writer.folder / UNPACKED
    with open(unpacked, "wb") as file:
        for ids, fim in encoded:
            file.write(ids.astype("<u2").tobytes())
            lengths.append(len(ids))
            kinds.append(FIM_KINDS.index(fim))
    lengths = np.array(lengths, dtype=np.int64)  # (D,)
    offsets = np.cumsum(lengths) - lengths  # (D,)
    n_sequences, sequences = best_fit(lengths, size, seed)
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
                extent = {"split": writer.split, "shard": shard, "start": start, "tokens": n}
                extent["bytes"] = int(model.byte_lengths[piece].sum())
                row = _document_row(records[d], FIM_KINDS[kinds[d]], extent)
                row |= {"first": first, "of": int(lengths[d])} if lengths[d] > n else {}
                rows.write(json.dumps(row) + "\n")
                start += n
        del ids
    unpacked.unlink()
    return {"length": size, "sequences": n_sequences, "padding": padding, "cut": n_cut}


def _encode(
    records: Sequence[Record], folder: Path, tokenizer: Path, fim: FimSettings | None, map_: Callable
) -> Iterator[EncodedDocument]:
    task = functools.partial(encode_batch, folder, tokenizer, sha256(tokenizer), fim)
    for ids, lengths, kinds in map_(task, batches(records)):
        # All ids in one array and their lengths travel from the worker: ends at 3 and 5 cut 9 ids into 3, 2 and 4.
        yield from zip(np.split(ids, np.cumsum(lengths[:-1])), kinds, strict=True)


def encode_batch(
    folder: Path, tokenizer: Path, checksum: str, fim: FimSettings | None, batch: list[Record]
) -> tuple[np.ndarray, list[int], list[FimOrder | None]]:
    """Encode documents and decode them again.

    ``checksum`` is the tokenizer file's, so that a process never keeps an older model.

    Returns:
        All their ids joined, each document followed by the end id, (n,) uint16; the number of
        ids of each; and how each is rearranged.

    Raises:
        InputError: A document does not come back byte for byte.
    """
    model = _load_tokenizer(tokenizer, checksum)
    raw = list(read_contents(folder, batch))
    pairs = zip(raw, batch, strict=True)
    cuts = [cut_for_fim(content.decode("utf-8"), record.sha256, fim) for content, record in pairs]
    kinds = [kind for kind, _ in cuts]
    # Three texts a document, most of them empty without fill-in-the-middle, in one call.
    encoded = iter(model.encode_batch([text for _, parts in cuts for text in parts]))
    documents = []
    for record, content, kind in zip(batch, raw, kinds, strict=True):
        prefix, middle, suffix = next(encoded), next(encoded), next(encoded)
        if model.decode_bytes([*prefix, *middle, *suffix]) != content:
            name = f"{record.package}: {record.path}"
            raise InputError(f"{name}: does not come back byte for byte from the tokenizer; nothing was written")
        ids = with_fim_marks(kind, prefix, middle, suffix, model.fim)
        documents.append(np.array([*ids, model.eos], dtype=np.uint16))
    return np.concatenate(documents), [len(ids) for ids in documents], kinds


@functools.lru_cache(maxsize=1)
def _load_tokenizer(path: Path, checksum: str) -> Tokenizer:
    """Read the model once in each process, and again when the file has another checksum."""
    return Tokenizer(path)


def _document_row(record: Record, fim: str | None, extent: dict[str, Any]) -> dict[str, Any]:
    row = extent | {name: getattr(record, name) for name in ("package", "path", "license", "sha256")}
    row |= {"redacted": record.redacted} if record.redacted else {}
    return row | ({"fim": fim} if fim else {})
