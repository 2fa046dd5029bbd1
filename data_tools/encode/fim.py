"""Fill-in-the-middle: which documents have a gap, and where (llama_scale/data/fim.py says how it is arranged)."""

import hashlib
from dataclasses import dataclass

from llama_scale.data.fim import FimOrder


@dataclass(frozen=True)
class FimSettings:
    """How often and how (Bavarian et al. 2022, arXiv 2207.14255)."""

    rate: float  # share of documents rearranged
    spm: float  # share of those with the suffix first
    seed: int  # of the choice


def cut_for_fim(text: str, key: str, fim: FimSettings | None) -> tuple[FimOrder | None, tuple[str, str, str]]:
    """Return "psm", "spm" or None, and the prefix, middle and suffix of a document.

    The numbers are a hash of (seed, key), so a document is cut the same way whatever process
    meets it and when. The cuts fall anywhere between two characters, all places alike. A document
    that stays as it is, as all do where ``fim`` is None, is all prefix.
    """
    if fim is None:
        return None, (text, "", "")
    # 32 bytes of hash are four numbers in [0, 1): is it chosen, which order, and the two cuts. A
    # text of n characters has n + 1 places to cut, both ends among them.
    digest = hashlib.sha256(f"fim/{fim.seed}/{key}".encode()).digest()
    chosen, order, *cuts = (int.from_bytes(digest[i : i + 8], "little") / 2**64 for i in range(0, 32, 8))
    if chosen >= fim.rate:
        return None, (text, "", "")
    first, second = sorted(min(len(text), int(cut * (len(text) + 1))) for cut in cuts)
    parts = text[:first], text[first:second], text[second:]
    return ("spm" if order < fim.spm else "psm"), parts
