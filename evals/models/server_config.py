"""How a completion server is asked; without its client, which a command that asks none need not have."""

from dataclasses import dataclass

from llama_scale.errors import at_least_0, at_least_1, check_fields, positive


@dataclass(frozen=True)
class ServerConfig:
    """How a completion server is asked.

    Args:
        api_key_variable: Name of the environment variable that holds the server's key; null sends no key.
        concurrency: Requests under way at a time.
        timeout: Seconds that one request may take.
        retries: Most times that a request is made again after 408, 409, 429, 5xx, a broken connection or a cut reply.
    """

    api_key_variable: str | None = None
    concurrency: int = 8
    timeout: float = 600.0
    retries: int = 8

    def __post_init__(self) -> None:
        check_fields(self, "at least 1", at_least_1, "concurrency", "server.")
        check_fields(self, "more than 0", positive, "timeout", "server.")
        check_fields(self, "at least 0", at_least_0, "retries", "server.")
