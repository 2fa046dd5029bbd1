"""A server with OpenAI's protocol as a backend: chat messages, or a text to continue."""

from collections.abc import Iterator, Sequence
from typing import Any

from evals.models.openai_client import Ask as ServerAsk
from evals.models.openai_client import OpenAIClient
from evals.models.request import cut_at_stop
from evals.repair.backends.protocol import Ask, BackendConfig, Reply
from llama_scale.generation.config import SamplingConfig


class ServerBackend:
    """The model ``config.name`` at the URL ``config.model``; what it makes of the seeds that it gets is not known.

    Attributes:
        client: The client, with what was used so far.

    Raises InputError where the URL or the key's variable cannot be used.
    """

    context = None

    def __init__(self, config: BackendConfig) -> None:
        self.client = OpenAIClient(config.model or "", config.name, config.server)
        self.chat = config.form != "completion"
        self.parameters = config.parameters
        self.identity: dict[str, Any] = {
            "backend": "server", "url": self.client.url, "name": config.name, "chat": self.chat,
        }  # fmt: skip

    @property
    def usage(self) -> dict[str, int]:
        """Requests that were answered, tries after faults, and tokens as far as the server counts them."""
        return vars(self.client.usage)

    def ask(self, asks: Sequence[Ask], sampling: SamplingConfig) -> Iterator[tuple[int, list[Reply]]]:
        """Yield replies as they come, cut before the first stop string, of which a server gets four."""
        sent = [ServerAsk(self._prompt(ask), ask.key, ask.n) for ask in asks]
        for number, replies in self.client.ask(sent, sampling):
            found = []
            for reply in replies:
                text = cut_at_stop(reply.text, sampling.stop)
                reason = "stop" if len(text) < len(reply.text) else reply.finish_reason
                found.append(Reply(text, reply.prompt_tokens, reply.tokens, reason, served=reply.served))
            yield number, found

    def _prompt(self, ask: Ask) -> Any:
        if self.chat:
            return tuple({"role": message.role, "content": message.content} for message in ask.messages)
        return ask.messages[0].content
