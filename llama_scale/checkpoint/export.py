"""A checkpoint as a folder that transformers loads, and such a folder as a checkpoint."""

import shutil
from dataclasses import asdict
from pathlib import Path

from llama_scale.checkpoint import folder as folders
from llama_scale.checkpoint.base import read_llama_weights
from llama_scale.checkpoint.opened import load_model
from llama_scale.data.open_tokenizer import open_tokenizer, tokenizer_files
from llama_scale.errors import InputError
from llama_scale.files import read_json, write_json
from llama_scale.model.hf import hf_config, model_config, to_hf, tokenizer_json
from llama_scale.model.llama import EOS


def export_checkpoint(path: str | Path, out: str | Path) -> None:
    """Write a checkpoint or run, an adapter merged into its base, as a folder that transformers loads.

    Raises InputError if it cannot. The folder has config.json, model.safetensors, tokenizer.json and
    tokenizer_config.json, and the SentencePiece model that the tokenizer was made from, if it was. A prompt is the
    end-of-document id followed by its tokens.
    """
    folder, out = folders.resolve(path), Path(out)
    _check_empty(out)
    model = load_model(folder)
    weights = dict(model.state_dict())
    if model.config.tie_embeddings:
        del weights["head.weight"]
    config = hf_config(model.config) | {"dtype": "float32"}
    out.mkdir(parents=True, exist_ok=True)
    tensors = {name: value.contiguous() for name, value in to_hf(weights).items()}
    folders.write_tensors(out / "model.safetensors", tensors, {"format": "pt"})
    if (folder / "tokenizer.model").is_file():
        config |= {"bos_token_id": EOS, "eos_token_id": EOS}
        shutil.copyfile(folder / "tokenizer.model", out / "tokenizer.model")
        write_json(out / "tokenizer.json", tokenizer_json(folder / "tokenizer.model"))
        write_json(
            out / "tokenizer_config.json",
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "unk_token": "<unk>",
                "bos_token": "</s>",
                "eos_token": "</s>",
                "split_special_tokens": True,
                "clean_up_tokenization_spaces": False,
                "model_max_length": model.config.context_length,
            },
        )
    elif files := tokenizer_files(folder):
        config |= {"eos_token_id": open_tokenizer(folder).eos}
        for file in files:
            shutil.copyfile(file, out / file.name)
    write_json(out / "config.json", config)


def import_checkpoint(path: str | Path, out: str | Path) -> None:
    """Write a transformers LLaMA folder as a checkpoint of ours; raise InputError if it cannot be.

    The tokenizer beside the weights is taken along; the weights become float32.
    """
    path, out = Path(path), Path(out)
    _check_empty(out)
    config = model_config(read_json(path / "config.json"), path / "config.json")
    weights = read_llama_weights(path, config)
    meta = {"model": asdict(config), "size": "imported", "step": 0, "tokens": 0, "data": None}
    files = tokenizer_files(path)
    usable = {"tokenizer.model", "tokenizer.json"} & {file.name for file in files}
    meta["tokenizer_fingerprint"] = open_tokenizer(path).fingerprint if usable else None
    folders.save_weights(out, weights, meta, *(files if usable else []))


def _check_empty(out: Path) -> None:
    if out.exists() and any(out.iterdir()):
        raise InputError(f"out: {out} is not empty; choose another folder or delete it")
