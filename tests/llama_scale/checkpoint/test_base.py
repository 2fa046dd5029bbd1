"""The base of a fine-tuning run, where it cannot be one."""

import pytest

from llama_scale.checkpoint.base import find_base
from llama_scale.errors import InputError


def huge(path):
    """Make a file of 4 TiB that takes no room: to read it whole takes hours."""
    with open(path, "wb") as file:
        file.truncate(1 << 42)
    return path


def test_a_gguf_file_is_looked_at_before_it_is_read(tmp_path):
    with pytest.raises(InputError, match="not a GGUF file"):
        find_base(str(huge(tmp_path / "a.gguf")), tmp_path / "bases")


def test_weights_are_looked_at_before_they_are_read(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    huge(tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=r"model\.safetensors: not a safetensors file"):
        find_base(str(tmp_path))
