"""Replies that are kept: nothing is asked twice, and a log of them answers without a model."""

import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from evals.journal import append_row, read_journal
from evals.repair.backends.protocol import Ask, Backend, Reply
from evals.verdicts import digest_text
from llama_scale.errors import InputError
from llama_scale.generation.config import SamplingConfig

FORMAT = "llama_scale.replies.v1"


def ask_digest(identity: dict[str, Any], ask: Ask, sampling: SamplingConfig) -> str:
    """Return the hash of all that a reply depends on."""
    return digest_text([identity, asdict(ask), asdict(sampling)])


def read_replies(path: Path) -> dict[str, list[Reply]]:
    """Return the replies of a file by the hash of their ask; rows torn by a kill or of another form are passed over."""
    known = {}
    for row in read_journal(path):
        with suppress(KeyError, TypeError):
            known[str(row["ask"])] = [Reply(**reply | {"cached": True}) for reply in row["replies"]]
    return known


class KeptReplies:
    """A backend whose replies are written to a file as they come and never asked for again.

    Equal asks of one call are asked once. ``asked`` counts what the backend itself answered.
    """

    def __init__(self, backend: Backend, path: Path) -> None:
        self.backend, self.path, self.asked = backend, path, 0
        self.identity, self.chat, self.context = backend.identity, backend.chat, backend.context
        self.parameters = backend.parameters
        self.known = read_replies(path)
        if not self.known:
            about = {name: getattr(self, name) for name in ("identity", "chat", "context", "parameters")}
            append_row(path, {"format": FORMAT} | about)

    def read_again(self) -> None:
        """Take up what another process wrote since the file was read."""
        self.known |= read_replies(self.path)

    def close(self) -> None:
        """End the processes of the backend, if it has any."""
        if close := getattr(self.backend, "close", None):
            close()

    @property
    def usage(self) -> dict[str, int] | None:
        """Requests, tries after faults and tokens that a server counted, None where none was asked."""
        return getattr(self.backend, "usage", None)

    def ask(self, asks: Sequence[Ask], sampling: SamplingConfig) -> Iterator[tuple[int, list[Reply]]]:
        """Yield what is known at once, then what the backend answers."""
        places: dict[str, list[int]] = {}
        for number, ask in enumerate(asks):
            places.setdefault(ask_digest(self.identity, ask, sampling), []).append(number)
        new = [name for name in places if name not in self.known]
        for name, numbers in places.items():
            if name in self.known:
                yield from ((number, self.known[name]) for number in numbers)
        if not new:
            return
        start = time.perf_counter()
        for number, replies in self.backend.ask([asks[places[name][0]] for name in new], sampling):
            name, seconds = new[number], round(time.perf_counter() - start, 3)
            rows = [{key: value for key, value in asdict(reply).items() if key != "cached"} for reply in replies]
            append_row(self.path, {"ask": name, "replies": rows, "seconds_after_call": seconds})
            self.asked += 1
            self.known[name] = [replace(reply, cached=True) for reply in replies]
            yield from ((place, replies) for place in places[name])


class Replay:
    """A file of replies as a backend: what an earlier run was told, without its model.

    Raises InputError if the file is no such file, or, when asked, if it lacks the answer.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise InputError(f"{path}: no such file; give the replies that a run of launch/repair.py kept")
        head = next(iter(read_journal(path)), {})
        if head.get("format") != FORMAT or not head.keys() >= {"identity", "chat", "context"}:
            found = head.get("format", "another form")
            raise InputError(f"{path}: {found}, expected {FORMAT}; give the replies that a run kept")
        self.path, self.known = path, read_replies(path)
        self.identity, self.chat, self.context = head["identity"], head["chat"], head["context"]
        self.parameters = head.get("parameters")

    def ask(self, asks: Sequence[Ask], sampling: SamplingConfig) -> Iterator[tuple[int, list[Reply]]]:
        """Yield the kept replies in order."""
        for number, ask in enumerate(asks):
            name = ask_digest(self.identity, ask, sampling)
            if name not in self.known:
                problem = f"has no reply to task {ask.key[0]}, round {ask.key[1]} with these settings"
                raise InputError(f"{self.path}: {problem}; replay with the settings of the run that wrote it")
            yield number, self.known[name]
