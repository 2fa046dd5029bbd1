"""llama_scale: what does scale buy a language model of Python code?

Importing it is cheap: the names below bring in torch when they are first used.
"""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from llama_scale.config import ModelConfig
    from llama_scale.data.byte_level import ByteLevelTokenizer
    from llama_scale.data.tokenizer import Tokenizer
    from llama_scale.generation.config import SamplingConfig
    from llama_scale.generation.generate import generate, stream
    from llama_scale.model.llama import Llama

__version__ = "0.1.0"
__all__ = ["Llama", "ModelConfig", "SamplingConfig", "Tokenizer", "generate", "load", "stream"]

LAZY = {
    "Llama": "llama_scale.model.llama",
    "ModelConfig": "llama_scale.config",
    "SamplingConfig": "llama_scale.generation.config",
    "Tokenizer": "llama_scale.data.tokenizer",
    "generate": "llama_scale.generation.generate",
    "stream": "llama_scale.generation.generate",
}


def load(
    path: str | Path, device: Literal["auto", "cpu", "cuda"] = "auto"
) -> tuple["Llama", "Tokenizer | ByteLevelTokenizer"]:
    """Load a trained or tuned model and its tokenizer, ready to ``generate``.

    ``path`` is a run folder, for its newest checkpoint, or a checkpoint folder; the device auto is the GPU if there is
    one. An adapter is merged into its base. Raises InputError if there is no checkpoint, it is damaged, its base is
    missing or another one, or there is no such device.
    """
    from llama_scale.checkpoint.folder import resolve
    from llama_scale.checkpoint.opened import load_model, load_tokenizer
    from llama_scale.device import pick_device

    checkpoint = resolve(path)
    return load_model(checkpoint, pick_device(device)), load_tokenizer(checkpoint)


def __getattr__(name: str) -> Any:
    """Import one of the names in ``LAZY``, and keep it here."""
    if name not in LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *LAZY})
