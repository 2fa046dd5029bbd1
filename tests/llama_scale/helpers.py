"""What tests of several folders share."""

from llama_scale.config import ModelConfig

SHAPES = {
    "multi-head": {},
    "grouped": {"n_kv_heads": 2},
    "untied": {"tie_embeddings": False},
    "grouped, untied, other theta and eps": {
        "n_kv_heads": 1,
        "tie_embeddings": False,
        "rope_theta": 500_000.0,
        "norm_eps": 1e-6,
    },
}


def small(**fields) -> ModelConfig:
    shape = {"d_model": 64, "n_layers": 3, "n_heads": 4, "d_ff": 160, "vocab_size": 101}
    return ModelConfig(**(shape | {"context_length": 96} | fields))


def splitmix64(seed: int, count: int) -> int:
    """Number ``count`` (from 1) of the published generator, in Python's integers."""
    mask = (1 << 64) - 1
    x = (seed + count * 0x9E3779B97F4A7C15) & mask
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
    return x ^ (x >> 31)
