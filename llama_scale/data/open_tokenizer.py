"""The tokenizer that lies beside a model's weights."""

from pathlib import Path

from llama_scale.data.byte_level import ByteLevelTokenizer
from llama_scale.data.tokenizer import Tokenizer
from llama_scale.errors import InputError

AnyTokenizer = Tokenizer | ByteLevelTokenizer
TOKENIZER_FILES = ("tokenizer.model", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja",
                   "generation_config.json")  # fmt: skip


def open_tokenizer(folder: str | Path) -> AnyTokenizer:
    """Open the tokenizer in a checkpoint or a transformers folder; raise InputError if there is none of use.

    That is tokenizer.model where it is one of this project's, else tokenizer.json.
    """
    folder = Path(folder)
    model, other = folder / "tokenizer.model", folder / "tokenizer.json"
    if model.is_file() or not other.is_file():
        try:
            return Tokenizer(model) if model.is_file() else ByteLevelTokenizer(folder)
        except InputError:
            if not other.is_file():
                raise
    return ByteLevelTokenizer(folder)


def tokenizer_files(folder: str | Path) -> list[Path]:
    """Return the files in a folder that its tokenizer is opened from."""
    return [path for name in TOKENIZER_FILES if (path := Path(folder) / name).is_file()]
