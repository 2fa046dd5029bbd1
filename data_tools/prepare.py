"""Source code to verified token shards, in steps; an interrupted build is continued."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from data_tools.build_folder import open_work_folder
from data_tools.config import PrepareConfig
from data_tools.corpus.collect import CHECKPOINT, collect
from data_tools.corpus.corpus import SUMMARY, load_corpus
from data_tools.corpus.records import Records, read_array, write_array
from data_tools.corpus.split import split_by_package
from data_tools.datatrove_map import datatrove_map
from data_tools.dedup.deduplicate import deduplicate
from data_tools.encode.encoder import ShardLayout, write_splits
from data_tools.encode.fim import FimSettings
from data_tools.encode.tokenizer_text import TOKENIZER, sample_tokenizer_text, train_on_records
from data_tools.filters import benchmark_texts
from data_tools.filters.benchmark_texts import Part
from data_tools.filters.contamination import CONTAMINATION, decontaminate
from data_tools.filters.filter_step import filter_corpus
from data_tools.journal import with_journal
from data_tools.manifest import make_manifest, upgrade_manifest
from data_tools.process_map import process_map
from data_tools.report.page import write_report
from data_tools.sources.open_source import read_limit, source_documents, source_rules
from llama_scale.data.shards import MANIFEST, Split, read_manifest
from llama_scale.data.tokenizer import Tokenizer
from llama_scale.errors import InputError
from llama_scale.files import read_json, write_json


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
    with open_work_folder(config) as work, ExitStack() as stack:
        if (work / MANIFEST).exists():
            return upgrade_manifest(read_manifest(work))
        if config.engine == "processes":
            map_ = stack.enter_context(process_map(workers))
        else:
            map_ = datatrove_map(config, work, workers)
        stack.enter_context(_damage_named(work))
        for name, manifest in steps(config, work, map_):
            if manifest or name == config.until:
                return manifest


def steps(config: PrepareConfig, work: Path, map_: Callable) -> Iterator[tuple[str, dict | None]]:
    """Yield the name of each step when it is done; after the last one the manifest as well.

    Between the steps go positions: ``passed`` are the records that the filters kept, ``positions``
    which of them are left, and ``losses`` what was left out so far, counted with examples.
    """
    with _timed("collect"):
        collected = load_corpus(work) or collect(
            lambda start: source_documents(config, start), work, source_rules(config), read_limit(config)
        )
    yield "collect", None
    with _timed("filter"):
        positions, losses = _run_once(work, "filter", map_, filter_corpus, collected, config.parses)
        passed = collected.records.take(positions)
    yield "filter", None
    with _timed("dedup"):
        positions, losses = _run_once(work, "dedup", map_, deduplicate, passed, losses, config.near_duplicates, work)
    yield "dedup", None
    with _timed("decontaminate"):
        parts = chain.from_iterable(benchmark_parts(config))
        arguments = decontaminate, passed, positions, losses, parts, work
        positions, losses = _run_once(work, "decontaminate", map_, *arguments)
    with _collected_anew_if_unfit(work):
        check_files_left(len(positions), losses["dropped"], config)
    yield "decontaminate", None
    with _timed("tokenizer"):
        with _collected_anew_if_unfit(work):
            splits = split_by_package(passed, positions, work=work, val_share=config.val_share, seed=config.seed)
        if not (work / TOKENIZER).exists():
            texts = sample_tokenizer_text(splits["train"], config.tokenizer_bytes, config.tokenizer_even)
            list(map_(train_on_records, [work], [texts], [config.vocab_size]))
        tokenizer = Tokenizer(work / TOKENIZER)
    yield "tokenizer", None
    with _timed("encode"):
        arguments = splits, work, tokenizer.path, shard_layout(config)
        _, summary = _run_once(work, "encode", map_, encode, *arguments)
    yield "encode", None
    manifest = make_manifest(config, collected, losses, splits=splits, summary=summary, tokenizer=tokenizer)
    with _timed("report"):
        write_report(work, manifest, read_json(work / CONTAMINATION))
    write_json(work / MANIFEST, manifest, sealed=True)
    yield "manifest", manifest


def _run_once(
    work: Path, name: str, map_: Callable, step: Callable[..., tuple], *arguments: Any
) -> tuple[np.ndarray, dict]:
    """Return what ``step`` of the arguments and a map returned, now or in an earlier run.

    That is positions of records, in name.npy, and a state, in name.json, which is written last.
    Until then the results of the maps are in a journal, from which a killed step goes on.
    """
    if not (work / f"{name}.json").exists():
        positions, state = step(*arguments, with_journal(work / f"{name}.journal", map_))
        write_array(work / f"{name}.npy", np.asarray(positions, dtype=np.int64))
        write_json(work / f"{name}.json", state)
    for path in work.glob(f"{name}.journal.*"):
        path.unlink()
    return read_array(work / f"{name}.npy"), read_json(work / f"{name}.json")


def benchmark_parts(config: PrepareConfig) -> list[Iterator[Part]]:
    """Return the parts of each benchmark that training text may not hold, read when asked for."""
    benchmarks = [benchmark_texts.humaneval()] if config.humaneval else []
    benchmarks += [benchmark_texts.mbpp(config.mbpp)] if config.mbpp else []
    benchmarks += [benchmark_texts.apps(config.apps)] if config.apps else []
    return benchmarks


def check_files_left(n_files: int, dropped: dict[str, dict[str, int]], config: PrepareConfig) -> None:
    """Raise InputError with the reasons where no file is left to train on."""
    if n_files:
        return
    where = f"path: {config.path}" if config.path else f"source: {config.source}"
    if not dropped:
        raise InputError(f"{where}: no file was read; it holds none, or packages, exclude or max_bytes leave out all")
    why = ", ".join(f"{row['files']} {reason}" for reason, row in dropped.items())
    raise InputError(
        f"{where}: no file is left to train on, left out: {why} (docs/data.md says what each reason means)"
    )


def encode(
    splits: dict[Split, Records], work: Path, tokenizer: Path, layout: ShardLayout, map_: Callable
) -> tuple[np.ndarray, dict]:
    """Write the shards; return no positions and the manifest's "splits"."""
    return np.empty(0), write_splits(splits, work, tokenizer, layout, map_)


def shard_layout(config: PrepareConfig) -> ShardLayout:
    """Return how the settings lay documents out in shards."""
    fim = FimSettings(config.fim_rate, config.fim_spm, config.seed) if config.fim_rate else None
    pack_length = config.pack_length if config.packing == "best_fit" else None
    return ShardLayout(config.shard_tokens, config.seed, pack_length=pack_length, fim=fim)


@contextmanager
def _collected_anew_if_unfit(work: Path) -> Iterator[None]:
    """Forget what was collected when the block finds it unfit: a source set right is read anew."""
    try:
        yield
    except InputError:
        (work / SUMMARY).unlink()
        raise


@contextmanager
def _damage_named(work: Path) -> Iterator[None]:
    """Raise InputError where the files of an earlier run in ``work`` are not what a step wrote."""
    goes_on = (work / SUMMARY).exists() or (work / CHECKPOINT).exists()
    try:
        yield
    except (InputError, OSError):
        raise
    except Exception as error:  # what damaged files lead to has many types
        if not goes_on:
            raise
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:120]
        remedy = "delete that folder and run the same command again"
        raise InputError(f"{work}: the files of an earlier run are damaged ({reason}); {remedy}") from error


@contextmanager
def _timed(step: str) -> Iterator[None]:
    began = time.perf_counter()
    yield
    print(f"prepare: {step:<13} {time.perf_counter() - began:6.1f} s", file=sys.stderr, flush=True)
