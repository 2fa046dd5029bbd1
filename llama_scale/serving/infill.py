"""llama.cpp's /infill, which editors ask (llama.vim, llama.vscode): a gap, its texts cut far from the cursor."""

import re
import secrets
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

from llama_scale.data.fim import FimOrder
from llama_scale.data.open_tokenizer import AnyTokenizer
from llama_scale.generation.config import SamplingConfig
from llama_scale.generation.generate import prompt_room
from llama_scale.serving.batch import Piece, Prompt
from llama_scale.serving.protocol import FIM_TOKENS, Fields, arrange_gap, refuse


def gap_ids(
    tokenizer: AnyTokenizer, before: str, after: str, most: int, order: FimOrder
) -> tuple[tuple[int, ...], bool]:
    """Return the ids of a gap to fill, at most ``most`` of them, and whether texts were cut far from it.

    What stands after has a quarter of the room, and what the text before leaves of the rest.
    """
    prefix, suffix = tokenizer.encode(before), tokenizer.encode(after)
    room = max(0, most - len(arrange_gap(tokenizer, [], [], order)))
    kept_after = min(len(suffix), max(room // 4, room - len(prefix)))
    kept_before = min(len(prefix), room - kept_after)
    cut = kept_before + kept_after < len(prefix) + len(suffix)
    return arrange_gap(tokenizer, prefix[len(prefix) - kept_before :], suffix[:kept_after], order), cut


@dataclass(frozen=True)
class Infill:
    """A request whose fields are checked.

    Attributes:
        model: Name of the model; None is the server's first.
        before: What stands before the cursor's line, and ``line``: what of that line stands before the cursor.
        after: What stands after the cursor.
        indent: Spaces and tabs that each further line begins with; the text ends before one with fewer.
        seconds: After which the text ends with its line, if it has more than one; None for no limit.
        fields: Parts of the answer that are wanted, such as timings/prompt_n; none is all.
    """

    model: str | None
    before: str
    line: str
    after: str
    tokens: int
    indent: int
    seconds: float | None
    fields: tuple[str, ...]
    sampling: SamplingConfig

    def prompt(self, tokenizer: AnyTokenizer, order: FimOrder | None, context_length: int) -> tuple[Prompt, bool]:
        """Return what a model is to go on with, and whether it was cut; without an order what stands before alone."""
        most = prompt_room(context_length, self.tokens)
        line = tokenizer.encode(self.line)[-(most // 2) :] if order else []
        if order:
            ids, cut = gap_ids(tokenizer, self.before, self.after, most - len(line), order)
        else:
            whole = tokenizer.context(self.before + self.line)
            ids, cut = tuple(whole[-most:]), len(whole) > most
        return Prompt((*ids, *line), self.sampling), cut


def read_infill(body: Any) -> Infill:
    """Check the fields of a request; raise ProtocolError naming the first that cannot be served."""
    fields = Fields(body)
    if fields.flag("stream"):
        raise refuse("stream", "false, as this route answers whole", True)
    tokens = fields.whole("n_predict", FIM_TOKENS, -1, 1 << 30)
    tokens = FIM_TOKENS if tokens < 0 else tokens
    seed = fields.whole("seed", -1, -1, (1 << 63) - 1)
    wanted = fields.get("response_fields", [])
    if not isinstance(wanted, list) or not all(isinstance(name, str) for name in wanted):
        raise refuse("response_fields", "a list of names", wanted)
    milliseconds = fields.number("t_max_predict_ms", 0, -1, 1e9)
    sampling = SamplingConfig(
        temperature=float(fields.number("temperature", SamplingConfig.temperature, 0, 100)),
        top_p=float(fields.number("top_p", SamplingConfig.top_p, 1e-9, 1)),
        top_k=fields.whole("top_k", 0, -1, 1 << 30) if fields.get("top_k", 0) not in (-1, 0) else None,
        max_new_tokens=max(1, tokens),
        seed=secrets.randbelow(1 << 31) if seed < 0 else seed,
        stop=fields.stop(),
    )
    return Infill(
        model=fields.text("model") or None,
        before=fields.text("input_prefix", ""),
        line=fields.text("prompt", ""),
        after=fields.text("input_suffix", ""),
        tokens=tokens,
        indent=fields.whole("n_indent", 0, 0, 1 << 20),
        seconds=milliseconds / 1000 if milliseconds > 0 else None,
        fields=tuple(filter(None, wanted)),
        sampling=sampling,
    )


def cut_at_indent(text: str, indent: int) -> str:
    """Return a text up to its first further line that is not blank and begins with fewer spaces and tabs."""
    for line in re.finditer(r"\n([ \t]*)[^\s]", text):
        if len(line[1]) < indent:
            return text[: line.start()]
    return text


@dataclass
class Filling:
    """The text of an answer as it comes, with its times."""

    asked: Infill
    text: str = ""
    reason: str = "limit"
    prompt_seconds: float = 0.0
    seconds: float = 0.0

    async def take(self, events: AsyncIterator[tuple[int, Any]]) -> "Filling":
        """Take pieces until there are no more, or the text has ended by its indent or time."""
        started, first = time.perf_counter(), None
        async for _, piece in events:
            assert isinstance(piece, Piece)
            now = time.perf_counter()
            first = first or now
            self.prompt_seconds, self.seconds = first - started, now - first
            self.text += piece.text
            if piece.finish_reason is not None:
                self.reason = "eos" if piece.finish_reason == "stop" else "limit"
            if (kept := cut_at_indent(self.text, self.asked.indent)) != self.text:
                self.text, self.reason = kept, "indent"
                return self
            if self.asked.seconds and now - started > self.asked.seconds and "\n" in self.text:
                self.text, self.reason = self.text.rpartition("\n")[0], "time"
                return self
        return self

    def answer(self, model: str, prompt_tokens: int, tokens: int, cut: bool, fim: bool) -> dict[str, Any]:
        """Return the answer, or of it what was asked for by name."""
        whole = {
            "content": self.text, "stop": True, "stop_type": self.reason, "model": model, "truncated": cut,
            "tokens_evaluated": prompt_tokens, "tokens_predicted": tokens, "tokens_cached": prompt_tokens + tokens,
            "suffix_used": fim, "generation_settings": {"seed": self.asked.sampling.seed},
            "timings": _times("prompt", prompt_tokens, self.prompt_seconds)
            | _times("predicted", tokens, self.seconds),
        }  # fmt: skip
        if not self.asked.fields:
            return whole
        found = {name: _at(whole, name) for name in self.asked.fields}
        return {name: value for name, value in found.items() if value is not None}


def _times(name: str, tokens: int, seconds: float) -> dict[str, float]:
    took = max(seconds, 1e-6)
    return {
        f"{name}_n": tokens, f"{name}_ms": 1e3 * took, f"{name}_per_token_ms": 1e3 * took / max(1, tokens),
        f"{name}_per_second": tokens / took,
    }  # fmt: skip


def _at(answer: Mapping[str, Any], name: str) -> Any:
    """Return the part of an answer that a path such as timings/prompt_n names, None where there is none."""
    value: Any = answer
    for part in name.split("/"):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value
