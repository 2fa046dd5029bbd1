"""A completion server with OpenAI's protocol as a model that completes prompts."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from evals.models.openai_client import Ask, OpenAIClient
from evals.models.request import Completion, Request, cut_at_stop
from evals.models.server_config import ServerConfig


@dataclass
class ServerCompleter:
    """The model ``name`` of an OpenAI-compatible server: ``url`` ends before /completions, as in http://host/v1.

    Raises InputError where the URL or the key's variable cannot be used.
    """

    url: str
    name: str
    config: ServerConfig = field(default_factory=ServerConfig)

    def __post_init__(self) -> None:
        self.client = OpenAIClient(self.url, self.name, self.config)

    def complete(self, request: Request) -> Iterator[Completion]:
        """Yield completions as they come; raise InputError if a request is refused or fails too often."""
        tasks, stops = list(request.prompts), request.sampling.stop
        asks = [Ask(prompt, (task,), request.n_samples) for task, prompt in request.prompts.items()]
        for number, replies in self.client.ask(asks, request.sampling):
            for sample, reply in enumerate(replies):
                text = cut_at_stop(reply.text, stops)
                reason = "stop" if len(text) < len(reply.text) else reply.finish_reason
                yield Completion(tasks[number], sample, text, reply.tokens, reason)

    def score_references(self, pairs: Sequence[tuple[str, str]]) -> None:
        """Servers give no probabilities of a given text that could be relied on."""
