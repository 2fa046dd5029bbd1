"""What the tests of launch/evaluate.py share."""

from dataclasses import asdict

from llama_scale.checkpoint import folder as checkpoint
from llama_scale.config import ModelConfig
from llama_scale.data.shards import read_manifest
from llama_scale.data.tokenizer import Tokenizer
from llama_scale.model.llama import Llama

QUICK = [
    "--humaneval.n_tasks=2",
    "--humaneval.gold_tasks=2",
    "--humaneval.sampling.max_new_tokens=8",
    "--perplexity.max_tokens=500",
    "--device=cpu",
    "--threads=1",
]


def save_step(run, step, data, trained_on=True, vocab_size=512):
    """Write a checkpoint of a tiny model whose weights differ from step to step; ``trained_on`` may be a path."""
    tokenizer = Tokenizer(data / "tokenizer.model")
    config = ModelConfig(d_model=32, n_layers=1, n_heads=2, d_ff=64, vocab_size=vocab_size, context_length=64)
    weights = {f"model.{k}": v for k, v in Llama(config).init_weights(step).state_dict().items()}
    state = {"state_dict": weights, "optimizer_states": [{"state": {}, "param_groups": []}]}
    meta = {
        "model": asdict(config), "step": step, "tokens": 64 * step,
        "data": (str(data) if trained_on is True else trained_on) or None,
        "data_fingerprint": read_manifest(data)["fingerprint"],
        "tokenizer_fingerprint": tokenizer.fingerprint,
    }  # fmt: skip
    folder = run / "checkpoints" / f"step-{step:08d}"
    checkpoint.save(folder, state, meta, data / "tokenizer.model")
