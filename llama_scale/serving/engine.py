"""One decoding thread for all models: prompts wait for memory, join running batches, and leave when they end.

A step of a batch decodes a token of every row, whatever request it belongs to; between two steps at most ``chunk``
tokens of new prompts are read. The models take turns. A sample's random numbers are those of (seed, task, sample)
alone, so its text does not change with the load.
"""

import math
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from llama_scale.errors import InputError
from llama_scale.serving.batch import Batch, Prompt, ServedModel, Ticket
from llama_scale.serving.config import EngineConfig

SWITCH = 5e-4  # seconds after which the decoding thread lets another run: those that talk to clients
RECENT = 0.9  # share of the rate of before in that of now


class BusyError(Exception):
    """The queue is full; ``retry_after`` is after how many seconds it may not be."""

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"the server has more to do than it may keep waiting; try again in {retry_after} s")
        self.retry_after = retry_after


class Engine:
    """Decodes what is submitted, in a thread of its own, until it is closed.

    ``memory`` is bytes of keys and values that all prompts under way may need.

    Attributes:
        tokens: Tokens drawn so far, of all prompts.
        requests: Prompts taken so far.
        rate: Tokens drawn in a second, lately.
    """

    def __init__(self, config: EngineConfig, memory: int) -> None:
        self.config, self.memory = config, memory
        self.waiting: deque[Ticket] = deque()
        self.batches: dict[int, Batch] = {}
        self.condition = threading.Condition()
        self.used = self.tokens = self.requests = self.refused = self.cancelled = self.steps = 0
        self.prefills = self.prefill_tokens = 0
        self.rate = 0.0
        self.rows = 0
        self.closing = self.cancelling = False
        sys.setswitchinterval(min(SWITCH, sys.getswitchinterval()))
        self.thread = threading.Thread(target=self._run, name="decoding", daemon=True)
        self.thread.start()

    def submit(self, model: ServedModel, prompts: Sequence[Prompt], tell: Callable[[int, Any], None]) -> list[Ticket]:
        """Take prompts, all or none; what comes of number i goes to ``tell(i, ...)`` on the decoding thread.

        That is a list of TokenScore where the prompt's are asked for, then Pieces, then None; an exception before it
        says why there is no more. Raises InputError where a prompt can never be served, BusyError where too many wait.
        """
        tickets = [Ticket(model, prompt, _numbered(tell, number)) for number, prompt in enumerate(prompts)]
        context = model.llama.config.context_length
        for ticket in tickets:
            if len(ticket.prompt.ids) + (not ticket.prompt.score_only) > context:
                raise InputError(
                    f"prompt: {len(ticket.prompt.ids)} tokens do not fit this model's context of {context} tokens; "
                    f"shorten it"
                )
            if ticket.prompt.n > self.config.max_rows:
                raise InputError(f"n: expected at most {self.config.max_rows}, found {ticket.prompt.n}")
            if ticket.bytes > self.memory:
                found = f"{ticket.prompt.n} samples may need {ticket.bytes / 1e6:,.0f} MB"
                raise InputError(f"n: {found}, the server has {self.memory / 1e6:,.0f} MB; ask for less")
        with self.condition:
            waiting = sum(map(_size, self.waiting))
            new = sum(map(_size, tickets))
            idle = not self.waiting and self.used == 0
            full = len(self.waiting) + len(tickets) > self.config.max_waiting
            if self.closing or (not idle and (full or waiting + new > self.config.max_waiting_tokens)):
                self.refused += len(tickets)
                raise BusyError(min(60, max(1, math.ceil(waiting / max(self.rate, 1.0)))))
            self.waiting.extend(tickets)
            self.requests += len(tickets)
            self.condition.notify()
        return tickets

    def close(self, grace: float = 0.0) -> None:
        """Take nothing more, let what is under way end for ``grace`` seconds, then cancel it and end the thread."""
        with self.condition:
            self.closing = True
            self.condition.notify()
        self.thread.join(grace)
        self.cancelling = True
        self.thread.join()

    def stats(self) -> dict[str, float]:
        """Return counts and loads by name."""
        return {
            "requests": self.requests, "refused": self.refused, "cancelled": self.cancelled, "tokens": self.tokens,
            "steps": self.steps, "prefills": self.prefills, "prefill_tokens": self.prefill_tokens,
            "waiting": len(self.waiting), "rows": self.rows,
            "cache_bytes": self.used, "cache_bytes_limit": self.memory, "tokens_per_second": self.rate,
        }  # fmt: skip

    def _run(self) -> None:
        while True:
            with self.condition:
                if not self.waiting and not self.batches:
                    if self.closing:
                        return
                    self.condition.wait()
                for ticket in self._under_way() if self.cancelling else ():
                    ticket.cancel()
                self._admit()
            started, before = time.perf_counter(), self.tokens
            for key, batch in list(self.batches.items()):
                self._turn(key, batch)
            self.rows = sum(batch.rows for batch in self.batches.values())
            if (drawn := self.tokens - before) and (seconds := time.perf_counter() - started):
                self.rate = RECENT * self.rate + (1 - RECENT) * drawn / seconds if self.rate else drawn / seconds

    def _under_way(self) -> list[Ticket]:
        return [*self.waiting, *(ticket for batch in self.batches.values() for ticket in batch.tickets)]

    def _admit(self) -> None:
        """Let waiting tickets join, those of a model in their order, as far as memory and rows allow."""
        for ticket in [ticket for ticket in self.waiting if ticket.cancelled]:
            self.waiting.remove(ticket)
            self.cancelled += 1
            ticket.close()
        full: set[int] = set()  # models that have no row left: others need not wait for them
        for ticket in list(self.waiting):
            key = id(ticket.model)
            batch = self.batches.get(key)
            if (batch.rows if batch else 0) + ticket.prompt.n > self.config.max_rows:
                full.add(key)
            if key in full:
                continue
            if self.used + ticket.bytes > self.memory:
                return
            self.waiting.remove(ticket)
            self.used += ticket.bytes
            self.prefills += 1
            batch = batch or self.batches.setdefault(key, Batch(ticket.model, self.config.chunk))
            batch.join(ticket)

    def _turn(self, key: int, batch: Batch) -> None:
        """Let a batch make a step, and count what it did; a fault of one model ends its tickets alone."""
        before, counts = batch.tickets, (batch.steps, batch.prefill_tokens)
        drawn = sum(ticket.tokens for ticket in before)
        try:
            batch.turn()
        except Exception as error:  # whatever it is, those who wait are told and the others go on
            for ticket in before:
                ticket.end(error)
        ended = [ticket for ticket in before if ticket.ended]
        self.tokens += sum(ticket.tokens for ticket in before) - drawn
        self.steps += batch.steps - counts[0]
        self.prefill_tokens += batch.prefill_tokens - counts[1]
        self.used -= sum(ticket.bytes for ticket in ended)
        self.cancelled += sum(ticket.cancelled for ticket in ended)
        if len(ended) == len(before):
            del self.batches[key]
        for ticket in ended:
            ticket.close()


def _numbered(tell: Callable[[int, Any], None], number: int) -> Callable[[Any], None]:
    return lambda event: tell(number, event)


def _size(ticket: Ticket) -> int:
    """Return the most tokens that a ticket reads and draws."""
    prompt = ticket.prompt
    return len(prompt.ids) + prompt.n * prompt.limit(ticket.model.llama.config.context_length)
