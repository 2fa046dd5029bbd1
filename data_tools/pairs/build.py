"""A folder of pairs: training pairs, held-out ones of other packages, and pairs.json, which tells what was left out."""

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

from data_tools.filters.benchmark_texts import Part, humaneval, mbpp, mbxp
from data_tools.journal import with_journal
from data_tools.pairs.choose import (
    THIRDS,
    balanced,
    distinct,
    hold_out,
    place,
    with_thirds,
    without_copies,
    without_near_copies,
)
from data_tools.pairs.config import PUBLISHED_SPLITS, Language, PairsConfig
from data_tools.pairs.extract import read_rows, unique_ids
from data_tools.process_map import process_map
from llama_scale.errors import InputError
from llama_scale.files import MOST_BYTES, atomic_write, locked, read_fields, read_json, sha256, write_json

MANIFEST, SETTINGS, LOCK, JOURNAL = "pairs.json", "settings.json", "lock", "extract.journal"
PARTS = ("train", "test")
COUNTED = (*PARTS, "thirds", "licenses", "dropped", "test_packages")  # what ``describe`` tells of a build
Row = dict[str, Any]


def build_pairs(config: PairsConfig) -> dict[str, Any]:
    """Write train.jsonl, test.jsonl and pairs.json, unless they are there, and return the last.

    The folder is there whole or not at all. A build that was killed goes on where it was.

    Raises:
        InputError: The source does not give ``config.test`` held-out pairs and any to train on, or the folder has
            something else.
    """
    if manifest := find_finished(config):
        return manifest
    benchmark_parts(config)  # a path that is wrong is told before the work, not after it
    with open_work_folder(config) as work, process_map(config.workers or len(os.sched_getaffinity(0))) as map_:
        dropped: Counter[str] = Counter()
        map_ = with_journal(work / JOURNAL, map_)
        train, test = choose_rows(config, work, map_, dropped)
        for name, rows in zip(PARTS, (train, test), strict=True):
            with atomic_write(work / f"{name}.jsonl") as file:
                file.writelines(json.dumps(row) + "\n" for row in rows)
        manifest = describe_rows(config, train, test, dropped)
        manifest["sha256"] = {name: sha256(work / f"{name}.jsonl") for name in PARTS}
        write_json(work / MANIFEST, manifest, sealed=True)
    return manifest


def choose_rows(config: PairsConfig, work: Path, map_: Callable, dropped: Counter[str]) -> tuple[list[Row], list[Row]]:
    """Return the training and the held-out rows."""
    rows = clean_rows(config, work, map_, dropped)
    if config.source == "mbxp":  # the same tasks in each language
        for language in get_args(Language):
            others = rows if language == config.language else clean_rows(
                replace(config, language=language), work, map_, Counter()
            )  # fmt: skip
            ids = {row["id"] for row in others}
            dropped["left out in another language"] += sum(row["id"] not in ids for row in rows)
            rows = [row for row in rows if row["id"] in ids]
    rows = with_thirds(rows)
    if config.thirds is not None:
        kept = [row for row in rows if row["third"] in config.thirds]
        dropped["other third of complexity"] += len(rows) - len(kept)
        rows = kept
    if config.balance != "none" and rows:
        rows = balanced(rows, config.balance, config.seed, dropped)
    if config.source in PUBLISHED_SPLITS:
        train, test = split_rows(rows)
        test = sorted(test, key=lambda row: place(row["id"], config.seed))[: config.test]
    else:
        train, test = hold_out(rows, config.test, config.seed)
        train = away_from(test, train, dropped)
    if not test or not train or (len(test) < config.test and config.source not in PUBLISHED_SPLITS):
        found = f"{len(rows):,} pairs of {len({row['package'] for row in rows})} packages"
        raise InputError(f"test: {found} do not give {config.test:,} held-out pairs and others; lower it")
    for row in (*train, *test):
        del row["split"]
    return train, test


def clean_rows(config: PairsConfig, work: Path, map_: Callable, dropped: Counter[str]) -> list[Row]:
    """Return the rows of a source without copies and benchmark text.

    A published test split stays whole, and the training rows are those that are far from it.
    """
    splits = PARTS if config.source in PUBLISHED_SPLITS else (None,)
    read = {split: read_rows(config, split, map_, dropped) for split in splits}
    rows = unique_ids([row | {"split": split} for split, own in read.items() for row in own])
    test, rows = [row for row in rows if row["split"] == "test"], [row for row in rows if row["split"] != "test"]
    steps = {"copy": distinct}
    if config.near_duplicates:
        steps["near copy"] = partial(without_near_copies, work=work, map_=map_)
    for reason, clean in steps.items():
        kept = {row["id"] for row in clean([*test, *rows])}
        dropped[reason] += sum(row["id"] not in kept for row in rows)
        rows = [row for row in rows if row["id"] in kept]
    rows = without_copies(rows, benchmark_parts(config), "benchmark", dropped)
    return [*(away_from(test, rows, dropped) if test else rows), *test]


def split_rows(rows: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """Return the rows of the published training split and those of the test split."""
    return [row for row in rows if row["split"] == "train"], [row for row in rows if row["split"] == "test"]


def away_from(test: Sequence[Row], train: Sequence[Row], dropped: Counter[str]) -> list[Row]:
    """Return the training rows that share no 13 words in a row with a held-out one."""
    held_out = [Part("held-out", row["id"], "code", row["reference"]) for row in test]
    return without_copies(train, held_out, "near a held-out pair", dropped)


def benchmark_parts(config: PairsConfig) -> list[Part]:
    """Return the benchmark texts that no pair may hold; a benchmark's own tasks may hold their own."""
    parts = [*humaneval()] if config.humaneval else []
    if config.mbpp and config.source not in ("mbpp", "mbxp"):
        parts += mbpp(config.mbpp)
    if config.mbxp and config.source not in ("mbpp", "mbxp"):
        parts += mbxp(config.mbxp, config.code_language)
    return parts


def describe_rows(
    config: PairsConfig, train: Sequence[Row], test: Sequence[Row], dropped: Counter[str]
) -> dict[str, Any]:
    """Return what pairs.json says, but for the files' hashes."""
    both = {"train": train, "test": test}
    return {
        "config": {"name": config.name, "out": config.out, **config.settings},
        **{name: len(rows) for name, rows in both.items()},
        "test_packages": sorted({row["package"] for row in test}),
        "bytes": {name: sum(len(row["completion"].encode()) for row in rows) for name, rows in both.items()},
        "thirds": {name: {t: sum(row["third"] == t for row in rows) for t in THIRDS} for name, rows in both.items()},
        "complexity": {name: _counts(row["complexity"] for row in rows) for name, rows in both.items()},
        "paradigm": {name: _counts(row["paradigm"] for row in rows) for name, rows in both.items()},
        "licenses": _counts(row["license"] for row in (*train, *test)),
        "sources": _counts(row["source"] for row in (*train, *test)),
        "dropped": dict(sorted(dropped.items())),
    }


def _counts(values: Any) -> dict[str, int]:
    return {str(value): n for value, n in sorted(Counter(values).items())}


def find_finished(config: PairsConfig) -> dict[str, Any] | None:
    """Return pairs.json of a finished build with these settings, or None; raise InputError on anything else there."""
    folder = config.folder
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return None
    if not (folder / MANIFEST).is_file():
        raise InputError(f"{folder}: is there already and has no {MANIFEST}; choose another name or move it away")
    manifest = read_fields(folder / MANIFEST, ["config", "sha256", *COUNTED])
    if not isinstance(manifest["config"], dict) or not isinstance(manifest["sha256"], dict):
        raise InputError(f"{folder / MANIFEST}: 'config' or 'sha256' has no fields; delete {folder} and make it again")
    built = PairsConfig().settings | manifest["config"]
    for name, value in config.settings.items():
        if built[name] != value:
            remedy = "choose another name or delete that folder"
            raise InputError(f"{name}: {folder} was made with {built[name]}, not {value}; {remedy}")
    for name in PARTS:
        file = folder / f"{name}.jsonl"
        whole = file.is_file() and file.stat().st_size <= MOST_BYTES
        if not whole or sha256(file) != manifest["sha256"].get(name):
            raise InputError(f"{file}: is not what was written; delete {folder} and make it again")
    return manifest


@contextmanager
def open_work_folder(config: PairsConfig) -> Iterator[Path]:
    """Yield the folder that a build grows in; when pairs.json is in it, put it in its place.

    What a stopped build with the same settings left is gone on from. Raises InputError where another process builds.
    """
    folder = config.folder
    work = folder.parent / f".{folder.name}.tmp"
    work.mkdir(parents=True, exist_ok=True)
    with locked(work / LOCK, f"{folder}: {{}} is making it; wait for it to end"):
        settings = work / SETTINGS
        if not settings.exists() or read_json(settings) != config.settings:
            for path in work.iterdir():
                if path.name != LOCK:
                    path.unlink()
        write_json(settings, config.settings)
        try:
            yield work
        except BaseException:
            if not any(path.stat().st_size for path in work.glob(f"{JOURNAL}.*")):  # nothing to go on from
                shutil.rmtree(work)
            raise
        for path in work.iterdir():
            if path.name not in (MANIFEST, *(f"{name}.jsonl" for name in PARTS)):
                path.unlink()
        if folder.exists():
            folder.rmdir()  # it is empty
        work.rename(folder)


def describe(manifest: dict[str, Any], folder: Path) -> str:
    """Return the counts in a few lines."""
    dropped = sorted(manifest["dropped"].items(), key=lambda item: -item[1])
    thirds = ", ".join(f"{n:,} {name}" for name, n in manifest["thirds"]["train"].items())
    licenses = sorted(manifest["licenses"].items(), key=lambda item: -item[1])
    shown = ", ".join(f"{name} {n:,}" for name, n in licenses[:4])
    return "\n".join(
        [
            f"{folder}: {manifest['train']:,} pairs to train on, {manifest['test']:,} held out of "
            f"{len(manifest['test_packages'])} packages, format {manifest['config']['format']}",
            f"  complexity: {thirds}; licenses: {shown}{' and others' if len(licenses) > 4 else ''}",
            *(f"  {count:9,} left out: {reason}" for reason, count in dropped),
        ]
    )
