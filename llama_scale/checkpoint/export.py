"""A checkpoint as a folder that transformers loads, and such a folder as a checkpoint."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from llama_scale.checkpoint import folder as folders
from llama_scale.checkpoint.base import read_llama_weights
from llama_scale.checkpoint.opened import open_model
from llama_scale.data.open_tokenizer import open_tokenizer, tokenizer_files
from llama_scale.errors import InputError
from llama_scale.files import copy_file, read_json, write_json
from llama_scale.model.foreign import ForeignModel
from llama_scale.model.hf import hf_config, model_config, to_hf, tokenizer_config, tokenizer_json
from llama_scale.model.llama import EOS, Llama

UNFINISHED = ".unfinished"  # what is being written, in the folder that it is for
PAD = 0  # the unknown id, which no text makes


def export_checkpoint(path: str | Path, out: str | Path) -> None:
    """Write a checkpoint or run, an adapter merged into its base, as a folder that transformers loads.

    Raises InputError if it cannot. The folder has config.json, model.safetensors, tokenizer.json and
    tokenizer_config.json, and the SentencePiece model that the tokenizer was made from, if it was; of a transformers
    model what transformers writes. A text is the end-of-document id followed by its tokens; padding is on the left.
    """
    folder, out = folders.resolve(path), Path(out)
    _check_empty(out)
    model = open_model(folder)
    with _whole_or_empty(out) as unfinished:
        _write_folder(model, folder, unfinished)


def _write_folder(model: Llama | ForeignModel, folder: Path, out: Path) -> None:
    """Write a model, whose checkpoint ``folder`` has its tokenizer, into an empty folder."""
    if isinstance(model, ForeignModel):
        model.inner.save_pretrained(out)
        for file in tokenizer_files(folder):
            copy_file(file, out / file.name)
        return
    weights = dict(model.state_dict())
    if model.config.tie_embeddings:
        del weights["head.weight"]
    config = hf_config(model.config) | {"dtype": "float32"}
    tensors = {name: value.contiguous() for name, value in to_hf(weights).items()}
    folders.write_tensors(out / "model.safetensors", tensors, {"format": "pt"})
    if (folder / "tokenizer.model").is_file():
        config |= {"bos_token_id": EOS, "eos_token_id": EOS, "pad_token_id": PAD}
        copy_file(folder / "tokenizer.model", out / "tokenizer.model")
        write_json(out / "tokenizer.json", tokenizer_json(folder / "tokenizer.model"))
        settings = tokenizer_config(folder / "tokenizer.model", model.config.context_length)
        write_json(out / "tokenizer_config.json", settings)
    elif files := tokenizer_files(folder):
        config |= {"eos_token_id": open_tokenizer(folder).eos}
        for file in files:
            copy_file(file, out / file.name)
    write_json(out / "config.json", config)


def import_checkpoint(path: str | Path, out: str | Path) -> None:
    """Write a transformers LLaMA folder as a checkpoint of ours; raise InputError if it cannot be.

    The tokenizer beside the weights is taken along; the weights become float32. Rows of the embedding that the
    tokenizer has no id for are kept and never drawn.
    """
    path, out = Path(path), Path(out)
    _check_empty(out)
    config = model_config(read_json(path / "config.json"), path / "config.json")
    weights = read_llama_weights(path, config)
    meta = {"model": asdict(config), "size": "imported", "step": 0, "tokens": 0, "data": None}
    meta["tokenizer_fingerprint"] = None
    files = tokenizer_files(path)
    if usable := {"tokenizer.model", "tokenizer.json"} & {file.name for file in files}:
        tokenizer = open_tokenizer(path)
        if tokenizer.n_text_ids > config.vocab_size:
            name = "tokenizer.model" if "tokenizer.model" in usable else "tokenizer.json"
            found = f"{name} has {tokenizer.n_text_ids} ids, the model only {config.vocab_size} rows"
            raise InputError(f"{path}: {found}; they are not of one model")
        meta["tokenizer_fingerprint"] = tokenizer.fingerprint
    folders.save_weights(out, weights, meta, *(files if usable else []))


def _check_empty(out: Path) -> None:
    if out.exists() and any(path.name != UNFINISHED for path in out.iterdir()):
        raise InputError(f"out: {out} is not empty; choose another folder or delete it")


@contextmanager
def _whole_or_empty(out: Path) -> Iterator[Path]:
    """Yield a folder in ``out`` to fill, whose files then are moved up; where that fails, nothing is left of them."""
    there, unfinished = out.exists(), out / UNFINISHED
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        yield unfinished
        for path in sorted(unfinished.iterdir(), key=lambda path: path.name == "config.json"):  # by which it is found
            os.replace(path, out / path.name)
        unfinished.rmdir()
    except BaseException:
        shutil.rmtree(unfinished if there else out, ignore_errors=True)
        raise
