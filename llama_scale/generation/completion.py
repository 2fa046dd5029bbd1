"""One continuation of a prompt as it grows: its tokens, where it stops, what of it may be shown."""

import codecs
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple


class Stops(NamedTuple):
    """Stop strings: ``pattern`` finds the first, if any; one in new bytes begins at most ``reach`` before them."""

    pattern: re.Pattern[bytes] | None
    reach: int


def compile_stops(strings: Sequence[str]) -> Stops:
    """Return stop strings, none of them empty, as ``Completion.push`` looks for them."""
    stops = [string.encode() for string in strings]
    pattern = re.compile(b"|".join(map(re.escape, stops))) if stops else None
    return Stops(pattern, max(map(len, stops), default=1) - 1)


@dataclass
class Completion:
    """One continuation of a prompt, growing while it is decoded.

    It ends with a ``finish_reason``: "stop" (a stop string or the document's end) or "length".
    """

    task: int  # number of the prompt
    sample: int  # number among the completions of its prompt
    context: list[int]  # tokens that it continues: a document end, then the prompt's
    prompt_truncated: bool  # whether the prompt's start was cut to fit the context
    tokens: list[int] = field(default_factory=list)  # all that were drawn, without a document end
    raw: bytearray = field(default_factory=bytearray)  # their bytes, without the stop string and what follows it
    finish_reason: Literal["stop", "length"] | None = None

    @property
    def text(self) -> str:
        """The continuation; bytes that are not UTF-8 become U+FFFD."""
        return self.raw.decode("utf-8", errors="replace")

    def push(self, token: int, piece: bytes, stops: Stops, limit: int) -> None:
        """Append a token, looking for stop strings where they may have become whole.

        That is in the new bytes and the few before them: if the text is b"x = 1\\n" and b"def f"
        comes, the stop string b"\\ndef" begins one byte, at most ``stops.reach``, before the new.
        """
        self.tokens.append(token)
        start = max(0, len(self.raw) - stops.reach)
        self.raw += piece
        if stops.pattern and (match := stops.pattern.search(self.raw, start)):
            del self.raw[match.start() :]
            self.finish_reason = "stop"
        elif len(self.tokens) == limit:
            self.finish_reason = "length"


class ShownText:
    """The text of a completion that may be shown while it grows: whole characters, never a stop string.

    Attributes:
        end: Bytes of the completion that were taken so far, but for those of a character that is not whole.
    """

    def __init__(self, completion: Completion, stop: Sequence[str]) -> None:
        self.completion, self.end = completion, 0
        self.starts = tuple(string.encode()[:n] for string in stop for n in range(1, len(string.encode())))
        self.decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def take(self) -> str:
        """Return what may be shown now and was not taken before."""
        raw, finished = self.completion.raw, self.completion.finish_reason is not None
        # The end of the text waits while it may be the start of a stop string.
        waits = not finished and raw.endswith(self.starts)
        waiting = max(len(start) for start in self.starts if raw.endswith(start)) if waits else 0
        text = self.decoder.decode(bytes(raw[self.end : len(raw) - waiting]), final=finished)
        self.end = len(raw) - waiting
        return text
