"""What a pipeline asks of a model, and what it answers: one interface for all of them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np

from evals.models.server_config import ServerConfig
from llama_scale.errors import at_least_0, at_least_1, check_fields
from llama_scale.generation.config import SamplingConfig


@dataclass(frozen=True)
class Message:
    """One turn of a chat. What a base model is to continue is the content of a single message of the user."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True)
class Ask:
    """``n`` answers to messages; ``key`` = (task, round, sample, redraw) and the seed fix their random numbers.

    The same messages with the same key are the same ask, whoever makes it.
    """

    messages: tuple[Message, ...]
    key: tuple[int, ...]
    n: int = 1


def task_of(key: tuple[int, ...]) -> int:
    """Return the number (64 bits) that stands for a key where a sampler knows tasks and samples alone."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])


@dataclass(frozen=True)
class Reply:
    """One answer.

    Token counts are None where they are not known. ``finish_reason`` is "stop" or "length", of a server whatever it
    says. ``prompt_truncated`` says that the prompt lost its start to fit the context; ``cached`` that this run did not
    ask for it. ``served`` is what a server says answered: its model's name and its fingerprint.
    """

    text: str
    prompt_tokens: int | None = None
    tokens: int | None = None
    finish_reason: str | None = None
    prompt_truncated: bool = False
    cached: bool = False
    served: str = ""


class Backend(Protocol):
    """Whatever answers.

    ``identity`` is what its answers depend on beside an ask and the sampling. ``chat`` says whether it takes several
    messages; one that does not continues the content of a single one. ``context`` is the most tokens of a prompt and
    its answer together, ``parameters`` the size of the model; None where they are not known.
    """

    identity: dict[str, Any]
    chat: bool
    context: int | None
    parameters: int | None

    def ask(self, asks: Sequence[Ask], sampling: SamplingConfig) -> Iterator[tuple[int, list[Reply]]]:
        """Yield the number of each ask and its ``n`` replies, in any order, as they come.

        A reply depends on the ask and the sampling alone, not on the asks beside it. Raises InputError if one cannot be
        answered.
        """
        ...


@dataclass(frozen=True)
class BackendConfig:
    """Which model answers, and how it is run.

    Args:
        model: A run or checkpoint folder, a transformers folder, the URL of an OpenAI-compatible server (http://host/v1)
            or a file of replies that an earlier run kept (NAME-replies.jsonl).
        preset: A known model, by name, which is what ``model`` has to hold: of another family it is refused.
        name: The model's name on a server.
        parameters: Parameters of a model that does not tell, a server's, for reports by size.
        prompt_price: Price of a million tokens of prompts, in any currency.
        price: Price of a million new tokens, in the same.
        form: chat uses the model's chat template, completion lets it continue a text; auto is chat where there is a
            template or a server.
        batch_size: Answers decoded together.
        device: Where to compute; auto is the GPU if there is one.
        precision: Number format of the weights; null is bf16 on a GPU and fp32 on a CPU, where no text then depends on
            what is decoded beside it; auto is bf16 where this machine multiplies that faster, measured on a CPU.
        threads: CPU threads of the model, of each process; null leaves the library's choice.
        processes: Processes that share the asks out, each with a copy of the model; null is one for each GPU, or one.
            A server has server.concurrency instead.
        server: How a server is asked.
    """

    model: str | None = None
    preset: str | None = None
    name: str = "model"
    parameters: int | None = None
    prompt_price: float = 0.0
    price: float = 0.0
    form: Literal["auto", "chat", "completion"] = "auto"
    batch_size: int = 64
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "fp32", "bf16"] | None = None
    threads: int | None = None
    processes: int | None = None
    server: ServerConfig = field(default_factory=ServerConfig)

    def __post_init__(self) -> None:
        check_fields(self, "at least 1", at_least_1, "batch_size")
        check_fields(self, "at least 0", at_least_0, "prompt_price price")
        check_fields(self, "at least 1 or null", at_least_1, "threads parameters processes")
