"""Which token comes next: greedy, or drawn at a temperature within top-k and a nucleus.

Random numbers are a function of (seed, task, sample, step) alone. No step sorts the vocabulary:
the nucleus is hit by drawing again, with everything that is not likelier than the miss left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from llama_scale.generation.config import SamplingConfig
from llama_scale.splitmix import GOLDEN_GAMMA, as_int64, mix_tensor, shift_right

ROUNDING = 6e-5  # most that batching moves a float32 logit, as a share of the largest: 512 epsilon
FLOAT32_MAX = float(torch.finfo(torch.float32).max)
SEGMENT = 128  # tokens whose probabilities are summed before one of them is looked for


def sample_keys(seed: int, samples: Sequence[tuple[int, int]]) -> Tensor:
    """Return the key (B,) int64 of the random numbers of each (task, sample).

    A completion has a stream of numbers of its own, which its key begins: sample 3 of task 7 has
    the hash of (seed, 7, 3) whichever other completions are drawn beside it, so that neither the
    batch nor the number of processes changes a text.
    """
    words = [np.random.SeedSequence((seed, *pair)).generate_state(1, np.uint64) for pair in samples]
    return torch.from_numpy(np.concatenate(words).view(np.int64))


@dataclass(frozen=True)
class RowSampling:
    """What each row is drawn with, where they differ.

    Attributes:
        scale: (B,) float32, 1 / temperature.
        top_p: (B,) float64, the nucleus; infinity where there is none.
        top_k: (B,) int64, likeliest tokens that are drawn from; 0 where it is all.
        most_k: The largest of ``top_k``.
        nucleus: Whether a row has one.
    """

    scale: Tensor
    top_p: Tensor
    top_k: Tensor
    most_k: int
    nucleus: bool

    @classmethod
    def of(cls, rows: Sequence[SamplingConfig], device: torch.device | str = "cpu") -> "RowSampling":
        """Return the settings of ``rows``, none of them greedy; those of one are for each row of any batch."""
        # 0 of the likeliest times infinity would be no number.
        scale = torch.tensor([min(1 / row.temperature, FLOAT32_MAX) for row in rows], device=device)
        top_p = [row.top_p if row.top_p < 1 else torch.inf for row in rows]
        top_k = [row.top_k or 0 for row in rows]
        kept = torch.tensor(top_p, dtype=torch.float64, device=device)
        return cls(scale, kept, torch.tensor(top_k, device=device), max(top_k), min(top_p) < 1)


def uniforms(keys: Tensor, step: int | Tensor, attempt: int = 0) -> Tensor:
    """Return a number in [0, 1) for each of ``keys`` (B,), a multiple of 2^-53.

    It is number ``step`` + 2^32 ``attempt`` of the key's SplitMix64 stream: the token of a step has a number for each
    time that it is drawn again, and no two steps share one. Rows may be at steps of their own (B,).
    """
    count = step + ((attempt << 32) + 1)
    jump = as_int64(count * GOLDEN_GAMMA) if isinstance(count, int) else count * as_int64(GOLDEN_GAMMA)
    bits = mix_tensor(keys + jump)  # (B,) int64, wraps around
    return shift_right(bits, 11).double() * 2.0**-53  # the highest 53 bits, as a double has


def draw_tokens(logits: Tensor, keys: Tensor, step: int | Tensor, sampling: SamplingConfig | RowSampling) -> Tensor:
    """Draw one token (B,) for each row of ``logits`` (B, V), at its own ``step`` (B,) if that is a tensor.

    Top-k is taken first, then the nucleus: a token is in it while those likelier than it have less than top_p of the
    mass. Tokens that tie with the last one kept are kept too, so that no order among equals matters. A draw outside the
    nucleus is repeated among the likelier tokens: of p = (.5, .3, .15, .05) and top_p .7 the nucleus is the first two.
    Token 2 may be drawn, but those likelier than it have .8, so it is a miss, and tokens 0 and 1 remain to draw from.
    """
    rows = sampling if isinstance(sampling, RowSampling) else RowSampling.of([sampling], logits.device)
    p = logits.float()
    p = (p - p.amax(-1, keepdim=True)).mul_(rows.scale[:, None]).exp_()  # (B, V)
    if rows.most_k:
        most = min(rows.most_k, p.shape[1])
        likeliest = p.topk(most).values  # (B, K)
        last = rows.top_k.clamp(1, most)[:, None].expand(len(p), 1) - 1  # (B, 1)
        p.masked_fill_((p < likeliest.gather(1, last)) & (rows.top_k > 0)[:, None], 0)
    tokens, mass = _tokens_at(p, uniforms(keys, step))  # (B,) each
    if not rows.nucleus:
        return tokens
    limit = rows.top_p * mass  # (B,)
    drawn, attempt = tokens, 0
    open_rows = torch.arange(len(p), device=p.device)  # (R,) whose draw is not accepted yet
    while True:
        p.masked_fill_(p <= p.gather(1, drawn[:, None]), 0)  # (R, V), what is likelier remains
        missed = (p.sum(-1) >= limit).nonzero().squeeze(1)  # numbers among the R rows
        if len(missed) == 0:
            return tokens
        attempt += 1
        open_rows, p, limit = open_rows[missed], p[missed], limit[missed]
        steps = step[open_rows] if isinstance(step, Tensor) else step
        drawn, _ = _tokens_at(p, uniforms(keys[open_rows], steps, attempt))
        tokens[open_rows] = drawn


def _tokens_at(p: Tensor, quantile: Tensor) -> tuple[Tensor, Tensor]:
    """Return the token (B,) at a ``quantile`` (B,) of ``p`` (B, V), and the mass (B,) of ``p``.

    The segment that holds the quantile is looked for first, then the token in it: two searches of
    V / 128 and of 128 sums instead of one of V.
    """
    if p.shape[1] % SEGMENT:
        p = F.pad(p, (0, -p.shape[1] % SEGMENT))
    segments = p.unflatten(1, (-1, SEGMENT))  # (B, V / 128, 128)
    sums = segments.sum(-1)  # (B, V / 128)
    cdf = sums.cumsum(-1, dtype=torch.float64)  # (B, V / 128)
    target = quantile[:, None] * cdf[:, -1:]  # (B, 1)
    segment = torch.searchsorted(cdf, target, right=True)  # (B, 1)
    share = 1 - (cdf.gather(1, segment) - target) / sums.gather(1, segment)  # (B, 1), of the segment, in [0, 1)
    share.clamp_(0, 1 - 2.0**-53)
    within = segments[torch.arange(len(p), device=p.device), segment[:, 0]]  # (B, 128)
    cdf_within = within.cumsum(-1, dtype=torch.float64)
    offset = torch.searchsorted(cdf_within, share * cdf_within[:, -1:], right=True)  # (B, 1)
    return (segment * SEGMENT + offset).squeeze(1), cdf[:, -1]


def greedy_tokens(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return the likeliest token (B,) of ``logits`` (B, V), and whether rounding decided (B,).

    Rounding differs with the shape of a batch and may decide where two logits are closer than it.
    """
    best, tokens = logits.max(-1)  # (B,) each
    rounding = ROUNDING * torch.maximum(best, -logits.amin(-1))  # (B,)
    close = (logits > (best - rounding)[:, None]).sum(-1) > 1  # (B,)
    return tokens, close
