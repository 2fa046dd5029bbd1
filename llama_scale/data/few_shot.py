"""Held-out pairs with pairs of the pool before each: what the base does when it is shown how, untrained."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llama_scale.data.examples import FIELDS, TextTokenizer, rank_of
from llama_scale.errors import InputError, at_least_0, at_least_1, check_fields
from llama_scale.files import atomic_write, read_jsonl

LOOKED_AT = 200  # pairs of the pool that are tried for a prompt
BETWEEN = "\n"  # after a pair, which ends with its line


@dataclass(frozen=True)
class ShotsConfig:
    """Pairs to show before held-out pairs.

    Args:
        base: The model that reads them.
        pool: File of the pairs to choose from.
        test: File of the held-out pairs.
        out: File of the held-out pairs with the others before each.
        shots: Pairs before each, where so many fit.
        draw: Number of the random order of the pool: a run of the same draw is trained on the first of it.
        room: Tokens that are left for a completion, or its own if those are more.
        bases: Folder where a GGUF file's weights are kept once they are read.
    """

    base: str
    pool: str
    test: str
    out: str
    shots: int = 3
    draw: int = 0
    room: int = 512
    bases: str = "bases"

    def __post_init__(self) -> None:
        check_fields(self, "at least 1", at_least_1, "shots room")
        check_fields(self, "at least 0", at_least_0, "draw")


def show_pairs(config: ShotsConfig, tokenizer: TextTokenizer, context_length: int) -> str:
    """Write the held-out pairs, in each prompt the shown ones first, and return a line about them.

    Shown are the first pairs in the order of the draw that fit: a pair that is too long for what is left of the
    context is passed over. ``before`` in a row is what stands before its own prompt, ``shots`` how many pairs it is.
    """
    pool, held_out = (read_jsonl(Path(file), whole=True, texts=FIELDS) for file in (config.pool, config.test))
    if not held_out:
        raise InputError(f"{config.test}: no pairs in it")
    pool.sort(key=lambda row: rank_of(row["id"], config.draw))
    texts = [row["prompt"] + row["completion"] + BETWEEN for row in pool[:LOOKED_AT]]
    lengths = [len(tokenizer.encode(text)) for text in texts]
    rows = []
    for row in held_out:
        room = context_length - max(config.room, len(tokenizer.encode(row["completion"])) + 1)
        chosen = _fitting(row["prompt"], texts, lengths, config.shots, room, tokenizer)
        before = "".join(chosen)
        rows.append(row | {"prompt": before + row["prompt"], "before": before, "shots": len(chosen)})
    with atomic_write(Path(config.out)) as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    mean = sum(row["shots"] for row in rows) / len(rows)
    return f"{config.out}: {mean:.1f} of {config.shots} pairs before each of {len(rows):,} prompts, as fit the context"


def _fitting(
    prompt: str, texts: Sequence[str], lengths: Sequence[int], shots: int, room: int, tokenizer: TextTokenizer
) -> list[str]:
    """Return the first of ``texts`` that, with the ``prompt`` after them, have at most ``room`` tokens."""
    chosen: list[str] = []
    left = room - len(tokenizer.context(prompt))
    for text, length in zip(texts, lengths, strict=True):
        if len(chosen) < shots and length <= left:
            chosen.append(text)
            left -= length
    while chosen and len(tokenizer.context("".join(chosen) + prompt)) > room:  # where texts meet, tokens may differ
        chosen.pop()
    return chosen
