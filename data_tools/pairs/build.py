"""A folder of pairs from the Python of this machine: training pairs, and held-out ones from other packages."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from data_tools.filters.benchmark_texts import Part, humaneval, mbpp
from data_tools.filters.contamination import build_index, search
from data_tools.pairs.docstrings import DocumentedFunction, documented_functions
from data_tools.sources.installed import installed_documents
from llama_scale.config import at_least_1, check_fields
from llama_scale.errors import InputError
from llama_scale.files import atomic_write, sha256, write_json

MANIFEST = "pairs.json"
AT_A_TIME = 1_000  # contents that are searched as one text
Row = dict[str, Any]


@dataclass(frozen=True)
class PairsConfig:
    """Pairs of a function's docstring and its code, from the installed Python.

    Args:
        name: Name of the folder.
        out: Folder that it is made in.
        format: signature has the signature and the docstring as prompt and the body as completion; seed has
            "Prompt: ... Code:" and the whole function.
        packages: Only these packages; null is all that are installed, and the standard library.
        exclude: Packages left out.
        max_bytes: Most bytes of source read.
        longest: Most UTF-8 bytes of a completion; longer ones are left out and counted.
        test: Held-out pairs, from packages that no training pair is from.
        humaneval: Leave functions with HumanEval's text out.
        mbpp: Path of mbpp.jsonl, whose text is left out too.
        seed: Seed of which packages are held out.
    """

    name: str = "python"
    out: str = "pairs"
    format: Literal["signature", "seed"] = "signature"
    packages: list[str] | None = None
    exclude: list[str] | None = None
    max_bytes: int | None = None
    longest: int = 2_000
    test: int = 500
    humaneval: bool = True
    mbpp: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        partial(check_fields, self)("at least 1", at_least_1, "max_bytes longest test")

    @property
    def folder(self) -> Path:
        """Where the pairs are written."""
        return Path(self.out) / self.name


def build_pairs(config: PairsConfig) -> dict[str, Any]:
    """Write train.jsonl, test.jsonl and pairs.json, which tells what was left out; return the last.

    Raises InputError where the packages do not give ``config.test`` held-out pairs and any to train on.
    """
    dropped: Counter[str] = Counter()
    rows = distinct(read_rows(config, dropped), dropped)
    benchmarks = [*(humaneval() if config.humaneval else ()), *(mbpp(config.mbpp) if config.mbpp else ())]
    rows = without_copies(rows, benchmarks, "benchmark", dropped)
    train, test = hold_out(rows, config.test, config.seed)
    held_out = [Part("held-out", row["id"], "code", row["reference"]) for row in test]
    train = without_copies(train, held_out, "near a held-out pair", dropped)
    if len(test) < config.test or not train:
        found = f"{len(rows):,} pairs of {len({row['package'] for row in rows})} packages"
        raise InputError(f"test: {found} do not give {config.test:,} held-out pairs and others; lower it")
    config.folder.mkdir(parents=True, exist_ok=True)
    for name, part in (("train", train), ("test", test)):
        with atomic_write(config.folder / f"{name}.jsonl") as file:
            file.writelines(json.dumps(row) + "\n" for row in part)
    manifest = {
        "config": asdict(config),
        "train": len(train),
        "test": len(test),
        "test_packages": sorted({row["package"] for row in test}),
        "dropped": dict(sorted(dropped.items())),
        "sha256": {name: sha256(config.folder / f"{name}.jsonl") for name in ("train", "test")},
    }
    write_json(config.folder / MANIFEST, manifest, sealed=True)
    return manifest


def read_rows(config: PairsConfig, dropped: Counter[str]) -> list[Row]:
    """Return a row for each documented function of the installed packages."""
    rows = []
    for document in installed_documents(config.packages, config.exclude, config.max_bytes):
        for function in documented_functions(document.content or b"", dropped):
            prompt, completion = prompt_and_completion(function, config.format)
            if len(completion.encode()) > config.longest:
                dropped["completion too long"] += 1
                continue
            rows.append({
                "id": f"{document.package}/{document.path}:{function.line}",
                "prompt": prompt,
                "completion": completion,
                "language": "python",
                "source": f"{document.package} {document.version}",
                "license": document.license,
                "format": config.format,
                "reference": function.code,
                "package": document.package,
            })  # fmt: skip
    return rows


def prompt_and_completion(function: DocumentedFunction, form: str) -> tuple[str, str]:
    """Return the two texts of a pair; a prompt ends with its line, so that no token would reach over the seam."""
    if form == "seed":
        return f"Prompt: {function.doc}\nCode:\n", function.code
    comment = "".join(f"# {line}\n" for line in function.doc.split("\n"))
    return comment + function.signature, function.body


def distinct(rows: Iterable[Row], dropped: Counter[str]) -> list[Row]:
    """Return the rows whose code, white space apart, no row before has."""
    seen: dict[str, Row] = {}
    for row in rows:
        if seen.setdefault(" ".join(row["reference"].split()), row) is not row:
            dropped["copy"] += 1
    return list(seen.values())


def without_copies(rows: Sequence[Row], parts: Sequence[Part], reason: str, dropped: Counter[str]) -> list[Row]:
    """Return the rows that neither hold one of ``parts`` nor share 13 words in a row with one."""
    if not parts:
        return list(rows)
    index, kept = build_index(parts), []
    for start in range(0, len(rows), AT_A_TIME):
        batch = rows[start : start + AT_A_TIME]
        found = search([row["reference"].encode() for row in batch], index)
        kept += [row for row, matches in zip(batch, found, strict=True) if not matches]
    dropped[reason] += len(rows) - len(kept)
    return kept


def hold_out(rows: Sequence[Row], count: int, seed: int) -> tuple[list[Row], list[Row]]:
    """Return training rows and ``count`` held-out ones, of whole packages in the order of a hash of their names.

    A package that has more than what is missing gives a part, by the hash of its pairs; the rest of it is left out.
    """

    def order(name: str) -> bytes:
        return hashlib.sha256(f"{seed}\n{name}".encode()).digest()

    test: list[Row] = []
    held: set[str] = set()
    sizes = Counter(row["package"] for row in rows)
    # No package with half of all pairs: the others would have too little to train on.
    for package in sorted((name for name in sizes if 2 * sizes[name] <= len(rows)), key=order):
        if len(test) == count:
            break
        own = sorted((row for row in rows if row["package"] == package), key=lambda row: order(row["id"]))
        test += own[: count - len(test)]
        held.add(package)
    return [row for row in rows if row["package"] not in held], test


def describe(manifest: dict[str, Any], folder: Path) -> str:
    """Return the counts in a few lines."""
    dropped = sorted(manifest["dropped"].items(), key=lambda item: -item[1])
    return "\n".join(
        [
            f"{folder}: {manifest['train']:,} pairs to train on, {manifest['test']:,} held out of "
            f"{len(manifest['test_packages'])} packages, format {manifest['config']['format']}",
            *(f"  {count:9,} left out: {reason}" for reason, count in dropped),
        ]
    )
