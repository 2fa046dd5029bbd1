"""Benchmark tasks in training files: exact substrings, and runs of 13 words.

Both ignore case and white space. A part of a task is searched for as a whole where it is long
and varied enough to be evidence; the 13-grams find parts of it, reworded or embedded.
"""

import functools
import hashlib
import pickle
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import numpy as np

from data_tools.corpus.corpus import add_example, count_file, map_batches, read_contents
from data_tools.corpus.records import Record, Records
from data_tools.dedup.minhash import word_shingles
from data_tools.filters.benchmark_texts import Part
from llama_scale.files import atomic_write, sha256, write_json
from llama_scale.splitmix import GOLDEN_GAMMA, mix

CONTAMINATION = "contamination.json"
NGRAM = 13
MIN_LENGTH = 50  # characters without white space: a shorter part is too common to be evidence
MIN_DISTINCT = 16  # distinct characters of a part: tables of numbers have fewer
MIN_WORDS = 9  # distinct words of a 13-gram that begin with a letter: the same for word runs
SPACE = b" \t\n\r\f\v"
INDEX_FILE = "benchmarks.pickle"
TABLE_BITS = 21  # size of the table that rules most values out
STOP_LIST = Path(__file__).with_name("stop_ngrams.txt")
WORD = re.compile(rb"[A-Za-z_0-9]+")


@dataclass
class BenchmarkIndex:
    """What to look for: made once from the parts, sent to every worker."""

    part_names: list[tuple[str, str, str]]  # (benchmark, task, kind) of each part
    # Hash of the first MIN_LENGTH bytes -> (normalized text, part number).
    needles: dict[int, list[tuple[bytes, int]]] = field(default_factory=dict)
    grams: dict[int, list[int]] = field(default_factory=dict)  # hash of a 13-gram -> part numbers
    too_short: list[int] = field(default_factory=list)  # parts that are neither long enough nor have a 13-gram


def decontaminate(
    records: Records, positions: np.ndarray, losses: dict[str, dict], parts: Iterable[Part], work: Path, map_: Callable
) -> tuple[np.ndarray, dict[str, dict]]:
    """Remove files with benchmark tasks, and write contamination.json into ``work``, the folder of contents.bin.

    Of ``records``, what passed the filters, those at ``positions`` (n,) are left.

    Returns:
        Positions in ``records`` of what is left, and ``losses`` (``dropped`` and ``examples`` so far) with these added.
    """
    parts = list(parts)
    index = build_index(parts)
    remaining = records.take(positions)
    contaminated = find_contaminated(work, remaining, index, map_) if parts else {}
    files = []
    for i, matches in sorted(contaminated.items()):
        record = remaining[i]
        count_file(losses["dropped"], "benchmark", record.size)
        add_example(losses["examples"], "benchmark", record)
        files.append({"package": record.package, "path": record.path, "matches": matches})
    write_json(work / CONTAMINATION, summary(parts, index, files), sealed=True)
    return np.delete(positions, sorted(contaminated)), losses


def build_index(parts: Sequence[Part]) -> BenchmarkIndex:
    """Return the index of benchmark parts, without the 13-grams of the stop list."""
    stop = {line.split("#")[0].strip() for line in STOP_LIST.read_text().splitlines()}
    index = BenchmarkIndex([(part.benchmark, part.task, part.kind) for part in parts])
    for number, part in enumerate(parts):
        content = part.text.encode("utf-8", "replace")
        needle = content.lower().translate(None, SPACE)
        long_enough = len(needle) >= MIN_LENGTH and len(set(needle)) >= MIN_DISTINCT
        if long_enough:
            key = int(window_hashes(needle[:MIN_LENGTH])[0])
            index.needles.setdefault(key, []).append((needle, number))
        # Every window of 13 words, moved by one word, counts as evidence by itself, so a copy is
        # found however much of it was cut off or added. Not so a window of numbers ("0, 1, 1, 2,
        # 3, 5 ...") or of few words again and again: those are in clean code, too.
        words = WORD.findall(content.lower())
        (hashes,) = word_shingles([content.lower()], NGRAM)
        has_gram = False
        for start, gram in enumerate(hashes.tolist()):
            run = words[start : start + NGRAM]
            if len({w for w in run if not w[:1].isdigit()}) < MIN_WORDS or b" ".join(run).decode() in stop:
                continue
            numbers = index.grams.setdefault(gram, [])
            if number not in numbers[-1:]:
                numbers.append(number)
            has_gram = True
        if not (long_enough or has_gram):
            index.too_short.append(number)
    return index


def find_contaminated(
    folder: Path, records: Sequence[Record], index: BenchmarkIndex, map_: Callable
) -> dict[int, list[dict]]:
    """Return position of each record that holds benchmark text -> what it matched."""
    with atomic_write(folder / INDEX_FILE, "wb") as file:
        pickle.dump(index, file)
    task = functools.partial(search_batch, folder, sha256(folder / INDEX_FILE))
    all_matches = chain.from_iterable(map_batches(task, records, map_, "benchmark copies"))
    return {position: matches for position, matches in enumerate(all_matches) if matches}


def search_batch(folder: Path, checksum: str, batch: list[Record]) -> list[list[dict]]:
    """Return what each record matches, see ``search``."""
    return search(list(read_contents(folder, batch)), _load_index(folder / INDEX_FILE, checksum))


@functools.lru_cache(maxsize=1)
def _load_index(path: Path, checksum: str) -> BenchmarkIndex:
    """Read the index once in each process; this program wrote it a moment ago."""
    return pickle.loads(path.read_bytes())


def search(contents: list[bytes], index: BenchmarkIndex) -> list[list[dict]]:
    """Return what each content matches, a part at most once for each way: benchmark, task, part, how, in order."""
    lowered = [content.lower() for content in contents]
    # All contents are searched at once, as one text with a zero byte between two. A match at byte
    # i belongs to the first content that ends after i: contents of 3 and 2 bytes end at 4 and 7
    # with their zero bytes, so byte 4 is in the second.
    packed = [content.translate(None, SPACE) for content in lowered]
    joined = b"\0".join(packed)
    hits = [set() for _ in contents]
    ends = np.cumsum([len(text) + 1 for text in packed])
    keys = window_hashes(joined)
    for i in _positions_of_members(keys, index.needles).tolist():
        owner = int(np.searchsorted(ends, i, side="right"))
        for needle, number in index.needles[int(keys[i])]:
            if joined.startswith(needle, i):
                hits[owner].add((number, "substring"))
    runs = word_shingles(lowered, NGRAM)
    grams = np.concatenate([np.empty(0, np.uint64), *runs])
    ends = np.cumsum([len(run) for run in runs])
    for i in _positions_of_members(grams, index.grams).tolist():
        owner = int(np.searchsorted(ends, i, side="right"))
        hits[owner].update((number, "13-gram") for number in index.grams[int(grams[i])])
    fields = ("benchmark", "task", "part", "how")
    matches = (sorted({(*index.part_names[number], how) for number, how in hit}) for hit in hits)
    return [[dict(zip(fields, match, strict=True)) for match in row] for row in matches]


def window_hashes(content: bytes) -> np.ndarray:
    """Return a hash of each run of MIN_LENGTH bytes, wherever it stands the same: (n - MIN_LENGTH + 1,) uint64."""
    data = np.frombuffer(content, dtype=np.uint8)
    if len(data) < MIN_LENGTH:
        return np.empty(0, np.uint64)
    # Byte c at position j counts t[c] * b^j, modulo 2^64. With S[i] the sum over the first i
    # bytes, the run at i has the sum S[i + 50] - S[i] = b^i * (t[c0] + t[c1] b + t[c2] b^2 ...);
    # times b^-i, which an odd b has, the position is gone. Example with runs of 2 and "xyxy":
    # S = 0, x, x + yb, x + yb + xb^2, ...; the run at 2 is (x b^2 + y b^3) b^-2 = x + yb, as at 0.
    table, powers, inverses = _window_powers(1 << (len(data) - 1).bit_length())
    sums = np.zeros(len(data) + 1, dtype=np.uint64)
    np.cumsum(table[data] * powers[: len(data)], out=sums[1:])
    keys = sums[MIN_LENGTH:] - sums[:-MIN_LENGTH]
    keys *= inverses[: len(keys)]
    return keys * np.uint64(GOLDEN_GAMMA)


@functools.lru_cache(maxsize=2)
def _window_powers(size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return a value of each byte, and the powers 0 to size - 1 of an odd base and its inverse.

    Shapes (256,), (size,), (size,), all uint64. ``size`` is a power of two, so few are computed.
    """
    base = 0xD1342543DE82EF95
    table = mix(np.arange(1, 257, dtype=np.uint64) * np.uint64(GOLDEN_GAMMA))
    powers = []
    for factor in (base, pow(base, -1, 1 << 64)):
        steps = np.full(size, factor, dtype=np.uint64)
        steps[0] = 1
        powers.append(np.cumprod(steps))
    return table, *powers


def _positions_of_members(values: np.ndarray, members: dict[int, list]) -> np.ndarray:
    """Return the positions of ``values`` (n,) uint64 that are among the keys of ``members``."""
    if not members:
        return np.empty(0, np.int64)
    # Few values are members, so most are ruled out by their upper 21 bits: one look-up each in a
    # table of 2^21 marks, hardly any of them set. The rest are searched for among the sorted keys.
    table = np.sort(np.fromiter(members, np.uint64, len(members)))
    shift = np.uint64(64 - TABLE_BITS)
    marks = np.zeros(1 << TABLE_BITS, dtype=bool)
    marks[table >> shift] = True
    positions = np.flatnonzero(marks[values >> shift])
    candidates = values[positions]
    at = np.minimum(np.searchsorted(table, candidates), len(table) - 1)
    return positions[table[at] == candidates]


def summary(parts: list[Part], index: BenchmarkIndex, files: list[dict]) -> dict:
    """Return contamination.json: ``files`` removed, with package, path and ``matches``, and a flag for each task."""
    tasks: dict[str, dict[str, int]] = {}
    for part in parts:
        tasks.setdefault(part.benchmark, {})[part.task] = 0
    for row in files:
        for benchmark, task in {(m["benchmark"], m["task"]) for m in row["matches"]}:
            tasks[benchmark][task] += 1
    digests = {name: hashlib.sha256() for name in tasks}
    for part in parts:
        digests[part.benchmark].update(f"{part.task}\0{part.kind}\0{part.text}\0".encode())
    return {
        "format": "llama_scale.contamination.v1",
        "method": {
            "substring": f"without case and white space, {MIN_LENGTH} characters or more",
            "ngram": f"{NGRAM} words, {MIN_WORDS} of them distinct names, less a stop list",
        },
        "benchmarks": {
            name: {
                "sha256": digests[name].hexdigest(),
                "tasks": len(counts),
                "tasks_found": sum(map(bool, counts.values())),
                "parts_too_short": sum(index.part_names[i][0] == name for i in index.too_short),
            }
            for name, counts in tasks.items()
        },
        "files": files,
        "tasks": {
            name: {task: {"contaminated": count > 0, "files": count} for task, count in counts.items()}
            for name, counts in tasks.items()
        },
    }
