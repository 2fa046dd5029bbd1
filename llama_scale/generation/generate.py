"""Batched sampling with a KV cache.

The context of a completion is one document end followed by the prompt, as at the start of a
document in training. Prompts of a batch are right-padded and prefilled once each, their cache
shared by their samples; finished rows leave the batch. The random numbers of a sample depend on
(seed, task, sample) alone, so a completion does not change with the batch that it is drawn in.
"""

import codecs
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from llama_scale.config import ModelConfig
from llama_scale.data.tokenizer import Tokenizer
from llama_scale.errors import InputError
from llama_scale.generation.cuda_graph import Decoder
from llama_scale.generation.kv_cache import ROOM, KVCache
from llama_scale.generation.sampling import SamplingConfig, greedy, pick, sample_keys
from llama_scale.model.llama import Llama

# Logits that are made and chosen from at a time, by device type.
STEP_LOGITS = {"cpu": 1 << 20, "cuda": 1 << 26}


class Stops(NamedTuple):
    """Stop strings: ``pattern`` finds the first one; None if there is none to look for.

    One that ends in new bytes begins at most ``reach`` bytes before these.
    """

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

    ``tokens`` are all that were drawn, ``raw`` their bytes without the stop string and what
    follows. ``truncated`` says that the prompt's start was cut to fit the context. ``reason`` is
    "stop" (a stop string), "end" (document end) or "length", None while it grows.
    """

    task: int
    sample: int
    context: list[int]
    truncated: bool
    tokens: list[int] = field(default_factory=list)
    raw: bytearray = field(default_factory=bytearray)
    reason: str | None = None

    @property
    def text(self) -> str:
        """The continuation; bytes that are not UTF-8 become U+FFFD."""
        return self.raw.decode("utf-8", errors="replace")

    def push(self, token: int, piece: bytes, stops: Stops, limit: int) -> None:
        """Append a token to a row that still grows, looking for stop strings in new bytes only."""
        raw, (pattern, reach) = self.raw, stops
        self.tokens.append(token)
        start = len(raw) - reach
        raw += piece
        if pattern and (found := pattern.search(raw, start if start > 0 else 0)):
            del raw[found.start() :]
            self.reason = "stop"
        elif len(self.tokens) == limit:
            self.reason = "length"


def encode_prompt(
    tokenizer: Tokenizer, prompt: str, config: ModelConfig, max_new_tokens: int
) -> tuple[list[int], bool]:
    """Return the context tokens of a prompt and whether its start had to be cut.

    The last max(context_length - max_new_tokens, context_length / 2) tokens are kept.
    """
    ids = [tokenizer.eos, *tokenizer.encode(prompt)]
    keep = max(config.context_length - max_new_tokens, (config.context_length + 1) // 2)
    return ids[-keep:], len(ids) > keep


def generate(
    model: Llama,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    sampling: SamplingConfig,
    n_samples: int = 1,
    batch_size: int = 64,
    tasks: Sequence[int] | None = None,
    cuda_graphs: bool = False,
) -> Iterator[Completion]:
    """Yield ``n_samples`` completions of each prompt, batch by batch, longest prompts first.

    ``tasks`` number the prompts (default: their positions); with the seed and the sample's
    number they fix its random numbers. ``batch_size`` is rows decoded together; ``cuda_graphs``
    replays the kernels of a step as one CUDA graph (GPU only).
    """
    rows = []
    for task, prompt in zip(tasks or range(len(prompts)), prompts, strict=True):
        ids, cut = encode_prompt(tokenizer, prompt, model.config, sampling.max_new_tokens)
        rows.extend(Completion(task, sample, ids, cut) for sample in range(n_samples))
    rows.sort(key=lambda row: -len(row.context))
    if batch_size > n_samples:
        batch_size -= batch_size % n_samples
    for start in range(0, len(rows), batch_size):
        batch = rows[start : start + batch_size]
        for _ in _decode(model, tokenizer, batch, sampling, cuda_graphs):
            pass
        yield from batch


def stream(
    model: Llama, tokenizer: Tokenizer, prompt: str, sampling: SamplingConfig
) -> Iterator[str]:
    """Yield the completion of one prompt as it comes: whole characters, never a stop string."""
    ids, cut = encode_prompt(tokenizer, prompt, model.config, sampling.max_new_tokens)
    row = Completion(0, 0, ids, cut)
    stops = [stop.encode() for stop in sampling.stop]
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    shown = 0
    for _ in _decode(model, tokenizer, [row], sampling):
        done = row.reason is not None
        settled = len(row.raw) if done else len(row.raw) - _unsettled(row.raw, stops)
        text = decoder.decode(bytes(row.raw[shown:settled]), final=done)
        shown = settled
        if text:
            yield text


def _unsettled(raw: bytearray, stops: Sequence[bytes]) -> int:
    """Length of the longest end of ``raw`` that may be the start of a stop string."""
    lengths = (n for stop in stops for n in range(1, len(stop)) if raw.endswith(stop[:n]))
    return max(lengths, default=0)


@torch.inference_mode()
def _decode(
    model: Llama,
    tokenizer: Tokenizer,
    rows: Sequence[Completion],
    sampling: SamplingConfig,
    cuda_graphs: bool = False,
) -> Iterator[None]:
    """Decode ``rows`` to their ends, yielding after each token of the batch."""
    stops = compile_stops(sampling.stop)
    context_length, device = model.config.context_length, model.embedding.weight.device
    limits = [min(sampling.max_new_tokens, context_length - len(r.context)) for r in rows]
    keys = sample_keys(sampling.seed, [(r.task, r.sample) for r in rows]).to(device)  # (B,)
    # A recording of a step ends with the cache's room or its lines: both change less with one.
    hidden, cache = _prefill(model, rows, max(limits) if cuda_graphs else ROOM)  # (B, D)
    crowd = 0.5 if cuda_graphs else 0.75
    if not hidden.isfinite().all():
        raise InputError("the model's output is not finite; use an earlier checkpoint")
    decoder = Decoder(model, cache, cuda_graphs)
    active = list(range(len(rows)))  # the row that each line of the batch belongs to
    for step in range(max(limits)):
        tokens = _choose(model, hidden, [rows[i] for i in active], keys, step, sampling)
        for i, token in zip(active, tokens.tolist(), strict=True):
            if rows[i].reason is None and token == tokenizer.eos:
                rows[i].reason = "end"
            elif rows[i].reason is None:
                rows[i].push(token, tokenizer.decode_bytes([token]), stops, limits[i])
        yield
        lines = [line for line, i in enumerate(active) if rows[i].reason is None]
        if not lines:
            return
        if len(lines) <= crowd * len(active):  # a selection copies the cache
            keep = torch.tensor(lines, device=device)
            decoder.select(keep)
            tokens, keys = tokens[keep], keys[keep]
            active = [active[line] for line in lines]
        hidden = decoder(tokens)  # (B, D)


def _prefill(model: Llama, rows: Sequence[Completion], room: int) -> tuple[Tensor, KVCache]:
    """Return each row's last hidden state (B, D) and the cache, one pass per context."""
    device = model.embedding.weight.device
    distinct = {id(row.context): row.context for row in rows}
    numbers = {key: n for n, key in enumerate(distinct)}
    which = torch.tensor([numbers[id(row.context)] for row in rows], device=device)  # (B,)
    contexts = list(distinct.values())
    lengths = torch.tensor([len(c) for c in contexts], device=device)
    longest = max(map(len, contexts))
    padded = torch.tensor([c + [0] * (longest - len(c)) for c in contexts], device=device)
    cache = KVCache(model.config, lengths, room)
    hidden = model.hidden(padded, cache)  # (P, T, D)
    last = hidden[torch.arange(len(contexts), device=device), lengths - 1]  # (P, D)
    cache.fork(which)
    return last[which], cache


def _choose(
    model: Llama,
    hidden: Tensor,
    rows: Sequence[Completion],
    keys: Tensor,
    step: int,
    sampling: SamplingConfig,
) -> Tensor:
    """Return the next token (B,) of each row from its last ``hidden`` state (B, D).

    Where batching could decide between two greedy tokens, the row's own forward pass, alone and
    without cache, decides. This holds in float32; in bfloat16 near ties are too many for it, and
    are left to the batch.
    """
    tokens = []
    count = max(1, STEP_LOGITS[hidden.device.type] // model.config.vocab_size)
    for start in range(0, len(rows), count):
        part = slice(start, start + count)
        logits = model.head(hidden[part])  # (R, V)
        if sampling.temperature > 0:
            tokens.append(pick(logits, keys[part], step, sampling))
            continue
        best, close = greedy(logits)
        if logits.dtype == torch.float32:
            for line in close.nonzero().flatten().tolist():
                row = rows[start + line]
                if row.reason is None:
                    alone = torch.tensor([row.context + row.tokens], device=logits.device)
                    best[line] = model(alone)[0, -1].argmax()
        tokens.append(best)
    return torch.cat(tokens)
