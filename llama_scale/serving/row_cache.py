"""Keys and values of rows that join a running batch and leave it, each at a position of its own.

Shapes as in llama.py; R rows, C slots of a row, one for each token of its prompt and of what it continues.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from llama_scale.config import ModelConfig
from llama_scale.model.llama import EOS

GROUP_ROWS = 16  # rows that share a block of memory at most
GROUP_BYTES = 1 << 30  # of a block, on a device that takes it at once
SHORTEST = 128  # slots of a row at least


def row_slots(length: int, config: ModelConfig) -> int:
    """Return the slots of a row for ``length`` tokens: a power of two, so that rows of one size share a block."""
    return min(max(SHORTEST, 1 << (length - 1).bit_length()), max(config.context_length, length))


def lazy_zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return zeros that take memory of a CPU only where they are written."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    return torch.from_numpy(np.zeros(shape, dtype=f"i{dtype.itemsize}")).view(dtype)


def slot_bytes(config: ModelConfig, dtype: torch.dtype) -> int:
    """Return the bytes of the keys and values of one token."""
    return 2 * config.n_layers * config.kv_heads * config.head_dim * dtype.itemsize


class PromptCache:
    """The keys and values of one prompt, which is passed through the model some tokens at a time.

    Attributes:
        kv: (2, L, G, S, K) of the tokens passed so far.
        mask: (S,) bool, which of them what comes after the prompt may attend to, or None for all: with
            ``document_mask`` only those of the last document.
    """

    def __init__(self, config: ModelConfig, ids: Sequence[int], dtype: torch.dtype, device: torch.device) -> None:
        self.config, self.done = config, 0
        self.kv = torch.zeros(
            2, config.n_layers, config.kv_heads, len(ids), config.head_dim, dtype=dtype, device=device
        )
        tokens = torch.tensor(ids, device=device)
        self.document = (tokens == EOS).cumsum(0) if config.document_mask else None  # (S,)

    @property
    def mask(self) -> Tensor | None:
        """Which tokens (S,) what comes after the prompt may attend to; None is all."""
        return None if self.document is None else self.document == self.document[-1]

    def positions(self, length: int) -> Tensor:
        """Return the positions (1, T) of the tokens of the next pass."""
        return torch.arange(self.done, self.done + length, device=self.kv.device)[None]

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Return the attention (1, H, T, K) of ``q`` to what was passed and to itself; keep ``k`` and ``v``."""
        end = self.done + q.shape[2]
        keys, values = self.kv[:, layer, :, :end]  # (G, S, K) each
        keys[:, self.done :], values[:, self.done :] = k[0], v[0]
        grouped = self.config.kv_heads != self.config.n_heads
        if self.done == 0 and self.document is None:
            return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped)
        # Token t of this pass sees slots up to done + t: of 3 passed and 2 new, the rows 11110 and 11111.
        slots = torch.arange(end, device=q.device)
        mask = slots <= slots[self.done :, None]  # (T, S)
        if self.document is not None:
            mask &= self.document[:end] == self.document[self.done : end, None]
        return F.scaled_dot_product_attention(q, keys[None], values[None], attn_mask=mask, enable_gqa=grouped)

    def advance(self, length: int) -> None:
        """Go on to the tokens after a pass of ``length``."""
        self.done += length


class Group:
    """At most ``rows`` rows of one size in one block of memory, the first ``len(lengths)`` of it in use."""

    def __init__(self, config: ModelConfig, slots: int, dtype: torch.dtype, device: torch.device) -> None:
        row_bytes = slots * slot_bytes(config, dtype)
        self.rows = GROUP_ROWS if device.type == "cpu" else max(1, min(GROUP_ROWS, GROUP_BYTES // row_bytes))
        shape = (2, config.n_layers, self.rows, config.kv_heads, slots, config.head_dim)
        self.kv = lazy_zeros(shape, dtype, device)
        self.slots = slots
        self.lengths: list[int] = []  # (R,) tokens of each row
        self.hidden_slots = torch.zeros(self.rows, slots, dtype=torch.bool, device=device)  # (R, C) of other documents
        self.masked = config.document_mask

    def add(self, prompt: PromptCache) -> None:
        """Add a row that continues ``prompt``."""
        row, length = len(self.lengths), prompt.done
        self.kv[:, :, row, :, :length] = prompt.kv
        if self.masked and prompt.mask is not None:
            self.hidden_slots[row] = False
            self.hidden_slots[row, :length] = ~prompt.mask
        self.lengths.append(length)

    def remove(self, row: int) -> None:
        """Drop a row; the last one takes its place."""
        last = len(self.lengths) - 1
        if row != last:
            used = self.lengths[last]
            self.kv[:, :, row, :, :used] = self.kv[:, :, last, :, :used]
            self.hidden_slots[row] = self.hidden_slots[last]
            self.lengths[row] = self.lengths[last]
        self.lengths.pop()


class RowCache:
    """The cache of one step of all rows of several groups, in their order, as ``Llama.hidden`` uses it."""

    def __init__(self, groups: Sequence[Group], config: ModelConfig) -> None:
        self.groups, self.grouped = groups, config.kv_heads != config.n_heads
        device = groups[0].kv.device
        self.last = [torch.tensor(group.lengths, device=device) for group in groups]  # (R,) slots of the new tokens
        self.visible = []  # (R, 1, 1, C)
        for group, last in zip(groups, self.last, strict=True):
            end, rows = max(group.lengths) + 1, len(group.lengths)
            mask = torch.arange(end, device=device) <= last[:, None]  # (R, C)
            mask = mask & ~group.hidden_slots[:rows, :end] if group.masked else mask
            self.visible.append(mask[:, None, None])

    def positions(self, length: int) -> Tensor:
        """Return the positions (B, 1) of the new tokens."""
        return torch.cat(self.last)[:, None]

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Return the attention (B, H, 1, K) of each row's ``q`` to its tokens; keep ``k`` and ``v``."""
        results, start = [], 0
        for group, last, visible in zip(self.groups, self.last, self.visible, strict=True):
            part = slice(start, start + len(last))
            start = part.stop
            rows = torch.arange(len(last), device=q.device)
            keys, values = group.kv[:, layer, : len(last)]  # (R, G, slots, K) each
            keys[rows, :, last], values[rows, :, last] = k[part, :, 0], v[part, :, 0]
            keys, values = keys[:, :, : visible.shape[-1]], values[:, :, : visible.shape[-1]]  # (R, G, C, K)
            # Query heads of one key head side by side, (R, G, H/G, K), so that keys are read once for them.
            shared = q[part].squeeze(2).unflatten(1, (k.shape[1], -1))
            y = F.scaled_dot_product_attention(shared, keys, values, attn_mask=visible)
            results.append(y.flatten(1, 2).unsqueeze(2))  # (R, H, 1, K)
        return torch.cat(results) if len(results) > 1 else results[0]

    def advance(self) -> None:
        """Count the new tokens."""
        for group in self.groups:
            group.lengths = [length + 1 for length in group.lengths]
