"""A model under an engine as a backend: what a server and the terminal draw with, beside whatever else is decoded."""

import queue
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from evals.repair.backends.protocol import Ask, Message, Reply, task_of
from llama_scale.errors import InputError
from llama_scale.generation.config import SamplingConfig
from llama_scale.generation.generate import encode_prompt
from llama_scale.serving.batch import Piece, Prompt, Ticket
from llama_scale.serving.engine import Engine
from llama_scale.serving.shelf import Loaded


class StoppedError(Exception):
    """Nobody waits for the answers any more."""


class ServedBackend:
    """A loaded model and the engine that decodes it: a chat where it has a template, else a text that it continues.

    The random numbers are those of a checkpoint as a backend, so the answers are the same (float32). ``drawn`` is
    called with the text of each ask's first answer as it comes.
    """

    def __init__(self, engine: Engine, loaded: Loaded, drawn: Callable[[str], None] = lambda text: None) -> None:
        self.engine, self.loaded, self.drawn = engine, loaded, drawn
        self.chat, self.context = loaded.template is not None, loaded.served.llama.config.context_length
        self.identity: dict[str, Any] = {"backend": "served", "weights": loaded.fingerprint}
        self.tickets: list[Ticket] = []
        self.stopped = False

    def stop(self) -> None:
        """Let what is under way leave the engine; whoever asks, now or later, gets a StoppedError."""
        self.stopped = True
        for ticket in self.tickets:
            ticket.cancel()

    def ask(self, asks: Sequence[Ask], sampling: SamplingConfig) -> Iterator[tuple[int, list[Reply]]]:
        """Yield the replies of each ask when its last one has ended."""
        contexts = [self.context_of(ask.messages, sampling) for ask in asks]
        prompts = [
            Prompt(tuple(ids), sampling, ask.n, task_of(ask.key))
            for ask, (ids, _) in zip(asks, contexts, strict=True)
        ]  # fmt: skip
        events: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()
        self.tickets = self.engine.submit(
            self.loaded.served, prompts, lambda number, event: events.put((number, event))
        )
        if self.stopped:
            self.stop()
        texts, reasons = [[""] * ask.n for ask in asks], [[""] * ask.n for ask in asks]
        try:
            for number, event in iter_events(events, len(asks)):
                if isinstance(event, Piece):
                    texts[number][event.sample] += event.text
                    reasons[number][event.sample] = event.finish_reason or ""
                    if event.sample == 0:
                        self.drawn(event.text)
                elif self.stopped:
                    raise StoppedError
                elif event is None:
                    yield number, self.replies(number, texts[number], reasons[number], contexts[number][1])
        finally:
            for ticket in self.tickets:
                ticket.cancel()

    def replies(self, number: int, texts: Sequence[str], reasons: Sequence[str], truncated: bool) -> list[Reply]:
        """Return the replies of an ask; the engine counts the tokens of its samples together, they are shared out."""
        ticket = self.tickets[number]
        shares = [ticket.tokens // len(texts)] * len(texts)
        shares[0] += ticket.tokens - sum(shares)
        return [
            Reply(text, ticket.prompt_tokens, share, reason or None, truncated)
            for text, share, reason in zip(texts, shares, reasons, strict=True)
        ]

    def context_of(self, sent: Sequence[Message], sampling: SamplingConfig) -> tuple[list[int], bool]:
        """Return the ids of messages, and whether a text lost its start; raise InputError where a chat is too long."""
        tokenizer, config = self.loaded.served.tokenizer, self.loaded.served.llama.config
        if self.loaded.template is None:
            return encode_prompt(tokenizer, sent[0].content, config, sampling.max_new_tokens)
        turns = [{"role": message.role, "content": message.content} for message in sent]
        ids = self.loaded.template.ids(turns, tokenizer.encode)
        ids = ids if ids[:1] == [tokenizer.eos] else [tokenizer.eos, *ids]
        if len(ids) >= config.context_length:
            found = f"{len(ids)} tokens, this model's context is {config.context_length}"
            raise InputError(f"prompt: the chat has {found}; shorten it")
        return ids, False


def iter_events(events: "queue.SimpleQueue[tuple[int, Any]]", running: int) -> Iterator[tuple[int, Any]]:
    """Yield what an engine tells until ``running`` prompts have ended; raise what it says went wrong."""
    while running:
        number, event = events.get()
        if isinstance(event, Exception):
            raise event
        running -= event is None
        yield number, event
