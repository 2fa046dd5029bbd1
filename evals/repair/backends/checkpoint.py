"""A checkpoint of this project as a backend: a base model, which continues a text."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from evals.models.checkpoint import CheckpointCompleter
from evals.repair.backends.protocol import Ask, Reply, task_of
from llama_scale.generation.config import SamplingConfig
from llama_scale.generation.generate import generate


class CheckpointBackend:
    """A model with its tokenizer; ``batch_size`` answers are decoded together, which changes none of them."""

    chat = False

    def __init__(self, model: CheckpointCompleter, identity: dict[str, Any], batch_size: int) -> None:
        self.model, self.identity, self.batch_size = model, identity, batch_size
        self.context: int | None = model.model.config.context_length
        self.parameters: int | None = sum(weight.numel() for weight in model.model.parameters())

    def ask(self, asks: Sequence[Ask], sampling: SamplingConfig) -> Iterator[tuple[int, list[Reply]]]:
        """Yield the replies batch by batch.

        Asks with one key (of two arms, with other messages) are drawn one after another, as a key names a completion.
        """
        met: Counter[tuple[int, ...]] = Counter()
        groups: dict[tuple[int, int], dict[int, int]] = {}  # by (turn, n): the number of the ask by its task
        for number, ask in enumerate(asks):
            groups.setdefault((met[ask.key], ask.n), {})[task_of(ask.key)] = number
            met[ask.key] += 1
        for (_, n), numbers in groups.items():
            prompts = [asks[number].messages[0].content for number in numbers.values()]
            drawn = generate(
                self.model.model, self.model.tokenizer, prompts, sampling, n, self.batch_size, tasks=list(numbers)
            )
            found: dict[int, list[Reply]] = {}
            for row in drawn:  # the samples of a task in their order
                replies = found.setdefault(row.task, [])
                replies.append(
                    Reply(row.text, len(row.context), len(row.tokens), row.finish_reason, row.prompt_truncated)
                )
                if len(replies) == n:
                    yield numbers[row.task], replies
