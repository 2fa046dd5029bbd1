"""Keys and values in generation: each prompt's once, and what every sequence added of its own.

Shapes as in llama.py; P prompts, B sequences that continue them, R = H / G query heads on one key
head, N most sequences of one prompt, M slots for the tokens generated.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from llama_scale.config import ModelConfig

GROWTH = 32  # slots that a full cache grows by, unless it is told otherwise


class KVCache:
    """The keys and values of P prompts and of the B sequences that continue them.

    The first pass through the model takes the prompts, right-padded (P, S), and keeps their keys and values;
    ``start_sequences`` then says which prompt each sequence continues, and every further pass takes one token of each
    sequence (B, 1). All sequences of a prompt attend to the one copy of it in one matrix product, so that memory moved
    does not grow with the samples drawn of it.

    Attributes:
        lengths: (P,) tokens of each prompt.
        prompt_kv: Of each layer the keys and values of the prompts, (P, G, S, K) twice.
        prompt_of: (B,) the prompt that each sequence continues.
        generated_kv: (2, L, B, G, M, K) keys and values of the tokens generated, token t of every sequence in slot t.
        bias: (B, 1, 1, S + M) added to scores: 0 for a token, -inf for padding and for slots of later tokens.
        n_generated: Tokens that each sequence has, and so the slot of its next one.
        next_slot: (1,) the same number on the device, where a replayed CUDA graph can read it.
        sequence_at: (P N,) the sequences in a table by their prompt, see ``_arrange``.
        place_of: (B,) where in that table each sequence is.
        most_sequences: N.
        one_each: Whether sequence b is the only one of prompt b: then nothing has to be brought together.
    """

    def __init__(self, config: ModelConfig, lengths: Tensor, growth: int = GROWTH) -> None:
        """``lengths`` (P,) counts the tokens of each prompt; a full cache grows by ``growth``."""
        self.config, self.lengths, self.growth = config, lengths, growth
        self.prompt_kv: list[tuple[Tensor, Tensor]] = []
        self.prompt_of = torch.arange(len(lengths), device=lengths.device)
        self.n_generated = 0
        self.next_slot = torch.zeros(1, dtype=torch.long, device=lengths.device)

    def start_sequences(self, prompt_of: Tensor) -> None:
        """Let sequence b continue prompt ``prompt_of[b]`` (B,)."""
        keys, _ = self.prompt_kv[0]
        heads, width = keys.shape[1], keys.shape[3]
        self.generated_kv = keys.new_zeros(2, self.config.n_layers, len(prompt_of), heads, 0, width)
        self._arrange(prompt_of)

    def keep_sequences(self, sequences: Tensor) -> None:
        """Keep the sequences of these numbers only, and the prompts that they continue."""
        self.generated_kv = self.generated_kv[:, :, sequences]
        prompts, prompt_of = self.prompt_of[sequences].unique(return_inverse=True)
        if len(prompts) < len(self.lengths):
            self.prompt_kv = [(keys[prompts], values[prompts]) for keys, values in self.prompt_kv]
            self.lengths = self.lengths[prompts]
        self._arrange(prompt_of)

    def _arrange(self, prompt_of: Tensor) -> None:
        """Put the sequences in a table (P, N) with a row for each prompt.

        One matrix product for each prompt needs its sequences side by side, and as many of them for each. If sequences
        0, 2 and 3 continue prompt 0 and sequence 1 continues prompt 1, then ``prompt_of`` is [0, 1, 0, 0] and the table
        [[0, 2, 3], [1, 0, 0]]: where a prompt has fewer than N, sequence 0 stands in, and what comes of it is not read.
        ``place_of``, the way back, is [0, 3, 1, 2]. The comments below go on with this example.
        """
        self.prompt_of = prompt_of
        numbers = torch.arange(len(prompt_of), device=prompt_of.device)  # (B,) [0, 1, 2, 3]
        counts = prompt_of.bincount(minlength=len(self.lengths))  # (P,) [3, 1]
        by_prompt = prompt_of.argsort(stable=True)  # (B,) [0, 2, 3, 1]
        first = counts.cumsum(0) - counts  # (P,) [0, 3], where a prompt begins in by_prompt
        column = torch.empty_like(prompt_of)  # (B,) [0, 0, 1, 2]
        column[by_prompt] = numbers - first[prompt_of[by_prompt]]
        self.most_sequences = int(counts.max())
        self.place_of = prompt_of * self.most_sequences + column
        table = numbers.new_zeros(len(counts) * self.most_sequences)
        self.sequence_at = table.scatter(0, self.place_of, numbers)
        self.one_each = self.most_sequences == 1 and torch.equal(prompt_of, numbers)
        self._hide()

    def _hide(self) -> None:
        """Write down what no sequence may attend to: padding after a prompt, and slots after the newest token's."""
        longest, slots = self.prompt_kv[0][0].shape[2], self.generated_kv.shape[4]
        device = self.lengths.device
        padding = torch.arange(longest, device=device) >= self.lengths[self.prompt_of][:, None]  # (B, S)
        later = torch.arange(slots, device=device) > self.n_generated  # (M,)
        hidden = torch.cat([padding, later.expand(len(padding), -1)], dim=1)  # (B, S + M)
        self.bias = torch.zeros(hidden.shape, device=device).masked_fill_(hidden, -torch.inf)[:, None, None]

    def positions(self, length: int) -> Tensor:
        """Return the positions of the tokens of the next pass, (1, T) or (B, 1)."""
        if not self.prompt_kv:
            return torch.arange(length, device=self.lengths.device)[None]
        last = self.config.context_length - 1  # finished sequences may be there already
        return (self.lengths[self.prompt_of] + self.next_slot).clamp(max=last)[:, None]

    def grow_if_full(self) -> bool:
        """Make room for the next token of each sequence; say whether the cache had to grow."""
        if self.n_generated < self.generated_kv.shape[4]:
            return False
        self.generated_kv = F.pad(self.generated_kv, (0, 0, 0, self.growth))
        self._hide()
        return True

    def advance(self) -> None:
        """Go on to the next token of each sequence."""
        self.n_generated += 1
        if self.n_generated < self.generated_kv.shape[4]:
            self.bias[..., self.prompt_kv[0][0].shape[2] + self.n_generated] = 0
        self.next_slot += 1  # in place, both: a recorded CUDA graph reads these very tensors

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Return the attention (B, H, T, K) of ``q`` to all before it; keep ``k`` and ``v``.

        A sequence attends to two parts, its prompt's tokens and its own. Their scores are made
        apart, the first for all sequences of a prompt at once, and joined for one softmax.
        """
        if len(self.prompt_kv) == layer:
            self.prompt_kv.append((k, v))
            grouped = self.config.kv_heads != self.config.n_heads
            return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped)
        keys, values = self.generated_kv[:, layer]  # (B, G, M, K) each
        keys.index_copy_(2, self.next_slot, k)
        values.index_copy_(2, self.next_slot, v)
        prompt_keys, prompt_values = self.prompt_kv[layer]  # (P, G, S, K) each
        q = q.unflatten(1, (k.shape[1], -1)).squeeze(3) * q.shape[-1] ** -0.5  # (B, G, R, K)
        on_prompt = self._ungroup(self._group(q) @ prompt_keys.mT)  # (P, G, N R, S) -> (B, G, R, S)
        scores = torch.cat([on_prompt, q @ keys.mT], dim=-1) + self.bias  # (B, G, R, S + M)
        weights = scores.softmax(-1, dtype=torch.float32).to(v.dtype)
        on_prompt, on_own = weights.tensor_split([prompt_keys.shape[2]], dim=-1)
        y = self._ungroup(self._group(on_prompt) @ prompt_values) + on_own @ values  # (B, G, R, K)
        return y.flatten(1, 2).unsqueeze(2)  # (B, H, 1, K)

    def _group(self, x: Tensor) -> Tensor:
        """Rearrange (B, G, R, X) to (P, G, N R, X), the sequences of a prompt beside each other."""
        if self.one_each:
            return x
        x = x[self.sequence_at].unflatten(0, (-1, self.most_sequences))  # (P, N, G, R, X)
        return x.transpose(1, 2).flatten(2, 3)

    def _ungroup(self, x: Tensor) -> Tensor:
        """Rearrange (P, G, N R, X) to (B, G, R, X), each sequence back from its place."""
        if self.one_each:
            return x
        x = x.unflatten(2, (self.most_sequences, -1)).transpose(1, 2)  # (P, N, G, R, X)
        return x.flatten(0, 1)[self.place_of]


class JoinedCaches:
    """Several caches as one: the sequences of the first, then those of the second, and so on."""

    def __init__(self, caches: Sequence[KVCache]) -> None:
        self.caches, self.sizes = caches, [len(cache.prompt_of) for cache in caches]

    def positions(self, length: int) -> Tensor:
        """Return the positions (B, 1) of the tokens of the next pass."""
        return torch.cat([cache.positions(length) for cache in self.caches])

    def grow_if_full(self) -> bool:
        """Make room for the next token of each sequence; say whether a cache had to grow."""
        grown = [cache.grow_if_full() for cache in self.caches]  # all of them, not up to the first that did
        return any(grown)

    def advance(self) -> None:
        """Go on to the next token of each sequence."""
        for cache in self.caches:
            cache.advance()

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Return the attention (B, H, 1, K) of ``q`` to all before it; keep ``k`` and ``v``."""
        parts = zip(*(x.split(self.sizes) for x in (q, k, v)), strict=True)
        return torch.cat([cache.attend(layer, *part) for cache, part in zip(self.caches, parts, strict=True)])
