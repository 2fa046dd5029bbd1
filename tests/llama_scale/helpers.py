"""What tests of several folders share."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from llama_scale.checkpoint.folder import save_weights
from llama_scale.config import ModelConfig
from llama_scale.data.tokenizer import Tokenizer
from llama_scale.model.llama import Llama

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


def write_model(folder: Path, data: Path, init_std: float | None = None, **fields) -> Path:
    """Write a run folder with a model for the tokenizer of ``data``, its weights drawn from seed 0."""
    tokenizer = data / "tokenizer.model"
    config = small(vocab_size=Tokenizer(tokenizer).vocab_size, **{"context_length": 128} | fields)
    meta = {"model": asdict(config), "size": "small", "step": 1, "tokens": 0, "data": str(data)}
    meta["tokenizer_fingerprint"] = Tokenizer(tokenizer).fingerprint
    model = Llama(config)
    model.init_std = init_std or config.init_std
    weights = dict(model.init_weights(0).state_dict())
    save_weights(folder / "checkpoints/step-00000001", weights, meta, tokenizer)
    return folder


def write_gpt2(folder: Path, twin: Path, **fields) -> Path:
    """Write a small random GPT-2 with the tokenizer of the exported model ``twin``."""
    transformers = pytest.importorskip("transformers")
    shape = {"n_layer": 2, "n_embd": 32, "n_head": 2, "vocab_size": 512, "n_positions": 128}
    ends = {"bos_token_id": 2, "eos_token_id": 2}
    torch.manual_seed(0)
    transformers.GPT2LMHeadModel(transformers.GPT2Config(**shape | ends | fields)).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(twin / name, folder / name)
    return folder


def write_pairs(path: Path, count: int = 20, first: int = 0, **fields) -> Path:
    """Write ``count`` pairs of different lengths; ``fields`` go over those of each."""
    rows = []
    for i in range(first, first + count):
        code = f"def f{i}(x):\n" + "".join(f"    x += {n}\n" for n in range(1 + i % 3)) + "    return x\n"
        row = {"id": f"pair-{i}", "prompt": f"Prompt: add up {i}\nCode:\n", "completion": code, "format": "seed"}
        rows.append(row | fields)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
