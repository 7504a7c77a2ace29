"""Pooling of planes: the largest or the mean element of each window.

Sources: LeCun et al. 1998, "Gradient-based learning applied to document recognition"; Lin et al. 2013,
"Network in network" (global pooling: a window as large as the plane).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np

from kernels.activations import BY_CODE
from kernels.activations import activation as find_activation
from kernels.checks import check_same, check_whole
from kernels.errors import KernelError
from kernels.interface import Array, Engine
from kernels.operation import Operation
from kernels.windows import Window

Pooling = Literal["max", "mean"]


def pool(engine: Engine, kind: Pooling, x: Array, out: Array, window: Window) -> None:
    """Pool x[B,C,H,W] into out[B,C,OH,OW].

    The mean is that of the elements inside the plane, without its padding. A NaN is larger than
    every number.
    """
    engine.run(
        {"max": MAX_POOL, "mean": MEAN_POOL}[kind],
        (x, out),
        _geometry(x, out, window),
        items=x.shape[0] * x.shape[1],
        grain=_grain(x),
    )


def pool_gradient(
    engine: Engine,
    kind: Pooling,
    delta: Array,
    x: Array,
    out: Array,
    window: Window,
    *,
    derivative: str = "identity",
) -> None:
    """Compute the gradient by x[B,C,H,W] into `out`, from delta[B,C,OH,OW].

    Where several elements of a window are its maximum, the first takes the gradient. `derivative`
    names the activation whose output x is: its derivative is multiplied in.
    """
    check_same("pool_gradient", (out, x.shape))
    engine.run(
        {"max": MAX_POOL_BACK, "mean": MEAN_POOL_BACK}[kind],
        (delta, x, out),
        (*_geometry(x, delta, window), find_activation(derivative).code),
        items=x.shape[0] * x.shape[1],
        grain=_grain(x),
    )


def pool_twin(kind: Pooling, x: np.ndarray, out: np.ndarray, window: Window) -> None:
    """Pool in numpy, in the arrays' precision; arguments as in `pool`."""
    plane = (x.shape[2], x.shape[3])
    twin = {"max": max_pool_twin, "mean": mean_pool_twin}[kind]
    twin(x, out, *plane, *window.over(plane), *window.size, *window.stride, *window.padding)


def _geometry(x: Array, small: Array, window: Window) -> tuple[int, ...]:
    if len(x.shape) != 4:
        raise KernelError(f"pooling takes [B,C,H,W], got {list(x.shape)}")
    if window.dilation != (1, 1) or any(
        2 * pad > size for pad, size in zip(window.padding, window.size, strict=True)
    ):
        raise KernelError(
            f"pooling takes no dilation, and padding up to half the window, not {window}"
        )
    h, w = x.shape[2:]
    places = window.over((h, w))
    check_same("pooling", (small, (*x.shape[:2], *places)))
    for array in (x, small):
        check_whole("pooling", array)
    return (h, w, *places, *window.size, *window.stride, *window.padding)


def _grain(x: Array) -> int:
    """Return how many planes are worth a work-item."""
    return max(1, 4096 // max(1, x.shape[2] * x.shape[3]))


def _windows(geometry: tuple[int, ...]) -> Iterator[tuple[int, int, slice, slice]]:
    """Yield each window's place and the part of the plane that it covers."""
    h, w, oh, ow, window_y, window_x, stride_y, stride_x, pad_y, pad_x = geometry
    for oy in range(oh):
        for ox in range(ow):
            top, left = oy * stride_y - pad_y, ox * stride_x - pad_x
            rows = slice(max(top, 0), min(top + window_y, h))
            yield oy, ox, rows, slice(max(left, 0), min(left + window_x, w))


def max_pool_twin(x: np.ndarray, out: np.ndarray, *geometry: int) -> None:
    """Take each window's largest element."""
    for oy, ox, rows, columns in _windows(geometry):
        np.max(x[:, :, rows, columns], axis=(2, 3), out=out[:, :, oy, ox])


def max_pool_back_twin(delta: np.ndarray, x: np.ndarray, out: np.ndarray, *numbers: int) -> None:
    """Give each window's gradient to its first largest element."""
    *geometry, derivative = numbers
    out[...] = 0
    for oy, ox, rows, columns in _windows(tuple(geometry)):
        part = x[:, :, rows, columns]
        flat = part.reshape(*part.shape[:2], -1)
        is_best = flat == flat.max(axis=2, keepdims=True)
        first = is_best & (np.cumsum(is_best, axis=2) == 1)
        given = first.reshape(part.shape) * delta[:, :, oy, ox, None, None]
        out[:, :, rows, columns] += given.astype(out.dtype)
    BY_CODE[derivative].derive(out, x)


def mean_pool_twin(x: np.ndarray, out: np.ndarray, *geometry: int) -> None:
    """Take each window's mean."""
    for oy, ox, rows, columns in _windows(geometry):
        np.mean(x[:, :, rows, columns], axis=(2, 3), out=out[:, :, oy, ox])


def mean_pool_back_twin(delta: np.ndarray, x: np.ndarray, out: np.ndarray, *numbers: int) -> None:
    """Share each window's gradient out among its elements."""
    *geometry, derivative = numbers
    out[...] = 0
    for oy, ox, rows, columns in _windows(tuple(geometry)):
        part = out[:, :, rows, columns]
        part += delta[:, :, oy, ox, None, None] / (part.shape[2] * part.shape[3])
    BY_CODE[derivative].derive(out, x)


_GEOMETRY = (np.int32,) * 10
MAX_POOL = Operation("max_pool", "pooling.cl", 2, _GEOMETRY, max_pool_twin)
MAX_POOL_BACK = Operation(
    "max_pool_back", "pooling.cl", 3, (*_GEOMETRY, np.int32), max_pool_back_twin
)
MEAN_POOL = Operation("mean_pool", "pooling.cl", 2, _GEOMETRY, mean_pool_twin)
MEAN_POOL_BACK = Operation(
    "mean_pool_back", "pooling.cl", 3, (*_GEOMETRY, np.int32), mean_pool_back_twin
)
