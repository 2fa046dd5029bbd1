"""Keys and values in generation: each prompt's once, and what every completion added of its own.

Shapes as in llama.py; P prompts, R = H / G query heads on one key head, N most lines of a prompt,
M slots for the tokens generated.
"""

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from llama_scale.config import ModelConfig

ROOM = 32  # tokens that a full cache grows by, unless it is told otherwise


class KVCache:
    """The keys and values of P prompts and of the B lines that continue them.

    The first pass through the model takes the prompts, right-padded (P, S), and keeps their keys
    and values; ``fork`` then says which prompt each line continues, and every further pass takes
    one token of each line (B, 1). All lines of a prompt attend to the one copy of it in one matrix
    product, so that memory moved does not grow with the samples drawn of it.
    """

    def __init__(self, config: "ModelConfig", lengths: Tensor, room: int = ROOM) -> None:
        """``lengths`` (P,) counts the tokens of each prompt; a full cache grows by ``room``."""
        self.config, self.lengths, self.room = config, lengths, room
        self.prompts: list[tuple[Tensor, Tensor]] = []  # of each layer, (P, G, S, K) twice
        self.prompt = torch.arange(len(lengths), device=lengths.device)  # (B,) of each line
        self.lines: Tensor | None = None  # keys and values, (2, L, B, G, M, K)
        self.steps = 0
        self.step = torch.zeros(1, dtype=torch.long, device=lengths.device)  # the same, there

    def fork(self, prompt: Tensor) -> None:
        """Continue prompt ``prompt[b]`` (B,) in line b."""
        keys, _ = self.prompts[0]
        _, heads, longest, width = keys.shape
        self.lines = keys.new_zeros(2, self.config.n_layers, len(prompt), heads, 0, width)
        slots = torch.arange(longest, device=keys.device)
        bias = torch.zeros(len(keys), longest, device=keys.device)  # (P, S)
        self.bias = bias.masked_fill(slots >= self.lengths[:, None], -torch.inf)
        self._group(prompt)

    def select(self, lines: Tensor) -> None:
        """Keep the given lines only, and the prompts that they continue."""
        self.lines = self.lines[:, :, lines]
        kept, prompt = self.prompt[lines].unique(return_inverse=True)
        if len(kept) < len(self.lengths):
            self.prompts = [(keys[kept], values[kept]) for keys, values in self.prompts]
            self.lengths, self.bias = self.lengths[kept], self.bias[kept]
        self._group(prompt)

    def _group(self, prompt: Tensor) -> None:
        """Find a place for every line in a table (P, N) of the lines of each prompt."""
        self.prompt = prompt
        counts = prompt.bincount(minlength=len(self.lengths))  # (P,)
        order = prompt.argsort(stable=True)
        number = torch.empty_like(prompt)  # (B,) of a line among those of its prompt
        first = counts.cumsum(0) - counts
        number[order] = torch.arange(len(prompt), device=prompt.device) - first[prompt[order]]
        width = int(counts.max())
        self.place = prompt * width + number  # (B,)
        table = torch.zeros(len(counts) * width, dtype=torch.long, device=prompt.device)
        self.table = table.scatter(0, self.place, torch.arange(len(prompt), device=prompt.device))
        self.width = width

    def positions(self, length: int) -> Tensor:
        """Return the positions of the tokens of the next pass, (1, T) or (B, 1)."""
        if not self.prompts:
            return torch.arange(length, device=self.lengths.device)[None]
        last = self.config.context_length - 1  # finished lines may be there already
        return (self.lengths[self.prompt] + self.step).clamp(max=last)[:, None]

    def make_room(self) -> bool:
        """Make room for the next token of each line; say whether the cache had to grow."""
        if self.steps < self.lines.shape[4]:
            return False
        self.lines = F.pad(self.lines, (0, 0, 0, self.room))
        self.slots = torch.arange(self.lines.shape[4], device=self.lines.device)  # (M,)
        return True

    def advance(self) -> None:
        """Go on to the next token of each line."""
        self.steps += 1
        self.step += 1

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Return the attention (B, H, T, K) of ``q`` to all before it; keep ``k`` and ``v``."""
        if len(self.prompts) == layer:
            self.prompts.append((k, v))
            grouped = self.config.kv_heads != self.config.n_heads
            return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped)
        keys, values = self.lines[:, layer]  # (B, G, M, K) each
        keys.index_copy_(2, self.step, k)
        values.index_copy_(2, self.step, v)
        prompt_keys, prompt_values = self.prompts[layer]  # (P, G, S, K) each
        q = q.unflatten(1, (k.shape[1], -1)).squeeze(3) * q.shape[-1] ** -0.5  # (B, G, R, K)
        scores = self._together(q) @ prompt_keys.mT + self.bias[:, None, None]  # (P, G, N R, S)
        own = (q @ keys.mT).masked_fill(self.slots > self.step, -torch.inf)  # (B, G, R, M)
        scores = torch.cat([self._apart(scores), own], dim=-1)  # (B, G, R, S + M)
        weights = scores.softmax(-1, dtype=torch.float32).to(v.dtype)
        of_prompt, of_line = weights.tensor_split([prompt_keys.shape[2]], dim=-1)
        y = self._apart(self._together(of_prompt) @ prompt_values) + of_line @ values
        return y.flatten(1, 2).unsqueeze(2)  # (B, H, 1, K)

    def _together(self, x: Tensor) -> Tensor:
        """Rearrange (B, G, R, X) to (P, G, N R, X), the lines of a prompt beside each other."""
        x = x[self.table].unflatten(0, (-1, self.width))  # (P, N, G, R, X)
        return x.transpose(1, 2).flatten(2, 3)

    def _apart(self, x: Tensor) -> Tensor:
        """Rearrange (P, G, N R, X) to (B, G, R, X)."""
        x = x.unflatten(2, (self.width, -1)).transpose(1, 2)  # (P, N, G, R, X)
        return x.flatten(0, 1)[self.place]
