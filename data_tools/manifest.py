"""manifest.json: the same for the same sources and settings on any machine."""

from typing import Any

from data_tools.config import PrepareConfig
from data_tools.corpus.corpus import Corpus, count_file
from data_tools.corpus.records import Records
from llama_scale.data.shards import FORMAT, Split, data_fingerprint
from llama_scale.data.tokenizer import Tokenizer
from llama_scale.files import sha256


def upgrade_manifest(value: Any) -> Any:
    """Return a manifest, or a part of one, with the fields of an older build under today's names.

    ``licence`` was a setting, a field of the sources and a reason to leave a file out.
    """
    if isinstance(value, list):
        return [upgrade_manifest(item) for item in value]
    if not isinstance(value, dict):
        return value
    renamed = PrepareConfig.RENAMED
    row = {renamed.get(name, name): upgrade_manifest(item) for name, item in value.items()}
    return row | {"reason": "license"} if row.get("reason") == "licence" else row


def make_manifest(
    config: PrepareConfig,
    collected: Corpus,
    losses: dict[str, Any],
    splits: dict[Split, Records],
    summary: dict[str, dict],
    tokenizer: Tokenizer,
) -> dict:
    """Return the manifest; ``losses`` (``dropped``, ``examples``) are of all steps, ``summary`` of ``write_splits``."""
    packages: dict[str, dict] = {}
    licenses: dict[str, dict] = {}
    redacted = 0
    for split, records in splits.items():
        for record in records:
            redacted += record.redacted
            source = {"package": record.package, "version": record.version, "license": record.license}
            packages.setdefault(record.package, source | {"files": 0, "bytes": 0, "split": split})
            count_file(packages, record.package, record.size)
            count_file(licenses, record.license, record.size)
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
        "dropped": dict(sorted(losses["dropped"].items())),
        "examples": dict(sorted(losses["examples"].items())),
        "left_out": collected.left_out,
        "redacted": redacted,
        "licenses": dict(sorted(licenses.items())),
        "sources": [packages[name] for name in sorted(packages)],
    }
