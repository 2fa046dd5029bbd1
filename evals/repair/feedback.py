"""A critic's words made fit to be read by a generator: no fences, not too long, no garbage, no echo."""

import re
from dataclasses import dataclass

LONGEST = 1_000  # characters
GENERIC = "The program is wrong. Try again."
FEWEST_WORDS = 2
ECHOED = 0.8  # share of a critic's runs of words that stand in its prompt
RUN = 5  # words


@dataclass(frozen=True)
class Feedback:
    """What a generator is told: ``text``; ``refused`` says why the critic's own words were not passed on, or is ""."""

    text: str
    refused: str = ""


def clean(raw: str, prompt: str = "", longest: int = LONGEST) -> Feedback:
    """Return a critic's words without fences, control characters and repeated lines, cut to ``longest`` characters.

    Where they are empty, no text, or an echo of the ``prompt``, GENERIC stands for them.
    """
    text = re.sub(r"^[ \t]*```.*$", "", raw, flags=re.MULTILINE)
    text = "".join(c for c in text.replace("\r\n", "\n") if c.isprintable() or c in "\n\t")
    lines = [line.rstrip() for line in text.strip().splitlines()]
    text = "\n".join(line for line, before in zip(lines, [None, *lines], strict=False) if line != before)
    reason = garbage(text, prompt)
    if reason:
        return Feedback(GENERIC, reason)
    return Feedback(text if len(text) <= longest else text[: longest - 3].rsplit(" ", 1)[0] + "...")


def garbage(text: str, prompt: str) -> str:
    """Return why a critic's words are of no use, or ""."""
    words = text.split()
    if not words:
        return "empty"
    letters = sum(c.isalpha() or c.isspace() for c in text) / len(text)
    longest, distinct = max(map(len, words)), len(set(words)) / len(words)
    if len(words) < FEWEST_WORDS or letters < 0.5 or longest > 120 or (len(words) > 20 and distinct < 0.2):
        return "no text"
    runs = [" ".join(words[i : i + RUN]) for i in range(max(1, len(words) - RUN + 1))]
    known = " ".join(prompt.split())
    if known and sum(run in known for run in runs) >= ECHOED * len(runs):
        return "echo"
    return ""
