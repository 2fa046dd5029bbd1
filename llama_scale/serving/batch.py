"""The rows of one model that are decoded together: they join when their prompt was read, and leave when they end."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from llama_scale.data.open_tokenizer import AnyTokenizer
from llama_scale.errors import InputError
from llama_scale.generation.completion import Completion, ShownText, Stops, compile_stops
from llama_scale.generation.config import SamplingConfig
from llama_scale.generation.running_batch import STEP_LOGITS, likeliest_tokens
from llama_scale.generation.sampling import RowSampling, draw_tokens, sample_keys
from llama_scale.model.llama import Llama
from llama_scale.serving.row_cache import Group, PromptCache, RowCache, row_slots, slot_bytes

MOST_LOGITS = 1 << 23  # of a prompt's tokens that are scored at a time: 32 MiB in float32


@dataclass(frozen=True)
class TokenScore:
    """A token with its log-probability in nats, None for a first one, and the likeliest tokens with theirs."""

    token: int
    logprob: float | None
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Piece:
    """What one step added to a sample that may be shown: its text, and its tokens where their scores were asked for.

    The last piece of a sample has a ``finish_reason``, stop or length.
    """

    sample: int
    text: str
    tokens: tuple[TokenScore, ...] = ()
    finish_reason: str | None = None


@dataclass(frozen=True)
class Prompt:
    """What is asked of a model.

    Attributes:
        ids: The context, a document end first.
        n: Continuations; number i has the random numbers of (seed, task, i).
        sampling: How they are drawn; ``max_new_tokens`` 0 is not among them, see ``score_only``.
        task: Number of the prompt in its request.
        logprobs: Likeliest tokens that are told with each token; None tells none, not the token's own either.
        score: Whether the tokens of the context are told too.
        score_only: Whether nothing is drawn.
    """

    ids: tuple[int, ...]
    sampling: SamplingConfig
    n: int = 1
    task: int = 0
    logprobs: int | None = None
    score: bool = False
    score_only: bool = False

    def limit(self, context_length: int) -> int:
        """Return the most tokens of a continuation."""
        return 0 if self.score_only else min(self.sampling.max_new_tokens, context_length - len(self.ids))


class Ticket:
    """A prompt under way. What comes of it goes to ``tell``: scores, pieces, then None, or an error before that.

    Attributes:
        cancelled: Set by whoever no longer wants it; it leaves at the next step.
        prompt_tokens: Tokens of the prompt, the document end included.
        tokens: Tokens drawn so far.
    """

    def __init__(self, model: "ServedModel", prompt: Prompt, tell: Callable[[Any], None]) -> None:
        self.model, self.prompt, self.tell = model, prompt, tell
        self.cancelled, self.ended = False, False
        self.error: Exception | None = None
        self.prompt_tokens, self.tokens = len(prompt.ids), 0
        self.running = prompt.n  # samples that have not ended

    @property
    def bytes(self) -> int:
        """Bytes of keys and values that it may need: its rows, and the prompt on its own."""
        llama, ids = self.model.llama, self.prompt.ids
        slots = row_slots(len(ids) + self.prompt.limit(llama.config.context_length), llama.config)
        return (self.prompt.n * slots + len(ids)) * slot_bytes(llama.config, self.model.dtype)

    def cancel(self) -> None:
        """Let it leave at the next step."""
        self.cancelled = True

    def end(self, error: Exception | None = None) -> None:
        """Say that no more comes of it, and why if that is a fault."""
        self.ended, self.error = True, self.error or error

    def close(self) -> None:
        """Tell that it has ended, when its memory is given back."""
        if self.error is not None:
            self.tell(self.error)
        self.tell(None)


@dataclass(eq=False)
class ServedModel:
    """A loaded model with its tokenizer."""

    name: str
    llama: Llama
    tokenizer: AnyTokenizer

    def __post_init__(self) -> None:
        if self.tokenizer.n_text_ids > self.llama.config.vocab_size:
            found = f"{self.tokenizer.n_text_ids} ids, the model {self.llama.config.vocab_size}"
            raise InputError(f"{self.tokenizer.path}: the tokenizer has {found}; they are not of one model")

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the weights."""
        return self.llama.embedding.weight.dtype

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.llama.embedding.weight.device

    @property
    def bytes(self) -> int:
        """Bytes of the weights."""
        return sum(value.numel() * value.itemsize for value in self.llama.parameters())


@dataclass(eq=False)
class Row:
    """One continuation that is being decoded."""

    ticket: Ticket
    completion: Completion
    key: int
    limit: int
    stops: Stops
    shown: ShownText
    waiting: deque[tuple[int, int, TokenScore]] = field(default_factory=deque)  # with each token's first and last byte

    @property
    def sampling(self) -> SamplingConfig:
        """How its tokens are drawn."""
        return self.ticket.prompt.sampling

    def push(self, token: int, score: TokenScore | None, tokenizer: AnyTokenizer) -> None:
        """Take the token drawn, and tell what may be shown."""
        completion, end = self.completion, len(self.completion.raw)
        if token in tokenizer.ends:
            completion.finish_reason = "stop"
        else:
            piece = tokenizer.decode_bytes([token])
            start, end = end, end + len(piece)
            completion.push(token, piece, self.stops, self.limit)
            self.ticket.tokens += 1
            if score is not None:
                self.waiting.append((start, end, score))
        text, finished, told = self.shown.take(), completion.finish_reason is not None, []
        while self.waiting and (finished or self.waiting[0][1] <= self.shown.end):
            first, _, told_score = self.waiting.popleft()
            if len(completion.raw) == end or first < len(completion.raw):  # what a stop string cut is not told
                told.append(told_score)
        if text or told or finished:
            self.ticket.tell(Piece(completion.sample, text, tuple(told), completion.finish_reason))


class Batch:
    """One model's prompts that are being read and rows that are being decoded."""

    def __init__(self, model: ServedModel, chunk: int) -> None:
        self.model, self.chunk = model, chunk
        self.reading: deque[tuple[Ticket, PromptCache, list[TokenScore]]] = deque()
        self.groups: list[tuple[Group, list[Row]]] = []
        self.steps = self.prefill_tokens = 0

    @property
    def rows(self) -> int:
        """Rows that are decoded now or will be when their prompts are read."""
        return sum(len(rows) for _, rows in self.groups) + sum(ticket.prompt.n for ticket, _, _ in self.reading)

    @property
    def tickets(self) -> list[Ticket]:
        """The tickets under way."""
        decoding = {id(row.ticket): row.ticket for _, rows in self.groups for row in rows}
        return [ticket for ticket, _, _ in self.reading] + list(decoding.values())

    def join(self, ticket: Ticket) -> None:
        """Begin to read a ticket's prompt."""
        model = self.model
        cache = PromptCache(model.llama.config, ticket.prompt.ids, model.dtype, model.device)
        self.reading.append((ticket, cache, []))

    @torch.inference_mode()
    def turn(self) -> None:
        """Read prompts up to ``chunk`` tokens, then decode a token of every row."""
        self._drop_cancelled()
        budget = self.chunk
        while self.reading and budget > 0:
            budget -= self._read(budget)
        if self.groups:
            self._step()

    def _drop_cancelled(self) -> None:
        for ticket, _, _ in [item for item in self.reading if item[0].cancelled]:
            ticket.end()
        self.reading = deque(item for item in self.reading if not item[0].cancelled)
        self._drop(lambda row: row.ticket.cancelled)

    def _drop(self, leaves: Callable[[Row], bool]) -> None:
        """Let rows leave; where one was the last of its ticket, that has ended."""
        for group, rows in self.groups:
            for number in reversed(range(len(rows))):
                if leaves(row := rows[number]):
                    group.remove(number)
                    rows[number] = rows[-1]
                    rows.pop()
                    self._left(row.ticket)
        self.groups = [(group, rows) for group, rows in self.groups if rows]

    def _left(self, ticket: Ticket) -> None:
        ticket.running -= 1
        if ticket.running == 0:
            ticket.end()

    def _read(self, budget: int) -> int:
        """Pass at most ``budget`` tokens of the first prompt through the model; return how many."""
        ticket, cache, scores = self.reading[0]
        ids, prompt = ticket.prompt.ids, ticket.prompt
        start, count = cache.done, min(budget, len(ids) - cache.done)
        tokens = torch.tensor([ids[start : start + count]], device=self.model.device)  # (1, T)
        hidden = self.model.llama.hidden(tokens, cache)[0]  # type: ignore[arg-type]  # (T, D)
        cache.advance(count)
        self.prefill_tokens += count
        if not hidden.isfinite().all():
            raise InputError(f"{self.model.name}: the model's output is not finite; use an earlier checkpoint")
        if prompt.score:
            scores += [TokenScore(ids[0], None)] if start == 0 else []
            scores += self._scores(hidden, ids[start + 1 : start + count + 1], prompt.logprobs or 0)
        if cache.done == len(ids):
            self.reading.popleft()
            if prompt.score:
                ticket.tell(scores)
            self._start(ticket, cache, hidden[-1:])
        return count

    def _start(self, ticket: Ticket, cache: PromptCache, hidden: Tensor) -> None:
        """Draw the first token of each sample of a prompt that was read, and let it join the rows."""
        config, prompt = self.model.llama.config, ticket.prompt
        limit = prompt.limit(config.context_length)
        if limit == 0:
            ticket.end()
            return
        stops = compile_stops(prompt.sampling.stop)
        keys = sample_keys(prompt.sampling.seed, [(prompt.task, n) for n in range(prompt.n)]).tolist()
        context, rows = list(prompt.ids), []
        for number, key in enumerate(keys):
            completion = Completion(prompt.task, number, context, False)
            shown = ShownText(completion, prompt.sampling.stop)
            rows.append(Row(ticket, completion, key, limit, stops, shown))
        self._draw(hidden.expand(len(rows), -1), rows)
        slots = row_slots(len(context) + limit, config)
        for row in rows:
            if row.completion.finish_reason is not None:
                self._left(ticket)
                continue
            fits = [(g, r) for g, r in self.groups if g.slots == slots and len(r) < g.rows]
            if not fits:
                fits = [(Group(config, slots, self.model.dtype, self.model.device), [])]
                self.groups.append(fits[0])
            fits[0][0].add(cache)
            fits[0][1].append(row)

    def _step(self) -> None:
        """Decode a token of every row."""
        rows = [row for _, rows in self.groups for row in rows]
        newest = torch.tensor([[row.completion.tokens[-1]] for row in rows], device=self.model.device)  # (B, 1)
        cache = RowCache([group for group, _ in self.groups], self.model.llama.config)
        hidden = self.model.llama.hidden(newest, cache)[:, 0]  # type: ignore[arg-type]  # (B, D)
        cache.advance()
        self.steps += 1
        self._draw(hidden, rows)
        self._drop(lambda row: row.completion.finish_reason is not None)

    def _draw(self, hidden: Tensor, rows: Sequence[Row]) -> None:
        """Draw the next token of each row from its last ``hidden`` state (B, D)."""
        tokenizer, vocab = self.model.tokenizer, self.model.tokenizer.vocab_size
        count = max(1, STEP_LOGITS[hidden.device.type] // self.model.llama.config.vocab_size)
        for start in range(0, len(rows), count):
            part = rows[start : start + count]
            logits = self.model.llama.head(hidden[start : start + count])  # (R, V)
            tokens = self._choose(logits[:, :vocab], part)
            told = [n for n, row in enumerate(part) if row.ticket.prompt.logprobs is not None]
            scores: dict[int, TokenScore] = {}
            if told:
                most = max(part[n].ticket.prompt.logprobs or 0 for n in told)
                chosen = [tokens[n] for n in told]
                found = score_tokens(logits[told], chosen, most)
                for n, score in zip(told, found, strict=True):
                    scores[n] = TokenScore(score.token, score.logprob, score.top[: part[n].ticket.prompt.logprobs])
            for n, (row, token) in enumerate(zip(part, tokens, strict=True)):
                row.push(token, scores.get(n), tokenizer)

    def _choose(self, logits: Tensor, rows: Sequence[Row]) -> list[int]:
        """Return the next token of each row by its ``logits`` (R, V): the likeliest, or drawn by its own settings."""
        greedy = [n for n, row in enumerate(rows) if row.sampling.temperature == 0]
        drawn = [n for n, row in enumerate(rows) if row.sampling.temperature > 0]
        tokens = torch.empty(len(rows), dtype=torch.long, device=logits.device)  # (R,)
        if greedy:
            completions = [rows[n].completion for n in greedy]
            tokens[greedy] = likeliest_tokens(self.model.llama, logits[greedy], completions)
        if drawn:
            keys = torch.tensor([rows[n].key for n in drawn], device=logits.device)  # (R',)
            steps = torch.tensor([len(rows[n].completion.tokens) for n in drawn], device=logits.device)
            sampling = RowSampling.of([rows[n].sampling for n in drawn], logits.device)
            tokens[drawn] = draw_tokens(logits[drawn], keys, steps, sampling)
        return tokens.tolist()

    def _scores(self, hidden: Tensor, targets: Sequence[int], top: int) -> list[TokenScore]:
        """Return the scores of ``targets`` (at most T of them) after the states ``hidden`` (T, D)."""
        count, scores = max(1, MOST_LOGITS // self.model.llama.config.vocab_size), []
        for start in range(0, len(targets), count):
            part = list(targets[start : start + count])
            scores += score_tokens(self.model.llama.head(hidden[start : start + len(part)]), part, top)
        return scores


def score_tokens(logits: Tensor, tokens: Sequence[int], top: int) -> list[TokenScore]:
    """Return the log-probabilities of ``tokens`` (R,) by ``logits`` (R, V), with those of the ``top`` likeliest."""
    logprobs = F.log_softmax(logits.float(), -1)  # (R, V)
    own = logprobs.gather(1, torch.tensor(list(tokens), device=logits.device)[:, None])[:, 0].tolist()  # (R,)
    values, ids = (part.tolist() for part in logprobs.topk(min(top, logprobs.shape[1])))  # (R, top) each
    pairs = [tuple(zip(row_ids, row, strict=True)) for row_ids, row in zip(ids, values, strict=True)]
    return [TokenScore(*row) for row in zip(tokens, own, pairs, strict=True)]
