"""Sampling from a model: next-token choice, the key-value cache, batched decoding."""
