"""Opening a backend by what a person named."""

from pathlib import Path

from evals.repair.backends.protocol import Backend, BackendConfig
from evals.repair.backends.replies import KeptReplies, Replay
from llama_scale.errors import InputError


def open_backend(config: BackendConfig, cache: Path | None, setting: str = "backend") -> Backend:
    """Open the model that ``config`` names, with the replies kept in ``cache``; raise InputError if it cannot be.

    ``setting`` is what its fields are called in messages.
    """
    if config.model is None:
        raise InputError(f"{setting}.model: name a run, a transformers folder, a server's URL or a file of replies")
    path = Path(config.model)
    if "://" not in config.model and path.suffix == ".jsonl":
        return Replay(path)
    backend = open_model(config, setting)
    return KeptReplies(backend, cache) if cache else backend


def open_model(config: BackendConfig, setting: str) -> Backend:
    """Open a checkpoint, a transformers folder or a server."""
    raise InputError(f"{setting}.model: {config.model}: no such model")
