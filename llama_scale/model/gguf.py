"""GGUF files: read once by transformers and gguf, their weights kept as a transformers folder."""

import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from llama_scale.errors import InputError
from llama_scale.files import open_file, read_json, sha256, write_json
from llama_scale.text import first_line

SOURCE = "source.json"  # written last: which file the folder was made from
MAGIC = b"GGUF"
SHARD = 4 << 30  # bytes of one weight file


def convert_gguf(path: Path, bases: Path) -> Path:
    """Return the folder in ``bases`` with the weights of a GGUF file in float32, written if it is not there yet.

    Raises InputError if the file cannot be read.
    """
    with open_file(path) as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise InputError(f"{path}: not a GGUF file; name one, or a transformers folder")
    digest = sha256(path)
    folder = bases / f"{path.stem}-{digest[:12]}"
    if (folder / SOURCE).is_file() and read_json(folder / SOURCE).get("sha256") == digest:
        return folder
    import gguf  # noqa: F401  # named where it is missing: transformers would say so in a paragraph
    import transformers

    print(f"{path}: reading its weights into {folder}, once", flush=True)
    load = {"gguf_file": path.name, "local_files_only": True}
    try:
        model = transformers.AutoModelForCausalLM.from_pretrained(path.parent, dtype=torch.float32, **load)
        tokenizer = transformers.AutoTokenizer.from_pretrained(path.parent, **load)
    except ImportError:
        raise
    except Exception as error:  # of many kinds, by what is wrong with the file
        raise InputError(f"{path}: transformers cannot read it ({first_line(error)})") from None
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")  # another process may be at it too
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    config = model.config.to_dict() | {"dtype": "float32", "architectures": [type(model).__name__]}
    config.pop("quantization_config", None)
    try:
        tokenizer.save_pretrained(temporary)
        write_weights(temporary, dict(model.state_dict()))
        write_json(temporary / "config.json", config | {"eos_token_id": end_of_document(config, tokenizer)})
        written = {file.name: sha256(file) for file in sorted(temporary.iterdir())}
        write_json(temporary / SOURCE, {"file": path.name, "sha256": digest, "written": written}, sealed=True)
    except BaseException:  # a full disk, which is not to stay full of it
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    if (folder / SOURCE).is_file():
        shutil.rmtree(temporary)
    else:
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
    return folder


def write_weights(folder: Path, weights: dict[str, Tensor]) -> None:
    """Write the weights, tied ones once, into files of at most SHARD bytes each where tensors allow."""
    parts: list[dict[str, Tensor]] = [{}]
    seen: set[tuple[int, torch.Size]] = set()
    size = 0
    for name, value in weights.items():
        if (key := (value.data_ptr(), value.shape)) in seen:
            continue
        seen.add(key)
        if parts[-1] and size + value.nbytes > SHARD:
            parts.append({})
            size = 0
        parts[-1][name] = value.contiguous()
        size += value.nbytes
    names = [f"model-{n:05d}-of-{len(parts):05d}.safetensors" for n in range(1, len(parts) + 1)]
    names = ["model.safetensors"] if len(parts) == 1 else names
    for name, part in zip(names, parts, strict=True):
        save_file(part, folder / name, {"format": "pt"})
    if len(parts) > 1:
        where = {tensor: name for name, part in zip(names, parts, strict=True) for tensor in part}
        write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": where})


def end_of_document(config: dict[str, Any], tokenizer: Any) -> int | None:
    """Return the id that ends a document: what the file says of its model, else of its tokenizer."""
    value = config.get("eos_token_id")
    return value if value is not None else tokenizer.eos_token_id
