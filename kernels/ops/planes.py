"""Sums over planes: the gradient of a convolution's bias."""

from __future__ import annotations

import numpy as np

from kernels.checks import check_same, check_whole
from kernels.errors import KernelError
from kernels.interface import Array, Engine
from kernels.operation import Operation


def channel_sum(engine: Engine, x: Array, out: Array) -> None:
    """Sum x[B,C,...] over everything but the channels into out[C], in an order that is fixed."""
    if len(x.shape) < 3 or 0 in x.shape:
        raise KernelError(f"channel_sum takes [B,C,...] with elements, got {list(x.shape)}")
    batch, channels = x.shape[:2]
    check_same("channel_sum", (out, (channels,)))
    for array in (x, out):
        check_whole("channel_sum", array)
    places = x.size // (batch * channels)
    engine.run(CHANNEL_SUM, (x, out), (batch, channels, places), items=channels)


def channel_sum_twin(
    x: np.ndarray, out: np.ndarray, batch: int, channels: int, places: int
) -> None:
    """Sum over images and places."""
    np.sum(x.reshape(batch, channels, places), axis=(0, 2), out=out)


CHANNEL_SUM = Operation("channel_sum", "planes.cl", 2, (np.int32,) * 3, channel_sum_twin)
