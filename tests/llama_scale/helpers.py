"""What tests of several folders share."""


def splitmix64(seed: int, count: int) -> int:
    """Number ``count`` (from 1) of the published generator, in Python's integers."""
    mask = (1 << 64) - 1
    x = (seed + count * 0x9E3779B97F4A7C15) & mask
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
    return x ^ (x >> 31)
