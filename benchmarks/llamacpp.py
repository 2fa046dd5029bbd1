"""llama.cpp as a peer of our sampler: the same weights in a GGUF file, decoded in an environment of its own."""

import json
import subprocess
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.environment import peer_python
from llama_scale.config import ModelConfig
from llama_scale.errors import InputError
from llama_scale.generation.config import SamplingConfig
from llama_scale.model.llama import Llama

WORKER = Path(__file__).with_name("llamacpp_worker.py")
# Ours -> theirs, of a block and outside of it.
BLOCK_NAMES = {
    "attention_norm": "attn_norm", "attention.q": "attn_q", "attention.k": "attn_k", "attention.v": "attn_v",
    "attention.o": "attn_output", "ffn_norm": "ffn_norm", "ffn.gate": "ffn_gate", "ffn.up": "ffn_up",
    "ffn.down": "ffn_down",
}  # fmt: skip
NAMES = {"embedding": "token_embd", "norm": "output_norm", "head": "output"}


def gguf_tensors(model: Llama) -> dict[str, Tensor]:
    """Return the weights by their names in a GGUF file of the architecture llama.

    It rotates neighbors, (x0, x1), where we rotate (x0, xK/2): rows of queries and keys change places, of a head with
    rows 0 1 2 3 to 0 2 1 3.
    """
    weights, heads = model.state_dict(), {"q": model.config.n_heads, "k": model.config.kv_heads}
    tensors = {}
    for name, value in weights.items():
        module = name.removesuffix(".weight")
        if module.startswith("blocks."):
            _, layer, part = module.split(".", 2)
            if (kind := part.removeprefix("attention.")) in heads:
                pairs = value.unflatten(0, (heads[kind], 2, -1))  # (H, 2, K/2, D)
                value = pairs.transpose(1, 2).reshape(value.shape)
            tensors[f"blk.{layer}.{BLOCK_NAMES[part]}.weight"] = value
        elif not (module == "head" and model.tied):
            tensors[f"{NAMES[module]}.weight"] = value
    return tensors


def write_gguf(model: Llama, path: Path) -> None:
    """Write a model's weights, in their own precision and without a tokenizer, as llama.cpp reads them."""
    import gguf

    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config.context_length)
    writer.add_embedding_length(config.d_model)
    writer.add_block_count(config.n_layers)
    writer.add_feed_forward_length(config.d_ff)
    writer.add_head_count(config.n_heads)
    writer.add_head_count_kv(config.kv_heads)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("none")
    for name, value in gguf_tensors(model).items():
        if value.dtype == torch.bfloat16 and value.dim() > 1:
            bits = value.contiguous().view(torch.uint16).cpu().numpy().view(np.uint8)
            writer.add_tensor(name, bits, raw_dtype=gguf.GGMLQuantizationType.BF16)
        else:
            writer.add_tensor(name, value.float().contiguous().cpu().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


class LlamaCpp:
    """llama.cpp with our weights, in a process of its environment; it draws ``samples`` of each prompt, read once.

    ``shared``: the samples have one cache with the prompt in it once, else each has its own. Raises InputError where it
    does not start or cannot be built.
    """

    def __init__(
        self, file: Path, shape: ModelConfig, sampling: SamplingConfig, *,
        samples: int, length: int, eos: int, threads: int, precision: str, shared: bool,
    ) -> None:  # fmt: skip
        engine = {"length": min(length, shape.context_length), "threads": threads, "precision": precision}
        settings = {"samples": samples, "sampling": asdict(sampling), "eos": eos, "engine": engine | {"shared": shared}}
        command = [peer_python("llama_cpp"), str(WORKER), str(file), json.dumps(settings)]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
        self.version = self._answer()["version"]

    def _answer(self) -> Any:
        assert self.process.stdout is not None and self.process.stderr is not None
        if line := self.process.stdout.readline():
            return json.loads(line)
        words = self.process.stderr.read().strip().splitlines() or ["it ended"]
        raise InputError(f"peers: llamacpp: {words[-1]}")

    def ask(self, **request: Any) -> Any:
        """Return the answer to a request."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()
        for pipe in (self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()
