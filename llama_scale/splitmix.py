"""SplitMix64 (Steele et al. 2014): whole numbers of 64 bits turned into ones that look random.

Number ``n`` of the stream of a ``seed`` is mix(seed + n * GOLDEN_GAMMA), so that any of them can be
had without those before it: whoever draws keeps a counter and no state.
"""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

GOLDEN_GAMMA = 0x9E3779B97F4A7C15  # 2^64 over the golden ratio, made odd
FACTORS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
SHIFTS = (30, 27, 31)


def mix(values: np.ndarray) -> np.ndarray:
    """Return a bijection of uint64, of any shape, after which every bit depends on every bit."""
    values = (values ^ (values >> np.uint64(SHIFTS[0]))) * np.uint64(FACTORS[0])
    values = (values ^ (values >> np.uint64(SHIFTS[1]))) * np.uint64(FACTORS[1])
    return values ^ (values >> np.uint64(SHIFTS[2]))


def mix_tensor(values: "Tensor") -> "Tensor":
    """Return the same of an int64 tensor, whose bits stand for those of uint64.

    torch has no arithmetic on uint64. Sums, products and xor of int64 wrap around to the same
    bits; a shift to the right has to clear the sign that it draws in.
    """
    values = (values ^ shift_right(values, SHIFTS[0])) * as_int64(FACTORS[0])
    values = (values ^ shift_right(values, SHIFTS[1])) * as_int64(FACTORS[1])
    return values ^ shift_right(values, SHIFTS[2])


def shift_right(values: "Tensor", bits: int) -> "Tensor":
    """Shift int64 to the right as if it had no sign: -1 by 60 bits is 15."""
    return (values >> bits) & ((1 << (64 - bits)) - 1)


def as_int64(value: int) -> int:
    """Return the whole number that has the lowest 64 bits of ``value`` as int64: 2^64 - 1 is -1."""
    return (value + (1 << 63)) % (1 << 64) - (1 << 63)
