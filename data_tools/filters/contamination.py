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
from functools import lru_cache
from pathlib import Path

import numpy as np

from data_tools.corpus import corpus
from data_tools.corpus.records import Record
from data_tools.dedup.minhash import word_shingles
from data_tools.filters.benchmark_texts import Part
from llama_scale.files import atomic_write
from llama_scale.splitmix import GOLDEN_GAMMA, mix

NGRAM = 13
MIN_LENGTH = 50  # characters without white space: a shorter part is too common to be evidence
MIN_DISTINCT = 16  # distinct characters of a part: tables of numbers have fewer
MIN_WORDS = 9  # distinct words of a 13-gram that begin with a letter: the same for word runs
SPACE = b" \t\n\r\f\v"
INDEX = "benchmarks.pickle"
BITS = 21  # size of the table that rules most values out
STOP_LIST = Path(__file__).with_name("stopgrams.txt")
WORD = re.compile(rb"[A-Za-z_0-9]+")


@dataclass
class Index:
    """What to look for: made once from the parts, sent to every worker.

    Attributes:
        names: (benchmark, task, kind) of each part.
        needles: Hash of the first MIN_LENGTH bytes -> (normalised text, part numbers).
        grams: Hash of a 13-gram -> part numbers.
        too_short: Parts that are neither long enough nor have a 13-gram.
    """

    names: list[tuple[str, str, str]]
    needles: dict[int, list[tuple[bytes, int]]] = field(default_factory=dict)
    grams: dict[int, list[int]] = field(default_factory=dict)
    too_short: list[int] = field(default_factory=list)


def build_index(parts: Iterable[Part]) -> Index:
    """Return the index of benchmark parts, without the 13-grams of the stop list."""
    parts = list(parts)
    stop = {line.split("#")[0].strip() for line in STOP_LIST.read_text().splitlines()}
    index = Index([(part.benchmark, part.task, part.kind) for part in parts])
    for number, part in enumerate(parts):
        content = part.text.encode("utf-8", "replace")
        needle = normalised(content)
        long = len(needle) >= MIN_LENGTH and len(set(needle)) >= MIN_DISTINCT
        if long:
            key = int(windows(needle[:MIN_LENGTH])[0])
            index.needles.setdefault(key, []).append((needle, number))
        words = WORD.findall(content.lower())
        (hashes,) = word_shingles([content.lower()], NGRAM)
        used = False
        for start, gram in enumerate(hashes.tolist()):
            run = words[start : start + NGRAM]
            if len({w for w in run if not w[:1].isdigit()}) < MIN_WORDS:
                continue
            if b" ".join(run).decode() in stop:
                continue
            numbers = index.grams.setdefault(gram, [])
            if number not in numbers[-1:]:
                numbers.append(number)
            used = True
        if not long and not used:
            index.too_short.append(number)
    return index


def normalised(content: bytes) -> bytes:
    """Return the content in lower case without white space."""
    return content.lower().translate(None, SPACE)


def contaminated(
    folder: Path, records: Sequence[Record], index: Index, map_: Callable
) -> dict[int, list[dict]]:
    """Return position of each record that holds benchmark text -> what it matched."""
    content = pickle.dumps(index)
    with atomic_write(folder / INDEX, "wb") as file:
        file.write(content)
    checksum = hashlib.sha256(content).hexdigest()
    task = functools.partial(search_batch, folder, checksum)
    found, position = {}, 0
    for rows in corpus.mapped(task, records, map_, "benchmark copies"):
        for matches in rows:
            if matches:
                found[position] = matches
            position += 1
    return found


def search_batch(folder: Path, checksum: str, batch: list[Record]) -> list[list[dict]]:
    """Return what each record matches: benchmark, task, part and how, in that order."""
    return search(list(corpus.contents(folder, batch)), _load(folder / INDEX, checksum))


@lru_cache(maxsize=1)
def _load(path: Path, checksum: str) -> Index:
    """Read the index once in each process; this program wrote it a moment ago."""
    return pickle.loads(path.read_bytes())


def search(contents: list[bytes], index: Index) -> list[list[dict]]:
    """Return what each content matches, a part at most once for each way of matching."""
    lowered = [content.lower() for content in contents]
    packed = [content.translate(None, SPACE) for content in lowered]
    joined = b"\0".join(packed)
    hits = [set() for _ in contents]
    ends = np.cumsum([len(text) + 1 for text in packed])
    keys = windows(joined)
    for place in _members(keys, index.needles).tolist():
        owner = int(np.searchsorted(ends, place, side="right"))
        for needle, number in index.needles[int(keys[place])]:
            if joined.startswith(needle, place):
                hits[owner].add((number, "substring"))
    runs = word_shingles(lowered, NGRAM)
    grams = np.concatenate([np.empty(0, np.uint64), *runs])
    ends = np.cumsum([len(run) for run in runs])
    for place in _members(grams, index.grams).tolist():
        owner = int(np.searchsorted(ends, place, side="right"))
        hits[owner].update((number, "13-gram") for number in index.grams[int(grams[place])])
    rows = []
    for found in hits:
        matches = {(*index.names[number], how) for number, how in found}
        keys_ = ("benchmark", "task", "part", "how")
        rows.append([dict(zip(keys_, match, strict=True)) for match in sorted(matches)])
    return rows


def windows(content: bytes) -> np.ndarray:
    """Return the hash of each run of MIN_LENGTH bytes: (n - MIN_LENGTH + 1,) uint64."""
    data = np.frombuffer(content, dtype=np.uint8)
    if len(data) < MIN_LENGTH:
        return np.empty(0, np.uint64)
    table, powers, inverses = _powers(1 << (len(data) - 1).bit_length())
    sums = np.zeros(len(data) + 1, dtype=np.uint64)
    np.cumsum(table[data] * powers[: len(data)], out=sums[1:])
    keys = sums[MIN_LENGTH:] - sums[:-MIN_LENGTH]
    keys *= inverses[: len(keys)]
    return keys * np.uint64(GOLDEN_GAMMA)


@lru_cache(maxsize=2)
def _powers(size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return a value of each byte (256,), and the powers of an odd base and its inverse."""
    base = 0xD1342543DE82EF95
    table = mix(np.arange(1, 257, dtype=np.uint64) * np.uint64(GOLDEN_GAMMA))
    powers = []
    for factor in (base, pow(base, -1, 1 << 64)):
        steps = np.full(size, factor, dtype=np.uint64)
        steps[0] = 1
        powers.append(np.cumprod(steps))
    return table, *powers


def _members(values: np.ndarray, wanted: dict[int, list]) -> np.ndarray:
    """Return the positions of ``values`` (n,) uint64 that are among the keys of ``wanted``."""
    if not wanted:
        return np.empty(0, np.int64)
    table = np.sort(np.fromiter(wanted, np.uint64, len(wanted)))
    shift = np.uint64(64 - BITS)
    marks = np.zeros(1 << BITS, dtype=bool)
    marks[table >> shift] = True
    places = np.flatnonzero(marks[values >> shift])
    found = values[places]
    nearest = table[np.minimum(np.searchsorted(table, found), len(table) - 1)]
    return places[nearest == found]


def summary(parts: list[Part], index: Index, files: list[dict]) -> dict:
    """Return contamination.json: files removed, and a flag for each task.

    Args:
        parts: What was looked for.
        index: Its index.
        files: Rows of package, path and ``matches``.
    """
    tasks: dict[str, dict[str, int]] = {}
    for part in parts:
        tasks.setdefault(part.benchmark, {})[part.task] = 0
    for row in files:
        for benchmark, task in {(m["benchmark"], m["task"]) for m in row["matches"]}:
            tasks[benchmark][task] += 1
    text = {name: hashlib.sha256() for name in tasks}
    for part in parts:
        text[part.benchmark].update(f"{part.task}\0{part.kind}\0{part.text}\0".encode())
    return {
        "format": "llama_scale.contamination.v1",
        "method": {
            "substring": f"without case and white space, {MIN_LENGTH} characters or more",
            "ngram": f"{NGRAM} words, {MIN_WORDS} of them distinct names, less a stop list",
        },
        "benchmarks": {
            name: {
                "sha256": text[name].hexdigest(),
                "tasks": len(found),
                "tasks_found": sum(map(bool, found.values())),
                "parts_too_short": sum(index.names[i][0] == name for i in index.too_short),
            }
            for name, found in tasks.items()
        },
        "files": files,
        "tasks": {
            name: {
                task: {"contaminated": count > 0, "files": count} for task, count in found.items()
            }
            for name, found in tasks.items()
        },
    }
