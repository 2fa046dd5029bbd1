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
        kv: Of each layer keys and values (2, B, G, C, K): S slots for the prompts, then one for each token generated.
        visible: (B, 1, 1, C) bool, which slots are not padding after a prompt; None where none is.
    """

    def __init__(self, config: ModelConfig, lengths: Tensor, growth: int) -> None:
        super().__init__(config, lengths, growth)
        self.started, self.longest = False, 0

    def start_sequences(self, prompt_of: Tensor) -> None:
        """Let sequence b continue prompt b; ``prompt_of`` (B,) says so."""
        self.prompt_of, self.started = prompt_of, True
        self.longest = self.prompt_kv[0][0].shape[2]
        self.kv: list[Tensor] = []
        self.prompt_kv.reverse()
        while self.prompt_kv:  # a layer at a time, so that there is no second copy of all
            self.kv.append(F.pad(torch.stack(self.prompt_kv.pop()), (0, 0, 0, self.growth)))
        self._show()

    def keep_sequences(self, sequences: Tensor) -> None:
        """Keep the sequences of these numbers only."""
        self.lengths = self.lengths[sequences]
        for layer, pair in enumerate(self.kv):
            self.kv[layer] = pair[:, sequences]
        self.prompt_of = torch.arange(len(sequences), device=sequences.device)
        self._show()

    def _show(self) -> None:
        padded = bool((self.lengths < self.longest).any())
        slots = torch.arange(self.kv[0].shape[3], device=self.lengths.device)
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
        if used < self.kv[0].shape[3]:
            return False
        for layer, pair in enumerate(self.kv):
            self.kv[layer] = F.pad(pair, (0, 0, 0, max(self.growth, used // ROOM)))
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
        keys, values = self.kv[layer][:, :, :, : slot + 1]  # (B, G, C, K) each
        keys[:, :, slot], values[:, :, slot] = k[:, :, 0], v[:, :, 0]
        visible = None if self.visible is None else self.visible[..., : slot + 1]
        shared = q.squeeze(2).unflatten(1, (k.shape[1], -1))  # (B, G, H / G, K), so that keys are read once for them
        y = F.scaled_dot_product_attention(shared, keys, values, attn_mask=visible)
        return y.flatten(1, 2).unsqueeze(2)  # (B, H, 1, K)
