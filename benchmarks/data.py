"""Speed of the data steps beside peers, on the same files and one core."""

import importlib.util
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

from benchmarks.data_memory import growth
from data_tools.corpus.collect import OpenAt, collect
from data_tools.corpus.corpus import Corpus, document_sizes, read_contents
from data_tools.corpus.records import Record
from data_tools.dedup import near
from data_tools.dedup.exact import exact_survivors
from data_tools.filters import rules
from data_tools.sources import installed
from data_tools.sources.document import Document
from llama_scale.errors import InputError

SPLIT = re.compile(r"[^A-Za-z_0-9]")
PERMUTATIONS = 250


@dataclass(frozen=True)
class DataBenchmark:
    """Near duplicates and filters beside peers, and the truth by brute force.

    Args:
        packages: Installed packages to read; null is all.
        max_bytes: Most bytes of source; null is all.
        peers: Other implementations to run beside ours.
        repeats: Timed runs of each, interleaved.
        memory: Files of a build whose peak memory is compared with that of one ten times as
            large; 0 leaves it out.
        out: JSON file for the measurements.
    """

    packages: list[str] | None = None
    max_bytes: int | None = 20_000_000
    peers: list[str] = field(default_factory=lambda: ["datasketch", "datatrove"])
    repeats: int = 2
    memory: int = 0
    out: str | None = None


def run(config: DataBenchmark) -> dict[str, Any]:
    """Measure and return rows of {"name", "mb_per_second", "ratio", ...}.

    ``ratio`` is how many times faster ours is. A removal is below the threshold when no file
    that stays is within it by brute force.

    Raises:
        InputError: A peer is not installed or unknown.
    """
    known = {"datasketch": datasketch, "datatrove": datatrove}
    for peer in config.peers:
        if peer not in known:
            raise InputError(f"peers: unknown {peer!r}; known: {', '.join(known)}")
        if importlib.util.find_spec(peer) is None:
            raise InputError(f"peers: {peer} is not installed; pip install {peer}, or leave it out")
    with tempfile.TemporaryDirectory() as folder:
        documents = installed.installed_documents(config.packages, None, config.max_bytes)
        found = collect(listed(documents), folder)
        seconds, kept = filtered(found)
        records = [kept[i] for i in exact_survivors(kept)]
        size = sum(record.size for record in records) / 1e6
        contenders = {"llama_scale": ours} | {peer: known[peer] for peer in config.peers}
        times, removed = timed(contenders, found.folder, records, config.repeats)
        truth = similar_pairs(found.folder, records)
    total = document_sizes(found.records).sum() / 1e6
    rows = []
    for name in contenders:
        gone = removed[name]
        rows.append(
            {
                "name": name,
                "seconds": times[name],
                "mb_per_second": size / min(times[name]),
                "ratio": min(times[name]) / min(times["llama_scale"]),
                "removed": len(gone),
                **quality(gone, truth),
            }
        )
    return {
        "command": " ".join(sys.argv),
        "files": len(records),
        "mb": size,
        "filters_mb_per_second": float(total / seconds),
        "similar_pairs": len(truth),
        "contenders": rows,
        "memory": growth(config.packages, config.memory) if config.memory else None,
    }


def listed(documents: Iterable[Document]) -> OpenAt:
    """Return documents as ``collect`` takes them."""
    return lambda start: islice(documents, start, None)


def filtered(found: Corpus) -> tuple[float, list[Record]]:
    """Return the seconds of the content filters without the parse, and what they keep."""
    contents = list(read_contents(found.folder, found.records))
    began = time.process_time()
    reasons = [rules.content_rejection(content) for content in contents]
    seconds = time.process_time() - began
    return seconds, [r for r, reason in zip(found.records, reasons, strict=True) if not reason]


def timed(
    contenders: dict[str, Callable], folder: Path, records: list[Record], repeats: int
) -> tuple[dict[str, list[float]], dict[str, set[int]]]:
    """Run the contenders in turns; return the seconds of each run, and what each removes."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    removed = {}
    for _ in range(repeats):
        for name, contender in contenders.items():
            began = time.process_time()
            removed[name] = contender(folder, records)
            times[name].append(time.process_time() - began)
    return times, removed


def ours(folder: Path, records: list[Record]) -> set[int]:
    """Return the positions that our step removes."""
    return set(near.near_duplicates(folder, records, map))


def datasketch(folder: Path, records: list[Record]) -> set[int]:
    """Return what the usual datasketch script removes: a file that its LSH finds another for."""
    from datasketch import MinHash, MinHashLSH

    index = MinHashLSH(near.THRESHOLD, PERMUTATIONS, params=(25, 10))
    removed = set()
    for i, content in enumerate(read_contents(folder, records)):
        words = [word for word in SPLIT.split(content.decode()) if word]
        grams = {" ".join(words[k : k + near.NGRAM]).encode() for k in range(len(words) - 4)}
        digest = MinHash(PERMUTATIONS)
        digest.update_batch(list(grams))
        if grams and index.query(digest):
            removed.add(i)
        elif grams:
            index.insert(i, digest)
    return removed


def datatrove(folder: Path, records: list[Record]) -> set[int]:
    """Return what datatrove's MinHash steps remove, 25 bands of 10, in this process."""
    from datatrove.data import Document
    from datatrove.pipeline.dedup import minhash
    from datatrove.utils.hashing import HashConfig

    config = minhash.MinhashConfig(
        n_grams=near.NGRAM, num_buckets=25, hashes_per_bucket=10,
        hash_config=HashConfig(precision=64),
    )  # fmt: skip
    contents = read_contents(folder, records)
    texts = [Document(text=c.decode(), id=str(i)) for i, c in enumerate(contents)]
    with tempfile.TemporaryDirectory() as temporary:
        base = Path(temporary)
        minhash.MinhashDedupSignature(str(base / "s"), config).run(iter(texts), 0, 1)
        for bucket in range(25):
            step = minhash.MinhashDedupBuckets(str(base / "s"), str(base / "b"), config=config)
            step.run(None, bucket, 25)
        minhash.MinhashDedupCluster(str(base / "b"), str(base / "r"), config=config).run(None, 0, 1)
        kept = minhash.MinhashDedupFilter(str(base / "r")).run(iter(texts), 0, 1)
        return set(range(len(texts))) - {int(document.id) for document in kept}


def similar_pairs(folder: Path, records: list[Record]) -> set[tuple[int, int]]:
    """Return every pair (i < j) with a Jaccard index of at least the threshold, by brute force.

    Sets of word tuples, every pair that shares one counted: independent of hashes and MinHash.
    """
    import numpy as np
    from scipy.sparse import csr_array

    number: dict[tuple[str, ...], int] = {}
    columns, bounds = [], [0]
    for content in read_contents(folder, records):
        words = [word for word in SPLIT.split(content.decode()) if word]
        grams = set(zip(*(words[k:] for k in range(near.NGRAM)), strict=False))
        columns += [number.setdefault(gram, len(number)) for gram in grams]
        bounds.append(len(columns))
    sizes = np.diff(bounds)
    values = np.ones(len(columns), dtype=np.int32)
    sets = csr_array((values, columns, bounds), shape=(len(records), len(number)))
    pairs = set()
    for start, end in pairwise([*range(0, len(records), 500), len(records)]):
        shared = (sets[start:end] @ sets.T).tocoo()  # (rows, D)
        rows, others, counts = shared.row + start, shared.col, shared.data
        index = counts / (sizes[rows] + sizes[others] - counts)
        near_ones = (rows < others) & (index >= near.THRESHOLD)
        pairs.update(zip(rows[near_ones].tolist(), others[near_ones].tolist(), strict=True))
    return pairs


def quality(removed: set[int], truth: set[tuple[int, int]]) -> dict[str, Any]:
    """Return removals without a similar file that stays, and the share of pairs resolved."""
    similar: dict[int, set[int]] = {}
    for i, j in truth:
        similar.setdefault(i, set()).add(j)
        similar.setdefault(j, set()).add(i)
    below = sum(not similar.get(i, set()) - removed for i in removed)
    resolved = sum(i in removed or j in removed for i, j in truth)
    return {"below_threshold": below, "recall": resolved / len(truth) if truth else 1.0}


def table(result: dict[str, Any]) -> str:
    """Return the measurements as lines for the terminal."""
    lines = [
        f"{result['files']:,} files, {result['mb']:.1f} MB, {result['similar_pairs']:,} similar "
        f"pairs; filters {result['filters_mb_per_second']:.1f} MB/s a core",
        f"{'near duplicates':18}{'MB/s':>8}{'ours is':>9}{'removed':>9}{'too much':>10}"
        f"{'recall':>9}",
    ]
    for row in result["contenders"]:
        lines.append(
            f"{row['name']:18}{row['mb_per_second']:8.1f}{row['ratio']:8.1f}x{row['removed']:9,}"
            f"{row['below_threshold']:10,}{row['recall']:9.4f}"
        )
    for name, peaks in (result["memory"] or {}).items():
        steps = ", ".join(f"{step} {peak:.0f}" for step, peak in peaks.items())
        lines.append(f"peak memory in MB so far, {name}: {steps}")
    return "\n".join(lines)
