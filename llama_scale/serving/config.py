"""Settings of the server, readable without torch."""

from dataclasses import dataclass, field
from typing import Literal

from llama_scale.errors import InputError, at_least_1, check_fields, positive


@dataclass(frozen=True)
class EngineConfig:
    """How much is decoded at a time.

    Args:
        memory_gb: Keys and values of all prompts under way, in GB of 10^9; null is a quarter of the free memory.
        max_rows: Samples of a model that are decoded together.
        max_waiting: Requests that wait for memory or rows; the next one is told to come back (429).
        max_waiting_tokens: Tokens of prompts and continuations that wait.
        chunk: Tokens of prompts that are read between two steps of the samples under way.
    """

    memory_gb: float | None = None
    max_rows: int = 64
    max_waiting: int = 256
    max_waiting_tokens: int = 1 << 20
    chunk: int = 256

    def __post_init__(self) -> None:
        check_fields(self, "more than 0", positive, "memory_gb", "engine.")
        check_fields(self, "at least 1", at_least_1, "max_rows max_waiting max_waiting_tokens chunk", "engine.")


LOCAL = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class AccessConfig:
    """Who may ask the server.

    Args:
        token: What each request must bear (Authorization: Bearer); auto makes one and prints it; null asks for none,
            which only an address of this machine alone may do.
        allow_host: Names that requests may call this server by, beside its own address, separated by commas.
        allow_origin: Web pages from elsewhere that may ask, such as https://app.example, separated by commas.
        max_body_bytes: Bytes of a request.
        patience: Seconds that a client may take to send a request or to read a part of its answer.
    """

    token: str | None = None
    allow_host: str = ""
    allow_origin: str = ""
    max_body_bytes: int = 1 << 20
    patience: float = 30.0

    def __post_init__(self) -> None:
        check_fields(self, "at least 1", at_least_1, "max_body_bytes", "access.")
        check_fields(self, "more than 0", positive, "patience", "access.")
        if self.token is not None and not (self.token.isascii() and self.token.isprintable() and self.token.strip()):
            raise InputError("access.token: expected printable ASCII characters; auto makes one")
        if "*" in self.allow_origin or "*" in self.allow_host:
            raise InputError("access.allow_origin and allow_host: name each one; * would let in every page")


@dataclass(frozen=True)
class ServeConfig:
    """A server of the models in a folder.

    Args:
        runs: Folder of runs, a run or a checkpoint.
        host: Address to listen on; another one than this machine's own needs access.token.
        port: Port to listen on; 0 takes a free one.
        device: Where to compute; auto is the GPU if there is one.
        precision: Number format of the weights; with fp32 the text for a seed is that of launch/sample.py at any load;
            auto is bf16 where this machine multiplies that faster, measured on a CPU when a model is loaded.
        threads: CPU threads; null leaves the library's choice.
        models_gb: Weights that are kept loaded, in GB of 10^9, the least recently used leave; null is half of the free
            memory.
        template: File of a chat template (jinja) for models that have none.
        engine: How much is decoded at a time.
        access: Who may ask.
    """

    runs: str
    host: str = "127.0.0.1"
    port: int = 8000
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "fp32"
    threads: int | None = None
    models_gb: float | None = None
    template: str | None = None
    engine: EngineConfig = field(default_factory=EngineConfig)
    access: AccessConfig = field(default_factory=AccessConfig)

    def __post_init__(self) -> None:
        if not self.runs:
            raise InputError("runs: expected a folder, found empty text; . is this one")
        if not self.host:
            raise InputError("host: expected an address, found empty text; 127.0.0.1 is this machine's own")
        check_fields(self, "more than 0", positive, "models_gb")
        check_fields(self, "at least 1 or null", at_least_1, "threads")
        check_fields(self, "from 0 to 65535", lambda x: 0 <= x < 1 << 16, "port")
        if self.host not in LOCAL and self.access.token is None:
            problem = f"host: {self.host} can be reached from elsewhere"
            raise InputError(f"{problem}; set access.token (auto makes one), or listen on 127.0.0.1")
