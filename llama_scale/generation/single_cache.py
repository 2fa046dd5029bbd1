"""Keys and values where each prompt has one sequence: its prompt's and its own side by side, for one attention."""

import torch
import torch.nn.functional as F
from torch import Tensor

from llama_scale.config import ModelConfig
from llama_scale.generation.kv_cache import KVCache

ROOM = 4  # a full cache grows by a part of what it holds, one in so many


class SingleCache(KVCache):
    """A ``KVCache`` of a CPU whose sequence b is the only one of prompt b.

    The scores of prompt and own tokens need not be made apart then: one call does what takes a dozen otherwise, of
    which a step of a small model has little else.

    Attributes:
        kv: (2, L, B, G, C, K) keys and values; of S slots each for the prompts, then one for each token generated.
        visible: (B, 1, 1, C) bool, which slots are not padding after a prompt; None where none is.
    """

    def __init__(self, config: ModelConfig, lengths: Tensor, growth: int) -> None:
        super().__init__(config, lengths, growth)
        self.started, self.longest = False, 0

    def start_sequences(self, prompt_of: Tensor) -> None:
        """Let sequence b continue prompt b; ``prompt_of`` (B,) says so."""
        self.prompt_of, self.started = prompt_of, True
        keys, _ = self.prompt_kv[0]
        batch, heads, self.longest, width = keys.shape
        self.kv = keys.new_zeros(2, self.config.n_layers, batch, heads, self.longest + self.growth, width)
        for layer, pair in enumerate(self.prompt_kv):
            for whole, part in zip(self.kv[:, layer], pair, strict=True):
                whole[:, :, : self.longest] = part
        self.prompt_kv = []
        self._show()

    def keep_sequences(self, sequences: Tensor) -> None:
        """Keep the sequences of these numbers only."""
        self.kv, self.lengths = self.kv[:, :, sequences], self.lengths[sequences]
        self.prompt_of = torch.arange(len(sequences), device=sequences.device)
        self._show()

    def _show(self) -> None:
        padded = bool((self.lengths < self.longest).any())
        slots = torch.arange(self.kv.shape[4], device=self.lengths.device)
        holds = (slots < self.lengths[:, None]) | (slots >= self.longest)  # (B, C)
        self.visible = holds[:, None, None] if padded else None

    def positions(self, length: int) -> Tensor:
        """Return the positions of the tokens of the next pass, (1, T) or (B, 1)."""
        if not self.started:
            return torch.arange(length, device=self.lengths.device)[None]
        return (self.lengths + self.n_generated).clamp(max=self.config.context_length - 1)[:, None]

    def grow_if_full(self) -> bool:
        """Make room for the next token of each sequence; say whether the cache had to grow."""
        used = self.longest + self.n_generated
        if used < self.kv.shape[4]:
            return False
        self.kv = F.pad(self.kv, (0, 0, 0, max(self.growth, used // ROOM)))
        self._show()
        return True

    def advance(self) -> None:
        """Go on to the next token of each sequence."""
        self.n_generated += 1

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Return the attention (B, H, T, K) of ``q`` to all before it; keep ``k`` and ``v``."""
        if not self.started:
            return super().attend(layer, q, k, v)
        slot = self.longest + self.n_generated
        keys, values = self.kv[:, layer, :, :, : slot + 1]  # (B, G, C, K) each
        keys[:, :, slot], values[:, :, slot] = k[:, :, 0], v[:, :, 0]
        visible = None if self.visible is None else self.visible[..., : slot + 1]
        shared = q.squeeze(2).unflatten(1, (k.shape[1], -1))  # (B, G, H / G, K), so that keys are read once for them
        y = F.scaled_dot_product_attention(shared, keys, values, attn_mask=visible)
        return y.flatten(1, 2).unsqueeze(2)  # (B, H, 1, K)
