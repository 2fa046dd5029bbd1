"""Opening a backend by what a person named."""

from dataclasses import replace
from pathlib import Path

from evals.config import EvalConfig
from evals.repair.backends.presets import check_family, find_preset
from evals.repair.backends.protocol import Backend, BackendConfig
from evals.repair.backends.replies import KeptReplies, Replay
from evals.repair.backends.server import ServerBackend
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
    backend = open_model(config, cache.parent if cache else None, setting)
    return KeptReplies(backend, cache) if cache else backend


def open_model(config: BackendConfig, out: Path | None, setting: str) -> Backend:
    """Open a checkpoint, a transformers folder or a server; files in ``out`` are results, not of a model."""
    preset = find_preset(config.preset, setting) if config.preset else None
    config = replace(config, form=preset.form) if preset and config.form == "auto" else config
    name = config.model or ""
    if "://" in name:
        return ServerBackend(config)
    from evals.models.load import checkpoint_subject, external_subject, is_external  # which need torch
    from evals.repair.backends.checkpoint import CheckpointBackend
    from evals.repair.backends.folder import FolderBackend

    if not Path(name).exists():
        raise InputError(f"{setting}.model: {name}: no such run, folder or file of replies")
    names = ("device", "precision", "threads")
    how = EvalConfig(
        checkpoint=name, out=str(out or Path(name) / ".out"), **{field: getattr(config, field) for field in names}
    )
    if is_external(name):
        import torch

        from llama_scale.device import set_threads

        if preset:
            check_family(Path(name), preset, setting)
        set_threads(config.threads)
        subject = external_subject(how)
        dtype = torch.bfloat16 if subject.identity["precision"] == "bf16" else torch.float32
        return FolderBackend(Path(name), config, subject.identity, subject.device, dtype, setting)
    if config.form == "chat" or preset:
        problem = f"{name} is a run of this project, which continues texts"
        raise InputError(f"{setting}.{'preset' if preset else 'form'}: {problem}; leave it out")
    subject = checkpoint_subject(how, name)
    return CheckpointBackend(subject.load(subject.device), subject.identity, config.batch_size)
