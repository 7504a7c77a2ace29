"""In which order examples are trained, and which are held out.

Orders are made of Philox4x32-10's words alone, never of a library's own shuffle: they are the same
on every machine and with every version of numpy.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from kernels.philox import counters, philox4x32

# Upper halves of the 128-bit counter, so that no two uses of one seed share words.
EPOCHS = 1
SPLIT = 2
WEIGHTS = 3
VALIDATION = 4
_MASK = 0xFFFFFFFF


def words(seed: int, use: int, index: int, count: int) -> npt.NDArray[np.uint32]:
    """Return ``count`` random 32-bit words of one use and index of a seed.

    Streams are 2³² blocks of four words apart: the counter is (block, index, use), low word first.
    """
    key = (seed & _MASK, seed >> 32 & _MASK)
    first = (use << 96) | ((index & 0xFFFFFFFFFFFFFFFF) << 32)
    blocks = counters(first, -(-count // 4))
    return philox4x32(blocks, key).reshape(-1)[:count]


def permutation(seed: int, epoch: int, n: int) -> npt.NDArray[np.int64]:
    """Return the order in which an epoch trains its ``n`` examples, by seed and epoch alone."""
    return _shuffle(seed, EPOCHS, epoch, n)


def _shuffle(seed: int, use: int, index: int, n: int) -> npt.NDArray[np.int64]:
    # 64-bit keys hardly ever tie, and the sort is stable where they do.
    pairs = words(seed, use, index, 2 * n).astype(np.uint64)
    keys = (pairs[0::2] << np.uint64(32)) | pairs[1::2]
    return np.argsort(keys, kind="stable").astype(np.int64, copy=False)


def hold_out(
    labels: npt.NDArray[np.integer] | None, n: int, fraction: float, use: int = SPLIT
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Split ``n`` rows into those to train on and those held out, both ascending.

    Stratified where there are labels: each class gives its share. The split is fixed, apart from
    any run's seed, so that runs are compared on the same rows; ``use`` is what it is for.
    """
    if labels is None:
        groups = [np.arange(n, dtype=np.int64)]
    else:
        groups = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    held = [
        rows[_shuffle(0, use, index, len(rows))[: round(len(rows) * fraction)]]
        for index, rows in enumerate(groups)
    ]
    out = np.sort(np.concatenate(held)) if held else np.empty(0, np.int64)
    kept = np.ones(n, bool)
    kept[out] = False
    return np.flatnonzero(kept), out
