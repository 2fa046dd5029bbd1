"""Which file a token came from, read from documents.jsonl.gz."""

from dataclasses import dataclass

from llama_scale.data.documents import read_documents
from llama_scale.data.shards import Split, load_tokenizer, open_tokens
from llama_scale.errors import InputError

AROUND = 24  # tokens shown on each side


@dataclass(frozen=True)
class LookupConfig:
    """One token of a build.

    Args:
        data: Folder of the build.
        token: Position of the token in its shard, from 0.
        shard: Number of the shard, from 0.
        split: Split of the shard.
    """

    data: str
    token: int
    shard: int = 0
    split: Split = "train"


def lookup(config: LookupConfig) -> dict:
    """Return the row of documents.jsonl.gz that holds a token, and the text around it.

    The row has package, path, license and sha256 of the file; ``offset`` is the token's place in
    that document, ``text`` and ``before``, ``after`` what it stands for and what is around it.

    Raises:
        InputError: There is no such build, shard or token, or the token is padding.
    """
    tokens = open_tokens(config.data, config.split, verify=False)
    if not 0 <= config.shard < len(tokens.shards):
        raise InputError(
            f"shard: {config.data} has {len(tokens.shards)} {config.split} shards, counted from 0; found {config.shard}"
        )
    shard = tokens.shards[config.shard]
    if not 0 <= config.token < len(shard):
        raise InputError(
            f"token: {config.split} shard {config.shard} has {len(shard)} tokens, counted from 0; found {config.token}"
        )
    rows = (row for row in read_documents(config.data) if (row["split"], row["shard"]) == (config.split, config.shard))
    row = next((row for row in rows if 0 <= config.token - row["start"] < row["tokens"]), None)
    if row is None:
        raise InputError(f"token: {config.token} is padding between packed documents")
    if "licence" in row:  # an older build
        row["license"] = row.pop("licence")
    model = load_tokenizer(tokens)
    first, last = row["start"], row["start"] + row["tokens"]
    begin, end = max(first, config.token - AROUND), min(last, config.token + 1 + AROUND)
    return row | {
        "offset": config.token - first + row.get("first", 0),
        "id": int(shard[config.token]),
        "before": model.decode(shard[begin : config.token].tolist()),
        "text": model.decode([int(shard[config.token])]),
        "after": model.decode(shard[config.token + 1 : end].tolist()),
    }


def describe(row: dict) -> str:
    """Return a lookup as lines for the terminal."""
    return (
        f"{row['package']}: {row['path']}\n"
        f"license   {row['license']}\n"
        f"sha256    {row['sha256']}\n"
        f"token     {row['offset']} of the document, id {row['id']}, {row['text']!r}\n"
        f"around    {row['before']!r} {row['text']!r} {row['after']!r}"
    )
