"""Weights stored column by column give what they gave."""

import pytest
import torch

from llama_scale.generation.weight_layout import store_by_columns
from llama_scale.model.llama import Llama
from tests.llama_scale.helpers import small


@torch.no_grad()
@pytest.mark.parametrize("tied", [False, True])
def test_values_stay_and_columns_are_side_by_side(tied):
    model = Llama(small(tie_embeddings=tied)).init_weights(1).eval()
    tokens = torch.randint(0, model.config.vocab_size, (2, 9))
    before, weights = model(tokens), {name: value.clone() for name, value in model.state_dict().items()}
    store_by_columns(model)
    torch.testing.assert_close(model(tokens), before, atol=1e-5, rtol=0)
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert model.blocks[0].ffn.up.weight.t().is_contiguous()
    assert model.embedding.weight.is_contiguous() and model.head.weight.t().is_contiguous() != tied
    assert (model.head.weight is model.embedding.weight) == tied


def test_bfloat16_is_left_alone():
    model = Llama(small()).init_weights(1).bfloat16()
    assert store_by_columns(model).blocks[0].ffn.up.weight.is_contiguous()
