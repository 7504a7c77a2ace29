"""The numpy twin of the matrix product: oracle in tests and the numpy engine's body.

It takes arrays of any float dtype and computes in it, so that float64 copies pass finite-difference
checks that float32 could not. Arguments are as in `kernels.interface.Engine`.
"""

import numpy as np

from kernels.activations import activation as find_activation
from kernels.interface import Form
from kernels.windows import Window

AT_ONCE = 1 << 22
"""Elements of patches that a convolution copies at a time."""


def matmul(
    a: np.ndarray,
    b: np.ndarray,
    out: np.ndarray,
    *,
    form: Form = "nn",
    bias: np.ndarray | None = None,
    activation: str = "identity",
    derivative: tuple[str, np.ndarray] | None = None,
    residual: np.ndarray | None = None,
    scale: float = 1.0,
    column_sums: np.ndarray | None = None,
) -> None:
    """Multiply matrices in one of the three forms and apply the epilogue to `out[M,N]`."""
    right = b.T if form == "nt" else b
    np.matmul(a.T if form == "tn" else a, right, out=out)
    if column_sums is not None:
        np.sum(right, axis=0, out=column_sums)
    out *= out.dtype.type(scale)
    if bias is not None:
        out += bias
    if residual is not None:
        out += residual
    find_activation(activation).apply(out)
    if derivative is not None:
        name, y = derivative
        find_activation(name).derive(out, y)


def convolve(
    x: np.ndarray,
    weights: np.ndarray,
    out: np.ndarray,
    window: Window,
    *,
    bias: np.ndarray | None = None,
    activation: str = "identity",
) -> None:
    """Convolve planes and apply the epilogue to `out[B,F,OH,OW]`."""
    patches = _patches(_padded(x, window), window)
    # The product copies its patches, which are many times x: so only some images at once.
    some = max(1, AT_ONCE // (patches.size // len(x)))
    for start in range(0, len(x), some):
        part = np.tensordot(patches[start : start + some], weights, ((1, 4, 5), (1, 2, 3)))
        out[start : start + some] = part.transpose(0, 3, 1, 2)
    if bias is not None:
        out += bias[:, None, None]
    find_activation(activation).apply(out)


def convolve_input(
    delta: np.ndarray,
    weights: np.ndarray,
    out: np.ndarray,
    window: Window,
    *,
    derivative: tuple[str, np.ndarray] | None = None,
) -> None:
    """Compute a convolution's gradient by its input into `out[B,C,H,W]`."""
    (pad_y, pad_x), (h, w) = window.padding, out.shape[2:]
    padded = np.zeros((*out.shape[:2], h + 2 * pad_y, w + 2 * pad_x), out.dtype)
    # Views of the padded planes, one for each tap: what a patch took from there goes back there.
    patches = _patches(padded, window)
    for y, x in np.ndindex(*window.size):
        patches[..., y, x] += np.tensordot(delta, weights[:, :, y, x], (1, 0)).transpose(0, 3, 1, 2)
    out[...] = padded[:, :, pad_y : pad_y + h, pad_x : pad_x + w]
    if derivative is not None:
        name, y_of = derivative
        find_activation(name).derive(out, y_of)


def convolve_weights(
    x: np.ndarray,
    delta: np.ndarray,
    out: np.ndarray,
    window: Window,
    *,
    filter_sums: np.ndarray | None = None,
) -> None:
    """Compute a convolution's gradient by its weights into `out[F,C,h,w]`."""
    if filter_sums is not None:
        np.sum(delta, axis=(0, 2, 3), out=filter_sums)
    patches = _patches(_padded(x, window), window)
    out[...] = np.tensordot(delta, patches, ((0, 2, 3), (0, 2, 3)))


def _padded(x: np.ndarray, window: Window) -> np.ndarray:
    return np.pad(x, ((0, 0), (0, 0), *((pad, pad) for pad in window.padding)))


def _patches(padded: np.ndarray, window: Window) -> np.ndarray:
    """Return a writable view [B,C,OH,OW,h,w] of what each place of the window sees."""
    spans = [(size - 1) * far + 1 for size, far in zip(window.size, window.dilation, strict=True)]
    every = np.lib.stride_tricks.sliding_window_view(padded, spans, (2, 3), writeable=True)
    (stride_y, stride_x), (far_y, far_x) = window.stride, window.dilation
    return every[:, :, ::stride_y, ::stride_x, ::far_y, ::far_x]
