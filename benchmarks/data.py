"""Speed of the data steps beside peers, on the same files and one core."""

import importlib.util
import re
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

from benchmarks.data_memory import memory_growth
from benchmarks.loader import compare_loaders, loader_table
from benchmarks.tables import format_ratio, format_table
from benchmarks.timing import Timed, time_call, time_in_turn
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
PERMUTATIONS = 250  # 25 bands of 10
FindDuplicates = Callable[[Path, list[Record]], set[int]]  # positions in the list to remove


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
    """Measure near duplicates and filters, the loader and, where asked for, memory."""
    return compare_near_duplicates(config) | {
        "memory": memory_growth(config.packages, config.memory) if config.memory else None,
        "loader": compare_loaders(),
    }


def compare_near_duplicates(config: DataBenchmark) -> dict[str, Any]:
    """Return what every contender removes, how fast, and how that compares with the truth.

    ``ratio`` is how many times faster ours is, by the best run of each. A removal is below the
    threshold when no file that stays is within it by brute force.

    Raises:
        InputError: A peer is not installed or unknown.
    """
    contenders = {"llama_scale": llama_scale_duplicates} | peer_functions(config.peers)
    with tempfile.TemporaryDirectory() as folder:
        documents = installed.installed_documents(config.packages, None, config.max_bytes)
        source = collect(as_source(documents), folder)
        filters = time_filters(source)
        records = [filters.value[i] for i in exact_survivors(filters.value)]
        calls = time_in_turn(
            {name: on_files(find, source.folder, records) for name, find in contenders.items()},
            config.repeats,
            time.process_time,
        )
        truth = similar_pairs(source.folder, records)
    size = sum(record.size for record in records) / 1e6
    seconds = {name: [call.seconds for call in row] for name, row in calls.items()}
    return {
        "files": len(records),
        "mb": size,
        "filters_mb_per_second": float(document_sizes(source.records).sum() / 1e6 / filters.seconds),
        "similar_pairs": len(truth),
        "contenders": [
            {
                "name": name,
                "seconds": seconds[name],
                "mb_per_second": size / min(seconds[name]),
                "ratio": min(seconds[name]) / min(seconds["llama_scale"]),
                "removed": len(row[-1].value),
                **removal_quality(row[-1].value, truth),
            }
            for name, row in calls.items()
        ],
    }


def peer_functions(names: list[str]) -> dict[str, FindDuplicates]:
    """Return the named peers; raise InputError on one that is unknown or not installed."""
    known = {"datasketch": datasketch_duplicates, "datatrove": datatrove_duplicates}
    for name in names:
        if name not in known:
            raise InputError(f"peers: unknown {name!r}; known: {', '.join(known)}")
        if importlib.util.find_spec(name) is None:
            raise InputError(f"peers: {name} is not installed; pip install {name}, or leave it out")
    return {name: known[name] for name in names}


def as_source(documents: Iterable[Document]) -> OpenAt:
    """Return documents as ``collect`` takes them: a function of where to start."""
    return lambda start: islice(documents, start, None)


def on_files(find: FindDuplicates, folder: Path, records: list[Record]) -> Callable[[int], set[int]]:
    """Return ``find`` on these files, as a contender that is called with its round."""
    return lambda _: find(folder, records)


def time_filters(source: Corpus) -> Timed[list[Record]]:
    """Time the content filters without the parse; the value is what they keep."""
    contents = list(read_contents(source.folder, source.records))
    filtered = time_call(lambda: [rules.content_rejection(content) for content in contents], time.process_time)
    pairs = zip(source.records, filtered.value, strict=True)
    return Timed([record for record, reason in pairs if not reason], filtered.seconds)


def llama_scale_duplicates(folder: Path, records: list[Record]) -> set[int]:
    """Return the positions that our step removes."""
    return set(near.near_duplicates(folder, records, map))


def datasketch_duplicates(folder: Path, records: list[Record]) -> set[int]:
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


def datatrove_duplicates(folder: Path, records: list[Record]) -> set[int]:
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

    Row i of ``sets`` has a 1 in the column of each 5-gram of file i, so that sets @ sets.T holds
    the number of 5-grams that two files share, and |A and B| / (|A| + |B| - |A and B|) is their
    Jaccard index: 95 shared of 100 and 100 give 95 / 105. The product is made 500 rows at a time,
    since in dense form it would not fit.
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
        above = (rows < others) & (index >= near.THRESHOLD)
        pairs.update(zip(rows[above].tolist(), others[above].tolist(), strict=True))
    return pairs


def removal_quality(removed: set[int], truth: set[tuple[int, int]]) -> dict[str, Any]:
    """Return removals without a similar file that stays, and the share of pairs resolved.

    With similar pairs 0-1 and 1-2, removing 1 resolves both. Removing 0 and 1 does too, but 0 then
    counts as below the threshold: no file that stays resembles it.
    """
    similar: dict[int, set[int]] = {}
    for i, j in truth:
        similar.setdefault(i, set()).add(j)
        similar.setdefault(j, set()).add(i)
    below = sum(not similar.get(i, set()) - removed for i in removed)
    resolved = sum(i in removed or j in removed for i, j in truth)
    return {"below_threshold": below, "recall": resolved / len(truth) if truth else 1.0}


def table(result: dict[str, Any]) -> str:
    """Return the measurements as text for the terminal."""
    parts = [
        f"{result['files']:,} files, {result['mb']:.1f} MB, {result['similar_pairs']:,} similar "
        f"pairs; filters {result['filters_mb_per_second']:.1f} MB/s on one core",
        near_duplicates_table(result["contenders"]),
        loader_table(result["loader"]),
    ]
    if result["memory"]:
        parts.append(memory_table(result["memory"]))
    return "\n\n".join(parts)


def near_duplicates_table(rows: list[dict[str, Any]]) -> str:
    """Return the contenders of near duplicates; ratios say how many times as fast ours is."""
    head = ["near duplicates", "MB/s", "llama_scale is", "removed", "below threshold", "recall"]
    cells = [
        [
            row["name"], f"{row['mb_per_second']:.1f}", format_ratio(row["ratio"]),
            f"{row['removed']:,}", f"{row['below_threshold']:,}", f"{row['recall']:.4f}",
        ]
        for row in rows
    ]  # fmt: skip
    return format_table(head, cells)


def memory_table(peaks: dict[str, dict[str, float]]) -> str:
    """Return the peak memory after each step of a build, a column for each number of files."""
    head = ["peak memory after", *(f"MB, {name}" for name in peaks)]
    steps = dict.fromkeys(step for column in peaks.values() for step in column)
    rows = [[step, *(f"{column[step]:,.0f}" if step in column else "-" for column in peaks.values())] for step in steps]
    return format_table(head, rows)
