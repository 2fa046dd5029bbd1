"""The model of any checkpoint, ready to use: whole weights, or a base with an adapter merged in."""

from pathlib import Path
from typing import Any

import torch

from llama_scale.checkpoint import folder as folders
from llama_scale.checkpoint.base import Base, find_base
from llama_scale.data.open_tokenizer import AnyTokenizer, open_tokenizer
from llama_scale.errors import InputError
from llama_scale.model.foreign import ForeignModel
from llama_scale.model.llama import Llama
from llama_scale.model.lora import load_adapter, merge


def is_foreign(meta: dict[str, Any]) -> bool:
    """Whether the checkpoint of this ``meta`` is of a transformers model that ``Llama`` is not."""
    return meta.get("base", {}).get("kind") == "transformers"


def base_of(folder: Path, meta: dict[str, Any], base: str | None = None) -> Base:
    """Return the base of an adapter's checkpoint, or ``base`` instead; raise InputError if its weights are others."""
    found = find_base(base or meta["base"]["name"])
    if found.weights_sha256 != meta["base"]["weights_sha256"]:
        raise InputError(f"{folder}: an adapter of another base than {found.name}, whose weights are not those it was "
                         f"trained on ({meta['base']['weights_sha256'][:12]})")  # fmt: skip
    known, now = meta["base"].get("config_sha256"), found.meta.get("config_sha256")
    if known and now and known != now:
        problem = "has changed since the adapter was trained, which may make another model of the same weights"
        raise InputError(f"{found.folder / 'config.json'}: {problem}; restore it, or train the adapter again")
    return found


def open_model(
    path: str | Path, device: str = "cpu", dtype: torch.dtype | None = None, *, merged: bool = True,
    base: str | None = None
) -> Llama | ForeignModel:  # fmt: skip
    """Return the model of a checkpoint or run for evaluation; raise InputError if it cannot be loaded.

    The adapter of one is merged into its base, unless ``merged`` is False. ``base`` says where the base is now, if it
    was moved.
    """
    folder = folders.resolve(path)
    meta = folders.load_meta(folder)
    if "adapter" in meta:
        model = base_of(folder, meta, base).load()
        load_adapter(model, folder)
        if merged:
            merge(model)
        model = model.to(device)
    elif is_foreign(meta):
        model = Base(str(path), "transformers", folder, "").load().to(device)
    else:
        model = folders.load_model(folder, device)
    return model.to(dtype).eval() if dtype else model.eval()


def load_model(path: str | Path, device: str = "cpu", dtype: torch.dtype | None = None) -> Llama:
    """Return the ``Llama`` of a checkpoint or run, with an adapter merged in; raise InputError where it is none."""
    model = open_model(path, device, dtype)
    if not isinstance(model, Llama):
        raise InputError(f"{path}: a {model.inner.config.model_type} of transformers, which this command cannot run")
    return model


def load_tokenizer(path: str | Path) -> AnyTokenizer:
    """Return the tokenizer of a checkpoint or run; raise InputError if there is none."""
    return open_tokenizer(folders.resolve(path))
