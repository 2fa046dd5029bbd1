"""Language models of other projects, the baselines, at our shape and with our weights."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llama_scale.config import ModelConfig
from llama_scale.errors import InputError
from llama_scale.model.hf import hf_config, to_hf
from llama_scale.model.llama import Llama

Loss = Callable[[Tensor], Tensor]  # tokens (B, T + 1) -> mean nats


def build_contender(
    name: str, config: ModelConfig, compiled: bool, device: str, draw_on_device: bool = False
) -> tuple[nn.Module, Loss]:
    """Return a model and its loss, the weights those that our seed 0 draws."""
    origin = device if draw_on_device else "cpu"
    llama = Llama.empty_model(config, origin).init_weights(0, origin)
    if name != "llama_scale":
        return BUILDERS[name](llama, compiled, device)
    llama.to(device).train()
    if compiled:
        llama.compile_parts()
    return llama, llama.loss


def transformers_llama(llama: Llama) -> Any:
    """Return transformers' LLaMA with our weights, on the same device and of the same type."""
    try:
        from transformers import LlamaConfig, LlamaForCausalLM
    except ImportError:
        raise InputError("peers: transformers is not installed; pip install -e '.[test]'") from None
    weight = llama.embedding.weight
    with weight.device:
        model = LlamaForCausalLM(LlamaConfig(**hf_config(llama.config)))
    model.load_state_dict(to_hf(llama.state_dict()))
    return model.to(weight.dtype).eval()


def build_transformers(llama: Llama, compiled: bool, device: str) -> tuple[nn.Module, Loss]:
    """Return transformers' LLaMA and its loss, cross-entropy of float32 logits.

    Its layers are compiled one by one (accelerate's regional compilation), and so is the loss:
    compiled as a whole, the model makes a mask before torch 2.14, which keeps it from the causal
    attention kernels.
    """
    model = transformers_llama(llama).to(device).train()

    def nats(logits: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten())  # (B T, V), (B T)

    if compiled:
        for layer in model.model.layers:
            layer.compile()
        nats = torch.compile(nats)

    def loss(tokens: Tensor) -> Tensor:
        return nats(model(tokens[:, :-1], use_cache=False).logits, tokens[:, 1:])

    return model, loss


def build_litgpt(llama: Llama, compiled: bool, device: str) -> tuple[nn.Module, Loss]:
    """Return litgpt's GPT, compiled as a whole as it does, and the loss that it pretrains with."""
    from litgpt.config import Config
    from litgpt.model import GPT
    from litgpt.utils import chunked_cross_entropy

    c = llama.config
    model = GPT(
        Config(
            name=c.__class__.__name__, block_size=c.context_length, vocab_size=c.vocab_size,
            padded_vocab_size=c.vocab_size, n_layer=c.n_layers, n_head=c.n_heads,
            n_query_groups=c.kv_heads, n_embd=c.d_model, head_size=c.head_dim,
            intermediate_size=c.d_ff, rotary_percentage=1.0, rope_base=int(c.rope_theta),
            parallel_residual=False, bias=False, norm_class_name="RMSNorm", norm_eps=c.norm_eps,
            mlp_class_name="LLaMAMLP",
        )
    )  # fmt: skip
    if c.tie_embeddings:
        model.lm_head.weight = model.transformer.wte.weight
    model.load_state_dict(to_litgpt(llama.state_dict(), c.n_layers))
    model.to(device).train()
    if compiled:
        model.compile()

    def loss(tokens: Tensor) -> Tensor:
        return chunked_cross_entropy(model(tokens[:, :-1]), tokens[:, 1:])

    return model, loss


def to_litgpt(state: dict[str, Tensor], n_layers: int) -> dict[str, Tensor]:
    """Return our weights under litgpt's names.

    Queries, keys and values are one matrix there, one below the other: rows (D + 2 K, D) for K
    rows of keys and as many of values.
    """
    names = {
        "embedding.weight": "transformer.wte.weight",
        "norm.weight": "transformer.ln_f.weight",
        "head.weight": "lm_head.weight",
    }
    renamed = {its_name: state[name] for name, its_name in names.items()}
    parts = {
        "attention_norm": "norm_1", "attention.o": "attn.proj", "ffn_norm": "norm_2",
        "ffn.gate": "mlp.fc_1", "ffn.up": "mlp.fc_2", "ffn.down": "mlp.proj",
    }  # fmt: skip
    for layer in range(n_layers):
        block, its_block = f"blocks.{layer}", f"transformer.h.{layer}"
        for name, its_name in parts.items():
            renamed[f"{its_block}.{its_name}.weight"] = state[f"{block}.{name}.weight"]
        qkv = [state[f"{block}.attention.{name}.weight"] for name in "qkv"]
        renamed[f"{its_block}.attn.qkv.weight"] = torch.cat(qkv)
    return renamed


BUILDERS = {"transformers": build_transformers, "litgpt": build_litgpt}
