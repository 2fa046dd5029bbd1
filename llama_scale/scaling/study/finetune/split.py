"""A study's own pairs: a pool that subsets are drawn from, pairs that decide rates, pairs that arms are compared on."""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llama_scale.errors import InputError
from llama_scale.files import atomic_write, check_built, read_jsonl
from llama_scale.records import has_values

PARTS = ("pool", "tune", "test")


@dataclass(frozen=True)
class SplitConfig:
    """A study's pairs.

    Args:
        folders: For each language the folder of its train.jsonl and test.jsonl.
        out: Folder for <language>/pool.jsonl, tune.jsonl and test.jsonl.
        longest: Most bytes of a prompt with its completion.
        pool: Pairs to train on; null is all.
        examples: Pairs that the largest arm is trained on.
        subsets: Of arms that take pairs of some kind alone their ``only`` and ``examples``.
        tune: Held-out pairs that decide rates.
        test: Other held-out pairs, that arms are compared on.
    """

    folders: dict[str, str]
    out: str
    longest: int = 2_000
    pool: int | None = None
    examples: int = 1
    subsets: list[dict[str, Any]] = field(default_factory=list)
    tune: int = 100
    test: int = 500


def split_pairs(config: SplitConfig) -> list[str]:
    """Write the pairs of each language and return a line for each.

    Which pairs are chosen is decided by a hash of their ids. Languages whose held-out pairs have ids in common (MBXP's)
    take the same ones, so that they can be compared in pairs.
    """
    found = {language: _read(Path(folder), config.longest) for language, folder in config.folders.items()}
    lines, shared = [], _shared_ids([rows[1] for rows in found.values()])
    for language, (train, held_out) in found.items():
        if shared:
            held_out = [row for row in held_out if row["id"] in shared]
        held_out.sort(key=_order)
        parts = {
            "pool": sorted(train, key=_order)[: config.pool],
            "tune": held_out[: config.tune],
            "test": held_out[config.tune : config.tune + config.test],
        }
        if len(parts["pool"]) < config.examples or len(parts["test"]) < config.test:
            found = f"{len(parts['pool']):,} pairs to train on and {len(held_out):,} held out"
            wanted = f"the study trains on {config.examples:,} and holds out {config.tune + config.test:,}"
            remedy = "lower examples, test or rates.pairs, or raise longest or pool"
            found = f"{config.folders[language]}: {found} of at most {config.longest} bytes"
            raise InputError(f"{found}; {wanted}; {remedy}")
        for subset in config.subsets:
            own, only = [row for row in parts["pool"] if has_values(row, subset["only"])], subset["only"]
            if len(own) < subset["examples"]:
                found = f"{len(own):,} of {len(parts['pool']):,} pairs to train on are of only: {json.dumps(only)}"
                wanted = f"an arm trains on {subset['examples']:,}; lower its examples, or raise longest or pool"
                raise InputError(f"{config.folders[language]}: {found}; {wanted}")
        for part, rows in parts.items():
            with atomic_write(Path(config.out) / language / f"{part}.jsonl") as file:
                file.writelines(json.dumps(row) + "\n" for row in rows)
        counts = ", ".join(f"{len(rows):,} {part}" for part, rows in parts.items())
        lines.append(f"{language}: {counts} pairs of at most {config.longest} bytes")
    return lines


def _read(folder: Path, longest: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    parts = []
    for name in ("train", "test"):
        rows = read_jsonl(folder / f"{name}.jsonl", whole=True, texts=["id", "prompt", "completion"])
        check_built(folder / f"{name}.jsonl")
        parts.append([row for row in rows if len((row["prompt"] + row["completion"]).encode()) <= longest])
    return parts[0], parts[1]


def _shared_ids(parts: list[list[dict[str, Any]]]) -> set[str]:
    """Return the ids that the pairs of all languages have; none of a single one."""
    return set.intersection(*({row["id"] for row in rows} for rows in parts)) if len(parts) > 1 else set()


def _order(row: dict[str, Any]) -> bytes:
    """Where a pair stands, by its id; those of one task stand alike in all languages."""
    return hashlib.sha256(f"split\n{row['id']}".encode()).digest()
