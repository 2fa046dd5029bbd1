"""Fill-in-the-middle: some documents rearranged so that a model learns to complete a gap."""

import hashlib
from dataclasses import dataclass


@dataclass(frozen=True)
class Fim:
    """How often and how (Bavarian et al. 2022, arXiv 2207.14255).

    Attributes:
        rate: Share of documents rearranged.
        spm: Share of those with the suffix first.
        seed: Seed of the choice.
    """

    rate: float
    spm: float
    seed: int


def arrange(text: str, key: str, fim: Fim) -> tuple[str | None, tuple[str, str, str]]:
    """Return "psm", "spm" or None, and the prefix, middle and suffix of a document.

    The numbers are a hash of (seed, key), so a document is cut the same way whatever process
    meets it and when. The cuts fall anywhere between two characters, all places alike.
    """
    digest = hashlib.sha256(f"fim/{fim.seed}/{key}".encode()).digest()
    chosen, order, *cuts = (
        int.from_bytes(digest[i : i + 8], "little") / 2**64 for i in range(0, 32, 8)
    )
    if chosen >= fim.rate:
        return None, (text, "", "")
    first, second = sorted(min(len(text), int(cut * (len(text) + 1))) for cut in cuts)
    parts = text[:first], text[first:second], text[second:]
    return ("spm" if order < fim.spm else "psm"), parts
