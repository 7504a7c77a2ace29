"""Checks of shapes that every engine makes before it touches memory."""

import math
from collections.abc import Sequence

import numpy as np

from kernels.activations import activation as find_activation
from kernels.errors import KernelError
from kernels.interface import Array, Form
from kernels.windows import Window


def check_view(size: int, offset: int, shape: tuple[int, ...]) -> int:
    """Return the number of elements of a view; raise KernelError if it leaves the array."""
    count = math.prod(shape)
    if offset < 0 or min(shape, default=0) < 0 or offset + count > size:
        raise KernelError(
            f"a view of {list(shape)} at {offset} leaves its array of {size} elements"
        )
    return count


def check_pair(device: Array, host: np.ndarray) -> None:
    """Raise KernelError unless a host array can be copied to or from a device's array."""
    if host.dtype != device.dtype or host.size != device.size or not host.flags.c_contiguous:
        raise KernelError(
            f"cannot copy between {host.dtype}{list(host.shape)} on the host and "
            f"{device.dtype}{list(device.shape)} on the device: "
            "they must be equal in type and size, and contiguous"
        )


def check_put(target: Array, values: np.ndarray) -> None:
    """Raise KernelError unless values can be copied to the first rows of a target."""
    rows, room = len(values) if values.ndim else -1, target.shape[0]
    fits = 0 <= rows <= room and values.size * room == rows * target.size
    if not fits or values.dtype != target.dtype or not values.flags.c_contiguous:
        raise KernelError(
            f"cannot put {values.dtype}{list(values.shape)} into {target.dtype}"
            f"{list(target.shape)}: its rows must be contiguous, of the same type and size, and "
            "no more"
        )


def check_mirror(host: np.ndarray, *, written: bool) -> None:
    """Raise KernelError unless a host array can be mirrored."""
    writeable = host.flags.writeable or not written
    if host.dtype != np.float32 or not host.flags.c_contiguous or not host.size or not writeable:
        raise KernelError(
            f"cannot mirror {host.dtype}{list(host.shape)}: it must be float32, contiguous, not "
            "empty, and writeable where the device writes"
        )


def check_type(what: str, array: Array, wanted: type[np.generic]) -> None:
    """Raise KernelError unless an array has the wanted element type."""
    if array.dtype != np.dtype(wanted):
        raise KernelError(f"{what} takes {np.dtype(wanted)}, not {array.dtype}")


def check_floats(what: str, *arrays: Array) -> None:
    """Raise KernelError unless all arrays are float32."""
    for array in arrays:
        check_type(what, array, np.float32)


def check_same(what: str, *pairs: tuple[Array, tuple[int, ...]]) -> None:
    """Raise KernelError unless each array has the shape beside it."""
    for array, shape in pairs:
        if array.shape != shape:
            raise KernelError(f"{what}: expected shape {list(shape)}, got {list(array.shape)}")


def check_matmul(
    a: Array,
    b: Array,
    out: Array,
    form: Form,
    bias: Array | None,
    activation: str,
    derivative: tuple[str, Array] | None,
    residual: Array | None,
    column_sums: Array | None,
) -> tuple[int, int, int]:
    """Return (M, N, K) of a product; raise KernelError if the shapes do not fit the form."""
    for name in (activation, *(() if derivative is None else (derivative[0],))):
        find_activation(name)
    if form not in ("nn", "tn", "nt"):
        raise KernelError(f'unknown form {form!r} of a product: use "nn", "tn" or "nt"')
    if not len(a.shape) == len(b.shape) == len(out.shape) == 2:
        raise KernelError("a product takes matrices")
    of_y = None if derivative is None else derivative[1]
    for array in (a, b, out, bias, of_y, residual, column_sums):
        if array is not None:
            check_type("a product", array, np.float32)
    m, k = a.shape if form != "tn" else (a.shape[1], a.shape[0])
    inner, n = b.shape if form != "nt" else (b.shape[1], b.shape[0])
    fits = inner == k and out.shape == (m, n)
    fits = fits and all(array is None or array.shape == (n,) for array in (bias, column_sums))
    fits = fits and all(array is None or array.shape == (m, n) for array in (of_y, residual))
    if not fits or min(m, n, k) < 1:
        raise KernelError(
            f"shapes do not fit the form {form}: {list(a.shape)} by {list(b.shape)} "
            f"into {list(out.shape)}"
            + ("" if bias is None else f", bias {list(bias.shape)}")
            + ("" if of_y is None else f", derivative {list(of_y.shape)}")
            + ("" if residual is None else f", residual {list(residual.shape)}")
            + ("" if column_sums is None else f", column_sums {list(column_sums.shape)}")
        )
    if bias is not None and column_sums is not None:
        raise KernelError("a product has a bias or column_sums, not both")
    return m, n, k


def check_convolution(
    x: Array, weights: Array, out: Array, window: Window, *others: tuple[Array, tuple[int, ...]]
) -> None:
    """Raise KernelError unless x[B,C,H,W], weights[F,C,h,w] and out[B,F,OH,OW] fit the window.

    `others` are arrays with the shapes that they must have.
    """
    if not len(x.shape) == len(weights.shape) == len(out.shape) == 4 or 0 in x.shape:
        raise KernelError(
            "a convolution takes x[B,C,H,W], weights[F,C,h,w] and out[B,F,OH,OW], got "
            f"{list(x.shape)}, {list(weights.shape)} and {list(out.shape)}"
        )
    batch, channels = x.shape[:2]
    filters = weights.shape[0]
    places = window.over((x.shape[2], x.shape[3]))
    check_same(
        "a convolution",
        (weights, (filters, channels, *window.size)),
        (out, (batch, filters, *places)),
        *others,
    )
    for array in (x, weights, out, *(array for array, _ in others)):
        check_type("a convolution", array, np.float32)
        if not 0 < array.size < 1 << 31:
            raise KernelError(
                f"a convolution takes arrays of 1 to 2^31 - 1 elements, got {list(array.shape)}: "
                "use a smaller minibatch or layer"
            )


def check_whole(what: str, *arrays: Array) -> int:
    """Return the size of float32 arrays that must be equally large; raise KernelError else."""
    for array in arrays:
        check_type(what, array, np.float32)
        if array.size != arrays[0].size:
            raise KernelError(f"{what}: arrays of {arrays[0].size} and {array.size} elements")
    return arrays[0].size


def check_rule(
    name: str, states: int, weights: Array, out: Array, gradient: Array, state: Sequence[Array]
) -> int:
    """Return the size of an update's arrays; raise KernelError unless they fit rule and each other."""
    if len(state) != states:
        raise KernelError(f"rule {name} keeps {states} state arrays, got {len(state)}")
    return check_whole(f"rule {name}", weights, out, gradient, *state)
