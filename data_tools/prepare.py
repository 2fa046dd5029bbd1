"""Source code to verified token shards, in steps; an interrupted build is continued."""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.build_folder import CONTAMINATION, TOKENIZER, opened
from data_tools.config import PrepareConfig
from data_tools.corpus import corpus, split
from data_tools.corpus.records import Records, write_array
from data_tools.dedup.exact import exact_survivors
from data_tools.dedup.near import near_duplicates
from data_tools.encode.encoder import Layout, shuffled, write_splits
from data_tools.encode.fim import Fim
from data_tools.engine import distributed
from data_tools.filters import benchmark_texts, contamination
from data_tools.filters.benchmark_texts import Part
from data_tools.filters.filter_step import inspect, shared_lines
from data_tools.filters.rules import SourceRules
from data_tools.manifest import make_manifest, with_new_names
from data_tools.report.page import NEAR, write_report
from data_tools.sources import hub, installed, local
from data_tools.sources.installed import Document
from data_tools.workers import journalled, mapper
from llama_scale.data.shards import MANIFEST, read_manifest
from llama_scale.data.tokenizer import Tokenizer, train_tokenizer
from llama_scale.errors import InputError
from llama_scale.files import atomic_write, read_json, write_json

TOKENIZER_THREADS = 4  # stored in the model file, so the same on every machine


def prepare(config: PrepareConfig) -> dict | None:
    """Build the shards of ``config`` and return their manifest; None where ``until`` ends it.

    The build grows in ``.<folder>.tmp`` beside its folder, and appears there whole. A step that
    an interrupted run with the same settings finished is not repeated.

    Raises:
        InputError: The settings cannot be met, or another process is building the same folder.
    """
    workers = config.workers or len(os.sched_getaffinity(0))
    for parts in benchmark_parts(config):
        next(parts, None)  # an error in it is told now, not after all has been read
    with opened(config) as work, ExitStack() as stack:
        if (work / MANIFEST).exists():
            return with_new_names(read_manifest(work))
        if config.engine == "processes":
            map_ = stack.enter_context(mapper(workers))
        else:
            map_ = distributed(config, work, workers)
        for name, manifest in steps(config, work, map_):
            if manifest or name == config.until:
                return manifest


def steps(config: PrepareConfig, work: Path, map_: Callable) -> Iterator[tuple[str, dict | None]]:
    """Yield the name of each step when it is done; after the last one the manifest as well."""
    with _stage("collect"):
        found = corpus.load(work) or corpus.collect(
            lambda start: _documents(config, start), work, _rules(config), _limit(config)
        )
    yield "collect", None
    with _stage("filter"):
        kept, lost = _once(work, "filter", map_, inspect, found, config.parses)
        passed = found.records.take(kept)
    yield "filter", None
    with _stage("dedup"):
        kept, state = _once(work, "dedup", map_, deduplicate, passed, lost, config, work)
    yield "dedup", None
    with _stage("decontaminate"):
        arguments = decontaminate, passed, kept, state, config, work
        kept, state = _once(work, "decontaminate", map_, *arguments)
    with _unfit(work):
        check_left(len(kept), state["dropped"], config)
    yield "decontaminate", None
    with _stage("tokenizer"):
        with _unfit(work):
            splits = split_by_package(passed, kept, config, work)
        if not (work / TOKENIZER).exists():
            texts = sample(splits["train"], config.tokenizer_bytes, config.tokenizer_even)
            list(map_(train, [work], [texts], [config.vocab_size]))
        tokenizer = Tokenizer(work / TOKENIZER)
    yield "tokenizer", None
    with _stage("encode"):
        arguments = encode, splits, work, tokenizer.path, _layout(config)
        _, summary = _once(work, "encode", map_, *arguments)
    yield "encode", None
    manifest = make_manifest(config, found, state, splits, summary, tokenizer)
    with _stage("report"):
        write_report(work, manifest, read_json(work / CONTAMINATION))
    write_json(work / MANIFEST, manifest)
    yield "manifest", manifest


def _once(
    work: Path, name: str, map_: Callable, make: Callable[..., tuple], *arguments: Any
) -> tuple[np.ndarray, dict]:
    """Return what ``make`` of the arguments and a map returned, now or in an earlier run.

    That is positions of records, in name.npy, and a state, in name.json, which is written last.
    Until then the results of the maps are in a journal, from which a killed step goes on.
    """
    if not (work / f"{name}.json").exists():
        kept, state = make(*arguments, journalled(work / f"{name}.journal", map_))
        write_array(work / f"{name}.npy", np.asarray(kept, dtype=np.int64))
        write_json(work / f"{name}.json", state)
    for path in work.glob(f"{name}.journal.*"):
        path.unlink()
    return np.load(work / f"{name}.npy"), read_json(work / f"{name}.json")


def deduplicate(
    records: Records, lost: dict, config: PrepareConfig, work: Path, map_: Callable
) -> tuple[np.ndarray, dict]:
    """Remove exact and near duplicates.

    Args:
        records: What passed the filters.
        lost: ``dropped`` and ``examples`` so far.
        config: The settings.
        work: Folder of contents.bin, where near.jsonl goes: what went for a likeness and to what.
        map_: Ordered map.

    Returns:
        Positions in ``records`` of what is left, and ``dropped`` and ``examples`` with these added.
    """
    kept = exact_survivors(records)
    unique = records.take(kept)
    removed = near_duplicates(work, unique, map_) if config.near_duplicates else {}
    exact = np.setdiff1d(np.arange(len(records)), kept, assume_unique=True)
    for record in records.take(exact):
        corpus.count(lost["dropped"], "duplicate", record.size)
        corpus.example(lost["examples"], "duplicate", record)
    with atomic_write(work / NEAR) as file:
        for i, row in sorted(removed.items()):
            record, like = unique[i], unique[row["like"]]
            corpus.count(lost["dropped"], "near_duplicate", record.size)
            corpus.example(lost["examples"], "near_duplicate", record)
            file.write(json.dumps({
                "package": record.package, "path": record.path,
                "like": f"{like.package}: {like.path}", "jaccard": round(row["jaccard"], 4),
            }) + "\n")  # fmt: skip
    return np.delete(kept, sorted(removed)), lost


def decontaminate(
    records: Records, kept: np.ndarray, state: dict, config: PrepareConfig, work: Path,
    map_: Callable,
) -> tuple[np.ndarray, dict]:  # fmt: skip
    """Remove files with benchmark tasks and write contamination.json; return as deduplicate."""
    parts = list(chain.from_iterable(benchmark_parts(config)))
    index = contamination.build_index(parts)
    left = records.take(kept)
    found = contamination.contaminated(work, left, index, map_) if parts else {}
    files = []
    for i, matches in sorted(found.items()):
        record = left[i]
        corpus.count(state["dropped"], "benchmark", record.size)
        corpus.example(state["examples"], "benchmark", record)
        files.append({"package": record.package, "path": record.path, "matches": matches})
    write_json(work / CONTAMINATION, contamination.summary(parts, index, files))
    return np.delete(kept, sorted(found)), state


def check_left(n_files: int, dropped: dict[str, dict[str, int]], config: PrepareConfig) -> None:
    """Raise InputError with the reasons where no file is left to train on."""
    if n_files:
        return
    where = f"path: {config.path}" if config.path else f"source: {config.source}"
    if not dropped:
        raise InputError(
            f"{where}: no file was read; it holds none, or packages, exclude or max_bytes leave "
            "out all"
        )
    why = ", ".join(f"{row['files']} {reason}" for reason, row in dropped.items())
    raise InputError(
        f"{where}: no file is left to train on, left out: {why} (docs/data.md says what each "
        "reason means)"
    )


def benchmark_parts(config: PrepareConfig) -> list[Iterator[Part]]:
    """Return the parts of each benchmark that training text may not hold, read when asked for."""
    found = [benchmark_texts.humaneval()] if config.humaneval else []
    found += [benchmark_texts.mbpp(config.mbpp)] if config.mbpp else []
    found += [benchmark_texts.apps(config.apps)] if config.apps else []
    return found


def encode(
    splits: dict[str, Records], work: Path, tokenizer: Path, layout: Layout, map_: Callable
) -> tuple[np.ndarray, dict]:
    """Write the shards; return no positions and the manifest's "splits"."""
    return np.empty(0), write_splits(splits, work, work, tokenizer, layout, map_)


def split_by_package(
    records: Records, positions: np.ndarray, config: PrepareConfig, work: Path
) -> dict[str, Records]:
    """Return {"train", "val"}: the documents of each split in shard order.

    Args:
        records: What passed the filters.
        positions: (n,) which of them are left.
        config: The settings.
        work: Where the filter step left the hashes of lines.
    """
    left = records.take(positions)
    numbers: dict[str, int] = {}
    owners = (numbers.setdefault(record.package, len(numbers)) for record in left)
    owners = np.fromiter(owners, np.int32, len(left))  # (n,)
    totals = np.bincount(owners, weights=left.sizes, minlength=len(numbers)).astype(int).tolist()
    shared = shared_lines(work, owners, positions, len(numbers)).tolist()
    val = split.choose_validation(
        dict(zip(numbers, totals, strict=True)), dict(zip(numbers, shared, strict=True)),
        config.val_share, config.seed,
    )  # fmt: skip
    held_out = np.isin(owners, [numbers[name] for name in val])  # (n,)
    order = shuffled(left, config.seed)
    return {"train": left.take(order[~held_out[order]]), "val": left.take(order[held_out[order]])}


def sample(records: Records, limit: int, even: bool) -> Records:
    """Return about ``limit`` bytes of records; all when they are less.

    Args:
        records: Documents in a random order.
        limit: Bytes.
        even: Take small packages whole and of large ones equal shares, instead of the first
            records, which are of a package as its share of all is.
    """
    if not even:
        return records.take(np.arange(_reach(records.sizes, limit)))
    numbers: dict[str, int] = {}
    owners = (numbers.setdefault(record.package, len(numbers)) for record in records)
    owners = np.fromiter(owners, np.int64, len(records))  # (D,)
    before = np.zeros(len(records), dtype=np.int64)  # bytes of the same package before each
    order = np.argsort(owners, kind="stable")
    ends = np.cumsum(records.sizes[order])
    first = np.concatenate([[0], np.flatnonzero(np.diff(owners[order])) + 1])[: len(order)]
    base = np.zeros(len(order), dtype=np.int64)
    starts = ends - records.sizes[order]
    base[first] = np.diff(starts[first], prepend=0)
    before[order] = starts - np.cumsum(base)
    chosen = np.argsort(before, kind="stable")
    return records.take(np.sort(chosen[: _reach(records.sizes[chosen], limit)]))


def _reach(sizes: np.ndarray, limit: int) -> int:
    """Return how many leading ``sizes`` first sum to ``limit``; all when they do not."""
    return min(len(sizes), int(np.searchsorted(np.cumsum(sizes), limit)) + 1)


def train(work: Path, records: Records, vocab_size: int) -> None:
    """Train the tokenizer of a build on some of its documents."""
    texts = (content.decode("utf-8") for content in corpus.contents(work, records))
    train_tokenizer(texts, work / TOKENIZER, vocab_size, TOKENIZER_THREADS)


def _rules(config: PrepareConfig) -> SourceRules:
    licenses = frozenset(config.licenses) if config.licenses is not None else None
    return SourceRules(licenses, config.max_file_bytes, config.redact)


def _layout(config: PrepareConfig) -> Layout:
    fim = Fim(config.fim_rate, config.fim_spm, config.seed) if config.fim_rate else None
    length = config.pack_length if config.packing == "best_fit" else None
    return Layout(config.shard_tokens, config.seed, length, fim)


def _limit(config: PrepareConfig) -> int | None:
    """Return the most bytes to read of a source that does not choose its files itself."""
    return None if config.source == "installed" else config.max_bytes


def _documents(config: PrepareConfig, start: int) -> Iterator[Document | None]:
    """Yield the documents of the source from the one numbered ``start``; None is not wanted."""
    if config.source == "installed":
        chosen = config.packages, config.exclude, config.max_bytes, config.seed
        yield from installed.installed(*chosen, start)
        return
    limit = config.max_file_bytes
    if config.source == "folder":
        found = local.folder_documents(config.path, config.language, config.license, limit, start)
    elif config.source == "jsonl":
        found = local.jsonl_documents(config.path, config.license, start)
    elif config.source == "parquet":
        found = local.parquet_documents(config.path, config.license, start)
    else:
        found = hub.documents(
            config.source, config.language, config.path, config.store, config.license, limit, start
        )
    barred = set(config.exclude)
    wanted = None if config.packages is None else set(config.packages)
    for document in found:
        name = document.package
        yield document if name not in barred and (wanted is None or name in wanted) else None


@contextmanager
def _unfit(work: Path) -> Iterator[None]:
    """Forget what was collected when the block finds it unfit: a source set right is read anew."""
    try:
        yield
    except InputError:
        (work / corpus.SUMMARY).unlink()
        raise


@contextmanager
def _stage(name: str) -> Iterator[None]:
    began = time.perf_counter()
    yield
    print(f"prepare: {name:<13} {time.perf_counter() - began:6.1f} s", file=sys.stderr, flush=True)
