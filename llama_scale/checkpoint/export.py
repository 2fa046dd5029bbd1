"""A checkpoint as a folder that transformers loads, and such a folder as a checkpoint."""

import shutil
from dataclasses import asdict
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from llama_scale.checkpoint import folder as folders
from llama_scale.data.tokenizer import Tokenizer
from llama_scale.errors import InputError
from llama_scale.files import check_regular, read_json, write_json
from llama_scale.model.hf import (
    check_weights,
    from_hf,
    hf_config,
    model_config,
    to_hf,
    tokenizer_config,
    tokenizer_json,
)
from llama_scale.model.llama import EOS

PAD = 0  # the unknown id, which no text makes


def export_checkpoint(path: str | Path, out: str | Path) -> None:
    """Write a checkpoint or run as a folder that transformers loads; raise InputError if it cannot.

    The folder has config.json, model.safetensors, tokenizer.json and tokenizer_config.json, and the SentencePiece model
    that the tokenizer was made from. A text is the end-of-document id followed by its tokens; padding is on the left.
    """
    folder, out = folders.resolve(path), Path(out)
    _check_empty(out)
    model = folders.load_model(folder)
    weights = dict(model.state_dict())
    if model.config.tie_embeddings:
        del weights["head.weight"]
    config = hf_config(model.config) | {"dtype": "float32"}
    out.mkdir(parents=True, exist_ok=True)
    tensors = {name: value.contiguous() for name, value in to_hf(weights).items()}
    folders.write_tensors(out / "model.safetensors", tensors, {"format": "pt"})
    if (folder / "tokenizer.model").is_file():
        config |= {"bos_token_id": EOS, "eos_token_id": EOS, "pad_token_id": PAD}
        shutil.copyfile(folder / "tokenizer.model", out / "tokenizer.model")
        write_json(out / "tokenizer.json", tokenizer_json(folder / "tokenizer.model"))
        settings = tokenizer_config(folder / "tokenizer.model", model.config.context_length)
        write_json(out / "tokenizer_config.json", settings)
    write_json(out / "config.json", config)


def import_checkpoint(path: str | Path, out: str | Path) -> None:
    """Write a transformers LLaMA folder as a checkpoint of ours; raise InputError if it cannot be.

    A tokenizer.model beside the weights is taken along; the weights become float32. Rows of the embedding that the
    tokenizer has no id for are kept and never drawn.
    """
    path, out = Path(path), Path(out)
    _check_empty(out)
    config = model_config(read_json(path / "config.json"), path / "config.json")
    files = sorted(path.glob("*.safetensors"))
    if not files:
        raise InputError(f"{path}: no *.safetensors; other weight files are not read")
    weights: dict[str, Tensor] = {}
    for file in files:
        try:
            check_regular(file)
            weights |= load_file(file)
        except (SafetensorError, OSError) as error:
            raise InputError(f"{file}: cannot be read ({error})") from None
    if config.tie_embeddings:
        weights.pop("lm_head.weight", None)  # transformers takes the embedding
    renamed = from_hf(weights, check_weights(weights, config, path))
    meta = {"model": asdict(config), "size": "imported", "step": 0, "tokens": 0, "data": None}
    tokenizer = path / "tokenizer.model" if (path / "tokenizer.model").is_file() else None
    meta["tokenizer_fingerprint"] = None
    if tokenizer:
        pieces = Tokenizer(tokenizer)
        if pieces.vocab_size > config.vocab_size:
            found = f"{tokenizer.name} has {pieces.vocab_size} ids, the model only {config.vocab_size} rows"
            raise InputError(f"{path}: {found}; they are not of one model")
        meta["tokenizer_fingerprint"] = pieces.fingerprint
    folders.save_weights(out, {name: value.float() for name, value in renamed.items()}, meta, tokenizer)


def _check_empty(out: Path) -> None:
    if out.exists() and any(out.iterdir()):
        raise InputError(f"out: {out} is not empty; choose another folder or delete it")
