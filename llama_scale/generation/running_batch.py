"""Completions decoded together: some begin as others end, so that a step goes on having about as many rows.

Completions that begin together are a cohort: their prompts are read in one pass, right-padded, and their keys and
values are one cache. A step passes the newest token of every cohort's completions through the model at once; attention
alone is made cohort by cohort, each over as many tokens as its own completions have.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from llama_scale.data.open_tokenizer import AnyTokenizer
from llama_scale.errors import InputError
from llama_scale.generation.completion import Completion, Stops, compile_stops
from llama_scale.generation.cuda_graph import Decoder
from llama_scale.generation.kv_cache import GROWTH, JoinedCaches, KVCache
from llama_scale.generation.sampling import RowSampling, SamplingConfig, draw_tokens, greedy_tokens, sample_keys
from llama_scale.generation.single_cache import SingleCache
from llama_scale.model.llama import Llama

# Logits that are made and chosen from at a time, by device type.
STEP_LOGITS = {"cpu": 1 << 20, "cuda": 1 << 26}
MOST_COHORTS = 8  # attention is as many calls for each layer
WORTH_JOINING = 0.25  # share of the batch that must be free for others to begin: reading their prompts is a step too


class Cohort:
    """Completions that began together.

    Finished ones stay, idle, until enough have ended that a smaller cache repays copying it: of active =
    [0, 1, 2, 3], when 0 and 2 have ended, sequences 1 and 3 are kept and active is [1, 3].

    Attributes:
        cache: Its sequence b is completion ``active[b]``.
        hidden: (B, D) the last hidden state of each sequence.
        keys: (B,) of their random numbers.
        step: Tokens that each has.
    """

    def __init__(self, model: Llama, completions: Sequence[Completion], sampling: SamplingConfig, growth: int) -> None:
        context_length, device = model.config.context_length, model.embedding.weight.device
        self.completions, self.step = completions, 0
        self.limits = [min(sampling.max_new_tokens, context_length - len(c.context)) for c in completions]
        self.keys = sample_keys(sampling.seed, [(c.task, c.sample) for c in completions]).to(device)
        self.active = list(range(len(completions)))
        self.hidden, self.cache = read_prompts(model, completions, growth)
        if not self.hidden.isfinite().all():
            raise InputError("the model's output is not finite; use an earlier checkpoint")

    @property
    def rows(self) -> list[Completion]:
        """The completion of each sequence."""
        return [self.completions[i] for i in self.active]

    def push(self, tokens: Sequence[int], tokenizer: AnyTokenizer, stops: Stops) -> list[Completion]:
        """Give each sequence its next token; return the completions that end with it."""
        ended = []
        for i, token in zip(self.active, tokens, strict=True):
            completion = self.completions[i]
            if completion.finish_reason is None:
                if token in tokenizer.ends:
                    completion.finish_reason = "stop"
                else:
                    completion.push(token, tokenizer.decode_bytes([token]), stops, self.limits[i])
                ended += [completion] if completion.finish_reason is not None else []
        self.step += 1
        return ended

    def leaving(self, worth_copying: float) -> Tensor | None:
        """Return which sequences go on (B',), where they are at most the share ``worth_copying``; None keeps all."""
        unfinished = [b for b, i in enumerate(self.active) if self.completions[i].finish_reason is None]
        if len(unfinished) > worth_copying * len(self.active):
            return None
        self.active = [self.active[b] for b in unfinished]
        going_on = torch.tensor(unfinished, dtype=torch.long, device=self.keys.device)
        self.keys = self.keys[going_on]
        return going_on


@torch.inference_mode()
def decode(
    model: Llama,
    tokenizer: AnyTokenizer,
    completions: Sequence[Completion],
    sampling: SamplingConfig,
    batch_size: int,
    cuda_graphs: bool = False,
) -> Iterator[list[Completion]]:
    """Decode ``completions`` to their ends, yielding after each step those that ended with it.

    At most ``batch_size`` are under way. On a CPU others begin where a share of them has ended; on a GPU, where a
    cohort's kernels are launched as fast for many rows as for few, and with CUDA graphs, when all have.
    """
    if tokenizer.n_text_ids > model.config.vocab_size:
        found = f"{tokenizer.n_text_ids} ids, the model {model.config.vocab_size}"
        raise InputError(f"{tokenizer.path}: the tokenizer has {found}; they are not of one model")
    stops, device = compile_stops(sampling.stop), model.embedding.weight.device
    # A CUDA graph ends when the cache grows or sequences leave: both happen less with one.
    # A cache is copied where at most the share ``worth_copying`` of its sequences goes on.
    longest = min(sampling.max_new_tokens, model.config.context_length)
    growth, worth_copying = (longest, 0.5) if cuda_graphs else (GROWTH, 0.75)
    most_cohorts = MOST_COHORTS if device.type == "cpu" and not cuda_graphs else 1
    drawn_with = RowSampling.of([sampling], device) if sampling.temperature > 0 else None
    cohorts: list[Cohort] = []
    begun, decoder = 0, None
    while begun < len(completions) or cohorts:
        free = batch_size - sum(len(cohort.active) for cohort in cohorts)
        if len(cohorts) < most_cohorts and (not cohorts or free >= max(1, WORTH_JOINING * batch_size)):
            count = whole_prompts(completions[begun : begun + free + 1], free)
            if count:
                cohorts.append(Cohort(model, completions[begun : begun + count], sampling, growth))
                begun, decoder = begun + count, None
        tokens = choose(model, cohorts, drawn_with, tokenizer.vocab_size)  # (B,)
        parts = tokens.split([len(cohort.active) for cohort in cohorts])
        ended = [
            completion
            for cohort, part in zip(cohorts, parts, strict=True)
            for completion in cohort.push(part.tolist(), tokenizer, stops)
        ]
        yield ended
        newest, going_on = [], []
        for cohort, part in zip(cohorts, parts, strict=True):
            kept = cohort.leaving(worth_copying)
            if kept is not None and len(kept):
                cohort.cache.keep_sequences(kept)
            if cohort.active:
                newest.append(part if kept is None else part[kept])
                going_on.append(cohort)
            if kept is not None:
                decoder = None
        cohorts = going_on
        if cohorts:
            caches = [cohort.cache for cohort in cohorts]
            decoder = decoder or Decoder(model, caches[0] if len(caches) == 1 else JoinedCaches(caches), cuda_graphs)
            hidden = decoder(torch.cat(newest))  # (B, D)
            for cohort, part in zip(cohorts, hidden.split([len(cohort.active) for cohort in cohorts]), strict=True):
                cohort.hidden = part


def whole_prompts(completions: Sequence[Completion], most: int) -> int:
    """Return how many of ``completions`` to begin with, at most ``most``: all samples of a prompt, where that is half.

    Of prompts a a a b b b, 3 for a most of 5, and 2 for a most of 2, which has a prompt read twice.
    """
    if len(completions) <= most:
        return len(completions)
    ends = [i for i in range(1, most + 1) if completions[i].context is not completions[i - 1].context]
    return ends[-1] if ends and 2 * ends[-1] >= most else most


def read_prompts(model: Llama, completions: Sequence[Completion], growth: int) -> tuple[Tensor, KVCache]:
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
    alone = device.type == "cpu" and len(contexts) == len(completions)
    cache = (SingleCache if alone else KVCache)(model.config, lengths, growth)
    hidden = model.hidden(torch.tensor(padded, device=device), cache)  # (P, S, D)
    last = hidden[torch.arange(len(contexts), device=device), lengths - 1]  # (P, D)
    cache.start_sequences(prompt_of)
    return last[prompt_of], cache


def choose(model: Llama, cohorts: Sequence[Cohort], sampling: RowSampling | None, vocab_size: int) -> Tensor:
    """Return the next token (B,) of each sequence, below ``vocab_size``: the likeliest, or drawn with ``sampling``."""
    hidden, keys = (
        parts[0] if len(parts) == 1 else torch.cat(parts)  # (B, D) and (B,)
        for parts in ([cohort.hidden for cohort in cohorts], [cohort.keys for cohort in cohorts])
    )
    rows = [completion for cohort in cohorts for completion in cohort.rows]
    steps = [cohort.step for cohort in cohorts for _ in cohort.active]
    step = torch.tensor(steps, device=keys.device) if len(cohorts) > 1 else steps[0]  # (B,)
    tokens, count = [], max(1, STEP_LOGITS[hidden.device.type] // model.config.vocab_size)
    for start in range(0, len(rows), count):
        part = slice(start, start + count)
        logits = model.head(hidden[part])[:, :vocab_size]  # (R, V)
        if sampling is None:
            tokens.append(likeliest_tokens(model, logits, rows[part]))
        else:
            tokens.append(draw_tokens(logits, keys[part], step[part] if isinstance(step, Tensor) else step, sampling))
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
