"""Loss on held-out text: nats per token, perplexity and bits per byte, which alone compares across tokenizers."""

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from evals.metrics.pass_at_k import interval
from llama_scale.data.documents import has_documents, read_documents
from llama_scale.data.open_tokenizer import AnyTokenizer
from llama_scale.data.shards import Tokens, check_tokenizer, read_manifest
from llama_scale.data.tokenizer import Tokenizer
from llama_scale.errors import InputError
from llama_scale.model.llama import Llama

LOGITS = 1 << 24  # logits held at a time: 64 MiB in float32


@dataclass(frozen=True)
class PerplexityConfig:
    """Perplexity of the validation split.

    Args:
        data: Folder of token shards; null is the one that the model was trained on.
        max_tokens: Targets scored, from the start of the split; null is all of it.
        batch_tokens: Tokens in one forward pass.
    """

    data: str | None = None
    max_tokens: int | None = 262_144
    batch_tokens: int = 8_192


@dataclass(frozen=True)
class Score:
    """Total ``nats`` of ``tokens`` target tokens that stand for ``bytes`` source bytes."""

    nats: float
    tokens: int
    bytes: int

    @property
    def loss(self) -> float:
        """Mean cross-entropy in nats per token."""
        return self.nats / self.tokens

    @property
    def perplexity(self) -> float:
        """exp(loss), per token."""
        return math.exp(self.loss) if self.loss < 700 else math.inf

    @property
    def bits_per_byte(self) -> float:
        """Total nats / ln 2 / source bytes."""
        return self.nats / math.log(2) / self.bytes


@dataclass(frozen=True)
class References:
    """Scores of given solutions, by task; ``truncated`` prompts did not fit the context whole."""

    tasks: list[Score]
    truncated: int

    @property
    def total(self) -> Score:
        """All tasks summed, so a byte counts the same in each (micro-average)."""
        return Score(*(sum(getattr(s, n) for s in self.tasks) for n in ("nats", "tokens", "bytes")))


def score(
    model: Llama,
    tokens: Tokens,
    byte_lengths: np.ndarray,
    max_tokens: int | None = None,
    batch_tokens: int = 8_192,
    autocast: AbstractContextManager | None = None,
    each: np.ndarray | None = None,
) -> Score:
    """Score the first ``max_tokens`` targets of a split (all by default).

    Windows of context_length + 1 tokens, context_length apart, from the start of the split: every token but the first
    is a target exactly once. With a context of 3, tokens 0 to 3 give the targets 1 to 3, tokens 3 to 6 the targets 4 to
    6. Document ends are targets, so they count in the nats and, standing for no byte, not in the bytes.
    ``byte_lengths`` (V,) are the bytes that each id stands for. Every batch has the same shape. ``each`` (M,), if
    given, is filled with the nats of each target. Raises InputError on an empty split.
    """
    length, device = model.config.context_length, model.embedding.weight.device
    count = min(tokens.n_tokens - 1, max_tokens or tokens.n_tokens)
    if count < 1:
        raise InputError(f"{tokens.folder}: the split has no tokens to score")
    batch = length * min(max(1, batch_tokens // length), math.ceil(count / length))
    nats = torch.zeros((), dtype=torch.float64, device=device)
    n_bytes = 0
    with _evaluating(model), autocast or nullcontext():
        for start in range(0, count, batch):
            here = min(batch, count - start)
            block = torch.from_numpy(tokens.read(start, here + 1).astype(np.int64))
            inputs = F.pad(block[:-1], (0, batch - here)).view(-1, length).to(device)  # (B, T)
            hidden = model.hidden(inputs).flatten(0, 1)[:here]  # (M, D)
            values = _cross_entropy(model, hidden, block[1:].to(device))  # (M,)
            nats += values.double().sum()
            if each is not None:
                each[start : start + here] = values.float().cpu().numpy()
            n_bytes += int(byte_lengths[block[1:].numpy()].sum())
    return Score(nats.item(), count, n_bytes)


def reference_bits_per_byte(
    model: Llama,
    tokenizer: AnyTokenizer,
    pairs: Sequence[tuple[str, str]],
    batch_tokens: int = 8_192,
    autocast: AbstractContextManager | None = None,
) -> References:
    """Score given solutions, teacher-forced: nats of their tokens over their UTF-8 bytes.

    Each of ``pairs`` is (prompt, solution), encoded separately; the context is what the tokenizer makes of the prompt,
    as in generate, and no document end follows the solution. A prompt loses its start where the two do not fit the
    context; a solution longer than the context is scored in pieces, each after as much as fits.
    ``References.total.bits_per_byte`` is over all tasks.
    """
    contexts = [tokenizer.context(prompt) for prompt, _ in pairs]
    solutions = tokenizer.encode_batch([solution for _, solution in pairs])
    length = model.config.context_length
    pieces = [  # (task, tokens, targets at the end of them), longest first
        (task, window, targets)
        for task, (context, solution) in enumerate(zip(contexts, solutions, strict=True))
        for window, targets in windows(context, solution, length)
    ]
    pieces.sort(key=lambda piece: -len(piece[1]))
    nats, start = torch.zeros(len(pairs), dtype=torch.float64), 0
    with _evaluating(model), autocast or nullcontext():
        while start < len(pieces):  # batches of about batch_tokens, padding included
            rows = max(1, batch_tokens // len(pieces[start][1]))
            tasks, values = _score_windows(model, pieces[start : start + rows])
            nats.index_add_(0, tasks, values.double().cpu())
            start += rows
    sizes = [len(solution.encode()) for _, solution in pairs]
    scores = [Score(*row) for row in zip(nats.tolist(), map(len, solutions), sizes, strict=True)]
    return References(scores, sum(len(c) + len(s) > length + 1 for c, s in zip(contexts, solutions, strict=True)))


def evaluate(model: Llama, tokenizer: Tokenizer, tokens: Tokens, config: PerplexityConfig) -> dict[str, Any]:
    """Return the scores of the validation split ``tokens``, and those of each of its sources."""
    check_tokenizer(tokens, tokenizer)
    count = min(tokens.n_tokens - 1, config.max_tokens or tokens.n_tokens)
    each = np.zeros(max(count, 0), dtype=np.float32)
    result = score(model, tokens, tokenizer.byte_lengths, config.max_tokens, config.batch_tokens, each=each)
    names = ("loss", "perplexity", "bits_per_byte", "tokens", "bytes")
    scores = {name: getattr(result, name) for name in names} | {"data_fingerprint": tokens.fingerprint}
    return scores | by_source(tokens.folder, each)


def by_source(data: Path, each: np.ndarray) -> dict[str, Any]:
    """Return bits per byte of each source and of all, with 95 % intervals over documents.

    ``each`` (M,) are the nats of the validation split's tokens from its second on. Documents that were not scored whole
    are left out; a document's end counts in its nats. Empty if the data folder does not say where its documents are.
    """
    if not has_documents(data):
        return {}
    shards = read_manifest(data)["splits"]["val"]["shards"]
    offsets = np.cumsum([0] + [shard["tokens"] for shard in shards])
    sums = np.concatenate([[0.0], np.cumsum(each, dtype=np.float64)])  # (M + 1,)
    sources: dict[str, list[tuple[float, int]]] = {}
    for row in read_documents(data):
        if row["split"] != "val" or not row["bytes"]:
            continue
        # The token at position p of the split is target p - 1: a document at 5 to 8 has the targets 4 to 7,
        # sums[8] - sums[4]. The split's first token is no target.
        first = int(offsets[row["shard"]]) + row["start"]
        last = first + row["tokens"] - 1
        if last <= len(each):
            bits = (sums[last] - sums[max(first - 1, 0)]) / math.log(2)
            sources.setdefault(row["package"], []).append((float(bits), row["bytes"]))
    if not sources:
        return {}
    everything = _rate([document for documents in sources.values() for document in documents])
    by_name = {name: _rate(documents) for name, documents in sorted(sources.items())}
    return {"bits_per_byte_interval": everything["bits_per_byte_interval"], "sources": by_name}


def _rate(documents: list[tuple[float, int]]) -> dict[str, Any]:
    """Return bits per byte over documents (bits, bytes) with its interval."""
    bits, sizes = zip(*documents, strict=True)
    return {
        "bits_per_byte": sum(bits) / sum(sizes),
        "bits_per_byte_interval": interval([b / size for b, size in documents], weights=sizes),
        "documents": len(documents),
        "bytes": sum(sizes),
    }


@contextmanager
def _evaluating(model: Llama) -> Iterator[None]:
    """Evaluation mode without gradients; the model's mode is restored."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


def _cross_entropy(model: Llama, hidden: Tensor, targets: Tensor) -> Tensor:
    """Nats (M,) of ``targets`` (M,) after ``hidden`` (M, D), some logits at a time."""
    rows = max(1, LOGITS // model.config.vocab_size)
    parts = zip(hidden.split(rows), targets.split(rows), strict=True)
    return torch.cat([F.cross_entropy(model.head(h).float(), t, reduction="none") for h, t in parts])


def windows(context: list[int], solution: list[int], length: int) -> Iterator[tuple[list[int], int]]:
    """Yield windows of at most ``length`` + 1 tokens and how many at their end are targets.

    Every token of ``solution`` is a target once. One that is longer than ``length`` is split into pieces of half of it,
    each after as much as fits: context [c], solution [1, 2, 3, 4, 5] and length 4 give ([c, 1, 2], 2),
    ([c, 1, 2, 3, 4], 2) and ([1, 2, 3, 4, 5], 1).
    """
    ids = context + solution
    step = length if len(solution) <= length else max(1, length // 2)
    for start in range(len(context), len(ids), step):
        end = min(start + step, len(ids))
        yield ids[max(0, end - length - 1) : end], end - start


def _score_windows(model: Llama, batch: list[tuple[int, list[int], int]]) -> tuple[Tensor, Tensor]:
    """Return the task (M,) and the nats (M,) of each target token of the windows.

    The token at i + 1 of a window is what the model says after position i. A window of 4 tokens whose last 2 are
    targets is scored at positions 1 and 2 of its 3 inputs.
    """
    longest = len(batch[0][1])  # padded at the end, which no earlier position sees
    inputs = torch.tensor([ids[:-1] + [0] * (longest - len(ids)) for _, ids, _ in batch])  # (B, longest - 1)
    spots = [
        (row, position, ids[position + 1], task)
        for row, (task, ids, targets) in enumerate(batch)
        for position in range(len(ids) - 1 - targets, len(ids) - 1)
    ]
    rows, positions, targets, tasks = torch.tensor(spots).unbind(1)  # (M,) each
    device = model.embedding.weight.device
    hidden = model.hidden(inputs.to(device))[rows.to(device), positions.to(device)]  # (M, D)
    return tasks, _cross_entropy(model, hidden, targets.to(device))
