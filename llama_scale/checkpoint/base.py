"""The model that a fine-tuning begins with: a run of ours, a transformers folder, a hub name or a GGUF file."""

import hashlib
import re
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from llama_scale.checkpoint import folder as folders
from llama_scale.config import ModelConfig
from llama_scale.data.open_tokenizer import AnyTokenizer, open_tokenizer, tokenizer_files
from llama_scale.errors import InputError
from llama_scale.files import check_regular, read_fields, read_json, sha256
from llama_scale.model.foreign import ForeignModel
from llama_scale.model.gguf import SOURCE
from llama_scale.model.hf import check_weights, from_hf, model_config
from llama_scale.model.llama import Llama
from llama_scale.text import first_line

HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
SAFE, PICKLED = "*.safetensors", "pytorch_model*.bin"  # the second, as CodeGen has, where there is none of the first
HUB_FILES = ("*.json", "tokenizer.model")
Kind = Literal["run", "llama", "transformers"]


@dataclass(frozen=True)
class Base:
    """A model to tune with its tokenizer.

    Attributes:
        name: As it was asked for.
        kind: run is a run of this project, llama a transformers folder that ``Llama`` reads, transformers another one.
        folder: Where its files are.
        weights_sha256: A hash that stands for its weights.
        from_hub: Whether ``folder`` is only this machine's copy of what the name says.
    """

    name: str
    kind: Kind
    folder: Path
    weights_sha256: str
    from_hub: bool = False

    @property
    def meta(self) -> dict[str, Any]:
        """What a checkpoint says of its base: by ``name`` it is found again."""
        name = self.name if self.from_hub else str(self.folder)
        about = {"name": name, "kind": self.kind, "weights_sha256": self.weights_sha256}
        return about if self.kind == "run" else about | {"config_sha256": sha256(self.folder / "config.json")}

    def tokenizer(self) -> AnyTokenizer:
        """Open the tokenizer; raise InputError if there is none."""
        return open_tokenizer(self.folder)

    def files(self) -> list[Path]:
        """Return what a checkpoint of it copies: the tokenizer's files, and the configuration of a foreign model."""
        config = self.folder / "config.json"
        return [*tokenizer_files(self.folder), *([config] if self.kind != "run" and config.is_file() else [])]

    def load(self, weights: bool = True) -> Llama | ForeignModel:
        """Return the model in float32, without values on the meta device unless ``weights``."""
        if self.kind == "transformers":
            return _load_foreign(self.folder, weights)
        if self.kind == "llama":
            return _load_llama(self.folder, weights)
        config = ModelConfig(**folders.load_meta(self.folder)["model"])
        if not weights:
            with torch.device("meta"):
                return Llama(config)
        return folders.load_model(self.folder)


def find_base(name: str, bases: str | Path = "bases") -> Base:
    """Find the base that a person means by ``name``; a GGUF file is first written as a folder in ``bases``.

    Raises InputError if there is none, or it cannot be read.
    """
    path, from_hub = Path(name), False
    if path.is_file() and path.suffix == ".gguf":
        from llama_scale.model.gguf import convert_gguf

        path = convert_gguf(path, Path(bases))
    elif path.is_file():
        raise InputError(f"base: {name} is a file and no .gguf; name a run, a transformers folder or a GGUF file")
    elif not path.exists():
        _check_hub_name(name)
        path, from_hub = _from_hub(name), True
    if (path / "manifest.json").is_file() or (path / "checkpoints").is_dir():
        folder = folders.resolve(path)
        meta = folders.load_meta(folder)
        if "adapter" in meta:
            raise InputError(
                f"base: {name} is an adapter; merge it first: launch/export.py {name} --to hf --out FOLDER"
            )
        kind: Kind = meta.get("base", {}).get("kind", "run") if (folder / "config.json").is_file() else "run"
        return Base(name, "run" if kind == "llama" else kind, folder, folders.weights_sha256(folder))
    if not (path / "config.json").is_file():
        raise InputError(f"base: {name} has neither checkpoints nor a config.json; name a run or a transformers folder")
    files = weight_files(path)
    kind = "llama" if _is_llama(path) and files[0].suffix == ".safetensors" else "transformers"
    digest = files_sha256(files)
    _check_converted(path, files, digest)
    return Base(name, kind, path, digest, from_hub)


def _check_converted(folder: Path, weights: Sequence[Path], digest: str) -> None:
    """Raise InputError if a folder that was made of a GGUF file has other files than were written then.

    ``digest`` is that of the ``weights`` as they are.
    """
    source = read_fields(folder / SOURCE) if (folder / SOURCE).is_file() else {}
    if not isinstance(written := source.get("written"), dict):
        return
    large = {file.name for file in weights}
    small = sorted(written.keys() - large)
    changed = [n for n in small if not (folder / n).is_file() or sha256(folder / n) != written[n]]
    if large - written.keys() or _joined_sha256({name: written[name] for name in sorted(large)}) != digest:
        changed += sorted(large)[:1]
    if changed:
        problem = f"has changed since it was read from {source.get('file')}"
        raise InputError(f"{folder / changed[0]}: {problem}; delete {folder}, and it is read again")


def check_base(name: str) -> None:
    """Raise InputError where there is no base of this name; no GGUF file is converted and no weights are fetched."""
    path = Path(name)
    if not path.exists():
        _check_hub_name(name)
        _fetch(name, ("config.json",))
    elif path.suffix != ".gguf":
        find_base(name).tokenizer()


def _check_hub_name(name: str) -> None:
    if Path(name).suffix == ".gguf" or not HUB_NAME.fullmatch(name) or name.startswith((".", "runs/")):
        raise InputError(f"base: no {name}; name a run, a transformers folder, a GGUF file or a model of the hub")


def weight_files(folder: Path) -> list[Path]:
    """Return the files of weights in a transformers folder; raise InputError if there are none."""
    found = sorted(folder.glob(SAFE)) or sorted(folder.glob(PICKLED))
    if not found:
        raise InputError(f"{folder}: no {SAFE} and no {PICKLED}; other weight files are not read")
    return found


def files_sha256(files: Sequence[Path]) -> str:
    """Return a hash over weight files; raise InputError if one is not of tensors alone, by its header or its pickle."""
    for file in files:
        if file.suffix != ".safetensors":
            _check_pickle(file)
            continue
        try:
            check_regular(file)
            with safe_open(file, "pt"):  # whose length the header tells
                pass
        except (SafetensorError, OSError) as error:
            raise InputError(f"{file}: not a safetensors file ({error})") from None
    return _joined_sha256({file.name: sha256(file) for file in files})


def _joined_sha256(hashes: dict[str, str]) -> str:
    """Return a hash over files by their names and hashes; of one file that of the file."""
    if len(hashes) == 1:
        return next(iter(hashes.values()))
    return hashlib.sha256("".join(f"{name} {digest}\n" for name, digest in hashes.items()).encode()).hexdigest()


def _check_pickle(file: Path) -> None:
    """Raise InputError where a pickled file of weights is damaged or would run code; tensors are mapped, not read."""
    try:
        with file.open("rb") as start:
            mapped = start.read(2) == b"PK"  # torch.save's archive, from torch 1.6 on
        torch.load(file, map_location="cpu", weights_only=True, mmap=mapped)
    except (OSError, RuntimeError, EOFError, UnpicklingError, KeyError, ValueError):
        raise InputError(
            f"{file}: damaged, or it holds more than tensors, which could run code; save the model as safetensors"
        ) from None


def _is_llama(folder: Path) -> bool:
    """Whether ``Llama`` computes what the folder's model does."""
    try:
        model_config(read_json(folder / "config.json"), folder / "config.json")
    except InputError:
        return False
    return True


def _from_hub(name: str) -> Path:
    """Fetch a model of the Hugging Face hub, or find it in the cache; return its folder."""
    folder = _fetch(name, (*HUB_FILES, SAFE))
    return folder if any(folder.glob(SAFE)) else _fetch(name, (*HUB_FILES, PICKLED))


def _fetch(name: str, files: Sequence[str]) -> Path:
    """Fetch files of a model of the hub by their patterns; return its folder."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return Path(snapshot_download(name, allow_patterns=list(files)))
    except (OSError, HfHubHTTPError, ValueError) as error:
        raise InputError(
            f"base: no folder {name}, and the hub does not give it ({first_line(error)[:200]}); name a run, a "
            "transformers folder or a GGUF file"
        ) from None


def _load_llama(folder: Path, weights: bool) -> Llama:
    config = model_config(read_json(folder / "config.json"), folder / "config.json")
    if not weights:
        with torch.device("meta"):
            return Llama(config)
    model = Llama.empty_model(config)
    model.load_state_dict(read_llama_weights(folder, config))
    return model


def read_llama_weights(folder: Path, config: ModelConfig) -> dict[str, Tensor]:
    """Return the weights of a transformers LLaMA folder under our names, in float32."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise InputError(f"{folder}: no *.safetensors; other weight files are not read")
    weights: dict[str, Tensor] = {}
    for file in files:
        try:
            check_regular(file)
            weights |= load_file(file)
        except (SafetensorError, OSError) as error:
            raise InputError(f"{file}: cannot be read ({error})") from None
    if config.tie_embeddings:
        weights.pop("lm_head.weight", None)  # transformers takes the embedding
    renamed = from_hf(weights, check_weights(weights, config, folder))
    return {name: value.float() for name, value in renamed.items()}


def _load_foreign(folder: Path, weights: bool) -> ForeignModel:
    import transformers

    load = {"trust_remote_code": False, "local_files_only": True}
    try:
        with nullcontext() if weights else torch.device("meta"):
            if weights:
                safe = weight_files(folder)[0].suffix == ".safetensors"
                load |= {"use_safetensors": safe, "dtype": torch.float32}  # pickles are read as tensors alone
                inner = transformers.AutoModelForCausalLM.from_pretrained(folder, **load)
            else:
                config = transformers.AutoConfig.from_pretrained(folder, **load)
                inner = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    except (InputError, ImportError, MemoryError):
        raise
    except Exception as error:  # what a damaged file raises there has many types
        raise InputError(f"{folder}: transformers cannot load it ({first_line(error)[:200]})") from None
    model = ForeignModel(inner)
    return model.check() if weights else model
