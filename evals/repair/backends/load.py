"""Opening a backend by what a person named."""

from dataclasses import replace
from functools import partial
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
    if not Path(name).exists():
        raise InputError(f"{setting}.model: {name}: no such run, folder or file of replies")
    from evals.models.load import decoding_precision, is_external  # which need torch
    from llama_scale.checkpoint.folder import resolve
    from llama_scale.device import pick_device

    if is_external(name) and preset:
        check_family(Path(name), preset, setting)
    elif preset or (config.form == "chat" and not is_external(name)):
        problem = f"{name} is a run of this project, which continues texts"
        raise InputError(f"{setting}.{'preset' if preset else 'form'}: {problem}; leave it out")
    device = pick_device(config.device)
    if config.precision == "auto":  # once for all processes: what is measured in each might differ
        folder = Path(name) if is_external(name) else resolve(name)
        config = replace(config, precision=decoding_precision(folder, "auto", device, config.threads))
    open_on = partial(open_local, config, out, setting)
    if (count := config.processes or gpus(device)) == 1:
        return open_on(device)
    from evals.repair.backends.parallel import ParallelBackend

    return ParallelBackend(open_on, count, device)


def gpus(device: str) -> int:
    """Return the processes that a device is good for: one for each GPU, or one."""
    import torch

    return torch.cuda.device_count() if device == "cuda" else 1


def open_local(config: BackendConfig, out: Path | None, setting: str, device: str) -> Backend:
    """Open a checkpoint or a transformers folder on a device."""
    import torch

    from evals.models.load import checkpoint_subject, external_subject, is_external
    from evals.repair.backends.checkpoint import CheckpointBackend
    from evals.repair.backends.folder import FolderBackend
    from llama_scale.device import set_threads

    name = config.model or ""
    names = ("device", "precision", "threads")
    how = EvalConfig(
        checkpoint=name, out=str(out or Path(name) / ".out"), **{field: getattr(config, field) for field in names}
    )
    set_threads(config.threads)
    if is_external(name):
        subject = external_subject(how)
        dtype = torch.bfloat16 if subject.identity["precision"] == "bf16" else torch.float32
        return FolderBackend(Path(name), config, subject.identity, device, dtype, setting)
    subject = checkpoint_subject(how, name)
    return CheckpointBackend(subject.load(device), subject.identity, config.batch_size)
