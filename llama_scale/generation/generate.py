"""Batched sampling with a KV cache.

The context of a completion is what the tokenizer makes of its prompt: of our models one document end followed by the
prompt, as at the start of a document in training. Prompts of a batch are right-padded and prefilled once each, their
cache shared by their samples; finished sequences leave the batch. The random numbers of a sample depend on (seed, task,
sample) alone, so a completion does not change with the batch that it is drawn in.
"""

import codecs
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from llama_scale.config import ModelConfig
from llama_scale.data.byte_level import ByteLevelTokenizer
from llama_scale.data.tokenizer import Tokenizer
from llama_scale.errors import InputError
from llama_scale.generation.cuda_graph import Decoder
from llama_scale.generation.kv_cache import GROWTH, KVCache
from llama_scale.generation.sampling import RowSampling, SamplingConfig, draw_tokens, greedy_tokens, sample_keys
from llama_scale.model.llama import Llama

AnyTokenizer = Tokenizer | ByteLevelTokenizer
# Logits that are made and chosen from at a time, by device type.
STEP_LOGITS = {"cpu": 1 << 20, "cuda": 1 << 26}


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


def encode_prompt(
    tokenizer: AnyTokenizer, prompt: str, config: ModelConfig, max_new_tokens: int
) -> tuple[list[int], bool]:
    """Return the context tokens of a prompt and whether its start had to be cut.

    The last max(context_length - max_new_tokens, context_length / 2) tokens are kept.
    """
    ids = tokenizer.context(prompt)
    most = max(config.context_length - max_new_tokens, (config.context_length + 1) // 2)
    return ids[-most:], len(ids) > most


def generate(
    model: Llama,
    tokenizer: AnyTokenizer,
    prompts: Sequence[str],
    sampling: SamplingConfig,
    n_samples: int = 1,
    batch_size: int = 64,
    tasks: Sequence[int] | None = None,
    cuda_graphs: bool = False,
) -> Iterator[Completion]:
    """Yield ``n_samples`` completions of each prompt, batch by batch, longest prompts first.

    ``tasks`` number the prompts (default: their positions); with the seed and the sample's
    number they fix its random numbers. ``batch_size`` is completions decoded together;
    ``cuda_graphs`` replays the kernels of a step as one CUDA graph (GPU only). Ids that the
    tokenizer lacks are never drawn; raises InputError if it has ids that the model lacks.
    """
    completions = []
    for task, prompt in zip(tasks or range(len(prompts)), prompts, strict=True):
        ids, truncated = encode_prompt(tokenizer, prompt, model.config, sampling.max_new_tokens)
        completions.extend(Completion(task, n, ids, truncated) for n in range(n_samples))
    completions.sort(key=lambda completion: -len(completion.context))
    if batch_size > n_samples:
        batch_size -= batch_size % n_samples  # the samples of a prompt share its prefill
    for start in range(0, len(completions), batch_size):
        batch = completions[start : start + batch_size]
        for _ in decode(model, tokenizer, batch, sampling, cuda_graphs):
            pass
        yield from batch


def stream(model: Llama, tokenizer: AnyTokenizer, prompt: str, sampling: SamplingConfig) -> Iterator[str]:
    """Yield the completion of one prompt as it comes: whole characters, never a stop string."""
    ids, truncated = encode_prompt(tokenizer, prompt, model.config, sampling.max_new_tokens)
    completion = Completion(0, 0, ids, truncated)
    shown = ShownText(completion, sampling.stop)
    for _ in decode(model, tokenizer, [completion], sampling, cuda_graphs=False):
        if text := shown.take():
            yield text


@torch.inference_mode()
def decode(
    model: Llama,
    tokenizer: AnyTokenizer,
    completions: Sequence[Completion],
    sampling: SamplingConfig,
    cuda_graphs: bool = False,
) -> Iterator[None]:
    """Decode ``completions`` to their ends, yielding after each token of the batch.

    Sequence b of the cache is completion ``active[b]``. Completions that end stay in the batch,
    idle, until enough have ended that a smaller batch repays copying the cache: of active =
    [0, 1, 2, 3], when 0 and 2 have ended, sequences 1 and 3 are kept and active is [1, 3].
    Those with one and the same list as context share its prefill.
    """
    if tokenizer.n_text_ids > model.config.vocab_size:
        found = f"{tokenizer.n_text_ids} ids, the model {model.config.vocab_size}"
        raise InputError(f"{tokenizer.path}: the tokenizer has {found}; they are not of one model")
    stops = compile_stops(sampling.stop)
    context_length, device = model.config.context_length, model.embedding.weight.device
    limits = [min(sampling.max_new_tokens, context_length - len(c.context)) for c in completions]
    keys = sample_keys(sampling.seed, [(c.task, c.sample) for c in completions]).to(device)  # (B,)
    # A CUDA graph ends when the cache grows or sequences leave: both happen less with one.
    # The cache is copied where at most the share ``worth_copying`` of the sequences goes on.
    growth, worth_copying = (max(limits), 0.5) if cuda_graphs else (GROWTH, 0.75)
    hidden, cache = _prefill(model, completions, growth)  # (B, D)
    if not hidden.isfinite().all():
        raise InputError("the model's output is not finite; use an earlier checkpoint")
    decoder = Decoder(model, cache, cuda_graphs)
    active = list(range(len(completions)))
    drawn_with = RowSampling.of([sampling], device) if sampling.temperature > 0 else None
    for step in range(max(limits)):
        rows = [completions[i] for i in active]
        tokens = _choose(model, hidden, rows, keys, step, drawn_with, tokenizer.vocab_size)  # (B,)
        for i, token in zip(active, tokens.tolist(), strict=True):
            completion = completions[i]
            if completion.finish_reason is None and token in tokenizer.ends:
                completion.finish_reason = "stop"
            elif completion.finish_reason is None:
                completion.push(token, tokenizer.decode_bytes([token]), stops, limits[i])
        yield
        unfinished = [b for b, i in enumerate(active) if completions[i].finish_reason is None]
        if not unfinished:
            return
        if len(unfinished) <= worth_copying * len(active):
            going_on = torch.tensor(unfinished, device=device)
            decoder.keep_sequences(going_on)
            tokens, keys = tokens[going_on], keys[going_on]
            active = [active[b] for b in unfinished]
        hidden = decoder(tokens)  # (B, D)


def _prefill(model: Llama, completions: Sequence[Completion], growth: int) -> tuple[Tensor, KVCache]:
    """Return each completion's last hidden state (B, D) and the cache, one pass per prompt.

    The samples of a prompt have one and the same list as context, so its identity tells the
    prompts apart: contexts [a, a, b] are prompts [a, b] and ``prompt_of`` is [0, 0, 1].
    """
    device = model.embedding.weight.device
    contexts = list({id(c.context): c.context for c in completions}.values())
    numbers = {id(context): n for n, context in enumerate(contexts)}
    prompt_of = torch.tensor([numbers[id(c.context)] for c in completions], device=device)  # (B,)
    lengths = torch.tensor([len(context) for context in contexts], device=device)  # (P,)
    longest = max(map(len, contexts))
    padded = [context + [0] * (longest - len(context)) for context in contexts]
    cache = KVCache(model.config, lengths, growth)
    hidden = model.hidden(torch.tensor(padded, device=device), cache)  # (P, S, D)
    last = hidden[torch.arange(len(contexts), device=device), lengths - 1]  # (P, D)
    cache.start_sequences(prompt_of)
    return last[prompt_of], cache


def _choose(
    model: Llama,
    hidden: Tensor,
    completions: Sequence[Completion],
    keys: Tensor,
    step: int,
    sampling: RowSampling | None,
    vocab_size: int,
) -> Tensor:
    """Return the next token (B,) of each completion, below ``vocab_size``, from its last ``hidden`` state (B, D).

    It is the likeliest, or drawn with ``sampling``.
    """
    tokens = []
    count = max(1, STEP_LOGITS[hidden.device.type] // model.config.vocab_size)
    for start in range(0, len(completions), count):
        part = slice(start, start + count)
        logits = model.head(hidden[part])[:, :vocab_size]  # (R, V)
        if sampling is None:
            tokens.append(likeliest_tokens(model, logits, completions[part]))
        else:
            tokens.append(draw_tokens(logits, keys[part], step, sampling))  # (R,)
    return torch.cat(tokens)


def likeliest_tokens(model: Llama, logits: Tensor, completions: Sequence[Completion]) -> Tensor:
    """Return the likeliest next token (B,) of each completion by its ``logits`` (B, V).

    Where batching could decide between two, the completion's own forward pass, alone and without cache, decides. This
    holds in float32; in bfloat16 near ties are too many for it, and are left to the batch.
    """
    likeliest, close = greedy_tokens(logits)  # (B,) each
    if logits.dtype == torch.float32:
        for row in close.nonzero().flatten().tolist():
            completion = completions[row]
            if completion.finish_reason is None:
                ids = torch.tensor([completion.context + completion.tokens]).to(logits.device)
                likeliest[row] = model(ids)[0, -1, : logits.shape[1]].argmax()
    return likeliest
