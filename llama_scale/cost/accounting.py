"""What a model costs: parameters and FLOPs, counted exactly and by stated conventions.

Three parameter counts are in use and the scaling exponent depends on which one is meant: ``total``, ``non_embedding``
(Kaplan et al. 2020, Hoffmann et al. 2022 in part) and ``matmul``, every weight that a token is multiplied with, the
output head included.
"""

from dataclasses import dataclass

from llama_scale.config import ModelConfig


@dataclass(frozen=True)
class Parameters:
    """Parameter counts of a model: all, without embedding and head, and in matrix products."""

    total: int
    non_embedding: int
    matmul: int


def count_parameters(config: ModelConfig) -> Parameters:
    """Count the parameters of ``config`` from its shape, without building the model."""
    d, kv_dim = config.d_model, config.kv_heads * config.head_dim
    block = 2 * d * d + 2 * d * kv_dim + 3 * d * config.d_ff
    embedding = config.vocab_size * d
    norms = (2 * config.n_layers + 1) * d
    non_embedding = config.n_layers * block + norms
    tables = embedding if config.tie_embeddings else 2 * embedding
    return Parameters(non_embedding + tables, non_embedding, matmul=config.n_layers * block + embedding)


def flops_per_token(config: ModelConfig, causal: bool = True) -> int:
    """Return training FLOPs (forward and backward) of one token at the full context length.

    Forward is two FLOPs for each matmul parameter plus 4 L d T of attention scores and values; ``causal`` counts the
    lower half of the score matrix alone (Megatron, llm.c), otherwise the full square (nanoGPT, torchtitan; Chowdhery et
    al. 2022, appendix B). Backward is twice the forward.
    """
    attention = 4 * config.n_layers * config.d_model * config.context_length
    forward = 2 * count_parameters(config).matmul + (attention // 2 if causal else attention)
    return 3 * forward
