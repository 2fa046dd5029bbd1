"""A function as a backend: oracles, simulations and tests of a pipeline need no model."""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from evals.repair.backends.protocol import Ask, Reply
from llama_scale.generation.config import SamplingConfig


class Scripted:
    """Answers with ``answer(ask, number)``, the text of reply ``number`` of an ask; tokens are words and marks."""

    def __init__(self, answer: Callable[[Ask, int], str], name: str = "scripted", chat: bool = True) -> None:
        self.answer, self.chat, self.context, self.parameters = answer, chat, None, None
        self.identity: dict[str, Any] = {"backend": "scripted", "name": name}
        self.asked: list[Ask] = []

    def ask(self, asks: Sequence[Ask], sampling: SamplingConfig) -> Iterator[tuple[int, list[Reply]]]:
        """Yield the replies in order."""
        for number, ask in enumerate(asks):
            self.asked.append(ask)
            prompt = sum(count_words(message.content) for message in ask.messages)
            texts = [self.answer(ask, n) for n in range(ask.n)]
            yield number, [Reply(text, prompt, count_words(text), "stop") for text in texts]


def count_words(text: str) -> int:
    """Return the number of words and of marks between them."""
    return len(re.findall(r"\w+|[^\w\s]", text))
