"""What is asked of a model that completes prompts, and what it answers."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from evals.perplexity import References
from llama_scale.generation.config import SamplingConfig


@dataclass(frozen=True)
class Request:
    """What to draw: ``n_samples`` completions of each prompt, ``batch_size`` rows together.

    ``prompts`` are by the number of their task, which fixes the random numbers.
    """

    prompts: Mapping[int, str]
    sampling: SamplingConfig
    n_samples: int = 1
    batch_size: int = 64


@dataclass(frozen=True)
class Completion:
    """Completion ``sample`` of the prompt of ``task``, cut before the first stop string.

    ``tokens`` is how many were drawn, None where that is not known. ``finish_reason`` is "stop" (a stop string or the
    end of the document) or "length"; of a server, whatever it says. ``prompt_truncated`` says that the prompt lost its
    start to fit the context.
    """

    task: int
    sample: int
    text: str
    tokens: int | None
    finish_reason: str | None
    prompt_truncated: bool = False


class Completer(Protocol):
    """Whatever completes prompts: a checkpoint, a transformers folder, a server."""

    def complete(self, request: Request) -> Iterator[Completion]:
        """Yield the completions in any order."""
        ...

    def score_references(self, pairs: Sequence[tuple[str, str]]) -> References | None:
        """Score (prompt, solution) pairs, teacher-forced; None where that cannot be done."""
        ...


def cut_at_stop(text: str, stops: Sequence[str]) -> str:
    """Return the text before the first stop string."""
    ends = [start for stop in stops if (start := text.find(stop)) >= 0]
    return text[: min(ends)] if ends else text
