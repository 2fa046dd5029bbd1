"""A transformers model with the surface of ``Llama`` that training and scoring use."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from llama_scale.errors import InputError


@dataclass(frozen=True)
class ForeignShape:
    """What is known of the shape of a model from elsewhere."""

    vocab_size: int
    context_length: int
    d_model: int
    n_layers: int


class ForeignModel(nn.Module):
    """A causal language model of transformers, ``inner``, as hidden states and a head.

    Raises InputError where its logits are not its head's product with its last hidden states, as with a soft cap.
    """

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner
        config = inner.config.get_text_config()
        context = getattr(config, "max_position_embeddings", None) or 2_048
        width = inner.get_input_embeddings().weight.shape[1]
        self.config = ForeignShape(config.vocab_size, context, width, config.num_hidden_layers)

    @property
    def head(self) -> nn.Linear:
        """The output layer, (D -> V)."""
        return self.inner.get_output_embeddings()

    @property
    def embedding(self) -> nn.Embedding:
        """The token embedding (V, D)."""
        return self.inner.get_input_embeddings()

    @property
    def tied(self) -> bool:
        """Whether embedding and head are one matrix."""
        return self.head.weight is self.embedding.weight

    def hidden(self, tokens: Tensor) -> Tensor:
        """Return the last hidden state (B, T, D) of ``tokens`` (B, T), padded at their ends if at all."""
        return self.inner.base_model(input_ids=tokens, use_cache=False).last_hidden_state

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the logits (B, T, V) of ``tokens`` (B, T)."""
        return self.head(self.hidden(tokens))

    @torch.no_grad()
    def check(self) -> "ForeignModel":
        """Raise InputError unless the model's own logits are those of ``forward``; return it."""
        training = self.training
        self.eval()
        tokens = torch.arange(4, device=self.embedding.weight.device)[None]  # (1, 4)
        own = self.inner(input_ids=tokens, use_cache=False).logits
        if not torch.allclose(own, self(tokens), atol=1e-4, rtol=1e-4):
            kind = self.inner.config.model_type
            raise InputError(f"base: a {kind} changes the logits after its head, which training here does not")
        return self.train(training)
