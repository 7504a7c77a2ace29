"""Philox4x32-10, the numpy twin of the device's random numbers.

Source: Salmon, Moraes, Dror, Shaw, "Parallel Random Numbers: As Easy as 1, 2, 3" (SC11), section 3;
constants and known-answer vectors as in the authors' Random123.
"""

import numpy as np

ROUNDS = 10
_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (0x9E3779B9, 0xBB67AE85)
_LOW = np.uint64(0xFFFFFFFF)
_SHIFT = np.uint64(32)


def philox4x32(counter: np.ndarray, key: tuple[int, int]) -> np.ndarray:
    """Return the 4 output words of each counter: uint32[n,4] for counter words uint32[n,4]."""
    c0, c1, c2, c3 = (counter[:, word].astype(np.uint64) for word in range(4))
    k0, k1 = key
    for _ in range(ROUNDS):
        product0 = _MULTIPLIERS[0] * c0
        product1 = _MULTIPLIERS[1] * c2
        c0, c1, c2, c3 = (
            (product1 >> _SHIFT) ^ c1 ^ np.uint64(k0),
            product1 & _LOW,
            (product0 >> _SHIFT) ^ c3 ^ np.uint64(k1),
            product0 & _LOW,
        )
        k0 = (k0 + _WEYL[0]) & 0xFFFFFFFF
        k1 = (k1 + _WEYL[1]) & 0xFFFFFFFF
    return np.stack((c0, c1, c2, c3), axis=1).astype(np.uint32)


def counters(first: int, blocks: int) -> np.ndarray:
    """Return `blocks` successive 128-bit counters from `first`, as uint32[blocks,4], low first."""
    low = np.arange(blocks, dtype=np.uint64) + np.uint64(first & 0xFFFFFFFFFFFFFFFF)
    high = first >> 64 & 0xFFFFFFFFFFFFFFFF
    carried = (low < np.uint64(first & 0xFFFFFFFFFFFFFFFF)).astype(np.uint64)
    upper = carried + np.uint64(high)
    words = (low & _LOW, low >> _SHIFT, upper & _LOW, upper >> _SHIFT)
    return np.stack(words, axis=1).astype(np.uint32)


def uniforms(count: int, key: tuple[int, int], counter: int) -> np.ndarray:
    """Return `count` float32 uniforms in [0, 1): the upper 24 bits of each word, times 2^-24."""
    bits = philox4x32(counters(counter, -(-count // 4)), key).reshape(-1)[:count]
    return (bits >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24)
