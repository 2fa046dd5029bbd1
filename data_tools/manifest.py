"""manifest.json: the same for the same sources and settings on any machine."""

from collections.abc import Sequence
from typing import Any

from data_tools.config import PrepareConfig
from data_tools.corpus.corpus import Corpus
from data_tools.corpus.records import Record
from llama_scale.data.shards import FORMAT, data_fingerprint
from llama_scale.data.tokenizer import Tokenizer
from llama_scale.files import sha256


def make_manifest(
    config: PrepareConfig,
    found: Corpus,
    lost: dict[str, Any],
    splits: dict[str, Sequence[Record]],
    summary: dict[str, dict],
    tokenizer: Tokenizer,
) -> dict:
    """Return the manifest of a build.

    Args:
        config: Its settings.
        found: What was collected.
        lost: ``dropped`` and ``examples`` of all steps.
        splits: The documents of each split.
        summary: What ``write_splits`` returned.
        tokenizer: The tokenizer.
    """
    packages: dict[str, dict] = {}
    licences: dict[str, dict] = {}
    redacted = 0
    for name, records in splits.items():
        for record in records:
            redacted += record.redacted
            row = packages.setdefault(
                record.package,
                {
                    "package": record.package,
                    "version": record.version,
                    "licence": record.licence,
                    "files": 0,
                    "bytes": 0,
                    "split": name,
                },
            )
            for counts in (row, licences.setdefault(record.licence, {"files": 0, "bytes": 0})):
                counts["files"] += 1
                counts["bytes"] += record.size
    return {
        "format": FORMAT,
        "name": config.name,
        "dtype": "uint16",
        "tokenizer": {
            "file": tokenizer.path.name,
            "sha256": sha256(tokenizer.path),
            "fingerprint": tokenizer.fingerprint,
            "vocab_size": tokenizer.vocab_size,
            "eos": tokenizer.eos,
        },
        "splits": summary,
        "fingerprint": data_fingerprint(summary, tokenizer.fingerprint),
        "settings": config.settings,
        "dropped": dict(sorted(lost["dropped"].items())),
        "examples": dict(sorted(lost["examples"].items())),
        "left_out": found.left_out,
        "redacted": redacted,
        "licences": dict(sorted(licences.items())),
        "sources": [packages[name] for name in sorted(packages)],
    }
