"""The transformers layout: what of it can be read."""

import pytest

from llama_scale.config import ModelConfig
from llama_scale.errors import InputError
from llama_scale.model.hf import hf_config, model_config


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"model_type": "qwen2"}, "model_type"),
        ({"attention_bias": True}, "attention_bias"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"rope_scaling": {"rope_type": "llama3"}, "rope_parameters": None}, "rope_type"),
        ({"head_dim": 7}, "head_dim"),
    ],
)
def test_what_the_model_lacks_is_named(tmp_path, change, word):
    fields = hf_config(ModelConfig(32, 2, 2, 64)) | change
    with pytest.raises(InputError, match=word):
        model_config(fields, tmp_path / "config.json")


def test_a_config_that_is_none_is_named(tmp_path):
    with pytest.raises(InputError, match=r"config\.json: .* found list"):
        model_config([], tmp_path / "config.json")
