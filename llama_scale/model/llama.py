"""LLaMA in one file (Touvron et al. 2023, arXiv 2302.13971).

Pre-norm RMSNorm (Zhang and Sennrich 2019), rotary positions (Su et al. 2021) in the half-split layout, SwiGLU (Shazeer
2020), grouped-query attention (Ainslie et al. 2023), no biases. Shapes: B batch, T sequence, S cached and new
positions, D model width, H query heads, G key and value heads, K head dimension, F feed-forward width, V vocabulary.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from llama_scale.config import ModelConfig
from llama_scale.model.loss import linear_cross_entropy, nll_and_grad, nll_and_grad_of_copy

if TYPE_CHECKING:
    from llama_scale.generation.kv_cache import KVCache

EOS = 2  # the id that ends a document
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]  # queries, keys and values -> what they attend to, (B, H, T, K)


def rope_table(config: ModelConfig, device: torch.device | None = None) -> Tensor:
    """Return the cosines and sines of the rotary angles, (2, context_length, K) in float32."""
    half = torch.arange(0, config.head_dim, 2, device=device, dtype=torch.float32)  # (K/2,)
    frequency = config.rope_theta ** (-half / config.head_dim)
    position = torch.arange(config.context_length, device=device, dtype=torch.float32)
    angle = torch.outer(position, frequency).repeat(1, 2)  # (context_length, K)
    return torch.stack([angle.cos(), angle.sin()])


def document_mask(tokens: Tensor) -> Tensor:
    """Return who sees whom, (B, 1, T, T): the past within one's own document of ``tokens`` (B, T).

    The end of a document opens the next one, as it opens a prompt in generation: of tokens
    [5, EOS, 7, 8] the first is in document 0 and the others in document 1. Positions go on
    counting: the rotary embedding acts through differences alone.
    """
    length = tokens.shape[1]
    document = (tokens == EOS).cumsum(dim=1)  # (B, T)
    same = document[:, :, None] == document[:, None, :]  # (B, T, T)
    causal = torch.ones(length, length, dtype=torch.bool, device=tokens.device).tril()
    return (same & causal).unsqueeze(1)


def apply_rope(x: Tensor, rope: Tensor) -> Tensor:
    """Rotate pairs (i, i + K/2) of ``x`` (B, H, T, K) by the angles in ``rope`` (2, T, K).

    With K = 4 the pairs are (x0, x2) and (x1, x3), and a pair (a, b) becomes (a cos - b sin,
    b cos + a sin): ``x`` times the cosines, plus (-x2, -x3, x0, x1) times the sines.
    """
    cos, sin = rope.to(x.dtype)  # (T, K) each, or (B, 1, T, K) with one position for each row
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin


class Attention(nn.Module):
    """Causal self-attention with rotary positions and grouped queries."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        kv_dim = config.kv_heads * config.head_dim
        self.q = nn.Linear(config.d_model, config.d_model, bias=False)
        self.k = nn.Linear(config.d_model, kv_dim, bias=False)
        self.v = nn.Linear(config.d_model, kv_dim, bias=False)
        self.o = nn.Linear(config.d_model, config.d_model, bias=False)
        self.grouped = config.kv_heads != config.n_heads

    def forward(self, x: Tensor, rope: Tensor, mask: Tensor | None = None, attend: Attend | None = None) -> Tensor:
        q, k, v = (
            project(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)  # (B, H or G, T, K)
            for project in (self.q, self.k, self.v)
        )
        q, k = apply_rope(q, rope), apply_rope(k, rope)
        if attend:
            y = attend(q, k, v)  # (B, H, T, K)
        else:
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=self.grouped)
        return self.o(y.transpose(1, 2).flatten(-2))  # (B, T, D)


class FeedForward(nn.Module):
    """SwiGLU: down(silu(gate(x)) * up(x))."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate = nn.Linear(config.d_model, config.d_ff, bias=False)
        self.up = nn.Linear(config.d_model, config.d_ff, bias=False)
        self.down = nn.Linear(config.d_ff, config.d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))  # (B, T, F) -> (B, T, D)


class Block(nn.Module):
    """Attention and feed-forward, each on a normalized residual.

    With ``recompute`` set, only the block's input is kept for the backward pass (Chen et al. 2016); ``random`` says
    that the same random numbers are to be drawn again then.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(config.d_model, eps=config.norm_eps)
        self.attention = Attention(config)
        self.ffn_norm = nn.RMSNorm(config.d_model, eps=config.norm_eps)
        self.ffn = FeedForward(config)
        self.recompute = self.random = False

    def forward(self, x: Tensor, rope: Tensor, mask: Tensor | None = None, attend: Attend | None = None) -> Tensor:
        if self.recompute and torch.is_grad_enabled():
            again = self.random
            return checkpoint(self._transform, x, rope, mask, use_reentrant=False, preserve_rng_state=again)
        return self._transform(x, rope, mask, attend)

    def _transform(self, x: Tensor, rope: Tensor, mask: Tensor | None = None, attend: Attend | None = None) -> Tensor:
        x = x + self.attention(self.attention_norm(x), rope, mask, attend)  # (B, T, D)
        return x + self.ffn(self.ffn_norm(x))


class Llama(nn.Module):
    """A LLaMA language model."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.init_std = config.init_std
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.norm = nn.RMSNorm(config.d_model, eps=config.norm_eps)
        self.head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        if config.tie_embeddings:
            self.head.weight = self.embedding.weight
        self.rope: Tensor
        self.register_buffer("rope", rope_table(config), persistent=False)
        self.nll_and_grad = nll_and_grad

    @property
    def tied(self) -> bool:
        """Whether embedding and head are one matrix."""
        return self.config.tie_embeddings

    def compile_parts(self, blocks: bool = True) -> None:
        """Compile the softmax of the loss and, if asked, each block, all with one piece of code.

        The code is for one shape each: validation, with another batch, has its own and leaves that of training alone.
        """
        for block in self.blocks if blocks else []:
            block.compile(dynamic=False)
        self.nll_and_grad = torch.compile(nll_and_grad_of_copy, dynamic=False)

    @classmethod
    def empty_model(cls, config: ModelConfig, device: str = "cpu") -> "Llama":
        """Return a model on ``device`` without values: torch's own, which the constructor draws, take too long."""
        with torch.device("meta"):
            model = cls(config)
        model.to_empty(device=device)
        if config.tie_embeddings:
            model.head.weight = model.embedding.weight
        model.rope = rope_table(config, torch.device(device))
        return model

    @torch.no_grad()
    def init_weights(self, seed: int, device: str = "cpu") -> "Llama":
        """Draw every matrix from N(0, init_std^2), by default 2 / (5 d); the residual outputs divided by sqrt(2 L).

        The values depend on the seed, the shape and the ``device`` that they are drawn on alone,
        not on where the model is or on the process's random state.
        """
        generator = torch.Generator(device).manual_seed(seed)
        for name, parameter in self.named_parameters():
            self.init_parameter(name, parameter, generator)
        return self

    @torch.no_grad()
    def init_parameter(self, name: str, parameter: Tensor, generator: torch.Generator) -> None:
        """Draw one parameter as ``init_weights`` does, which goes through them in order."""
        if parameter.dim() < 2:
            parameter.fill_(1.0)
            return
        is_residual_output = name.endswith(("attention.o.weight", "ffn.down.weight"))
        std = self.init_std / math.sqrt(2 * self.config.n_layers if is_residual_output else 1)
        values = torch.empty(parameter.shape, device=generator.device)
        parameter.copy_(values.normal_(0.0, std, generator=generator))

    def hidden(self, tokens: Tensor, cache: "KVCache | None" = None) -> Tensor:
        """Return the normalized last hidden state (B, T, D) of ``tokens`` (B, T), which follow those in the cache."""
        length = tokens.shape[1]
        x = self.embedding(tokens)  # (B, T, D)
        if cache is None:
            rope = self.rope[:, :length]  # (2, T, K)
            mask = document_mask(tokens) if self.config.document_mask else None
            for block in self.blocks:
                x = block(x, rope, mask)
        else:
            rope = self.rope[:, cache.positions(length)].unsqueeze(2)  # (2, 1 or B, 1, T, K)
            for layer, block in enumerate(self.blocks):
                x = block(x, rope, attend=partial(cache.attend, layer))
        return self.norm(x)

    def forward(self, tokens: Tensor, cache: "KVCache | None" = None) -> Tensor:
        """Return the logits (B, T, V) of the token after each position of ``tokens`` (B, T)."""
        return self.head(self.hidden(tokens, cache))

    def loss(self, tokens: Tensor) -> Tensor:
        """Return the mean cross-entropy in nats of ``tokens`` (B, T + 1), each after its past."""
        hidden = self.hidden(tokens[:, :-1]).flatten(0, 1)  # (B T, D)
        return linear_cross_entropy(hidden, self.head.weight, tokens[:, 1:].flatten(), self.nll_and_grad)
