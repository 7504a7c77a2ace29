"""An engine in float64, for what float32 could not resolve: finite differences, oracles."""

import numpy as np

from kernels.device.discovery import numpy_device
from kernels.engine import Array
from kernels.host import HostArray, HostMirror, NumpyEngine


class Precise(HostArray):
    """An array in float64 that passes for float32 where types are checked."""

    def __init__(self, data: np.ndarray) -> None:
        super().__init__(data)
        if data.dtype == np.float64:
            self.dtype = np.dtype(np.float32)

    def view(self, offset: int, shape: tuple[int, ...]) -> "Precise":
        return Precise(super().view(offset, shape).data)


class Float64Engine(NumpyEngine):
    """The twins in float64; arrays of any float type are copied to it and from it."""

    def __init__(self) -> None:
        super().__init__(numpy_device())

    def empty(self, shape: tuple[int, ...], dtype: type[np.generic] = np.float32) -> Array:
        return Precise(np.empty(shape, np.float64 if dtype is np.float32 else dtype))

    def mirror(self, host: np.ndarray, *, written: bool = True) -> HostMirror:
        return HostMirror(Precise(host))

    def upload(self, target: Array, host: np.ndarray) -> None:
        plain(target).reshape(-1)[...] = host.reshape(-1)

    def download(self, source: Array, host: np.ndarray) -> None:
        host[...] = plain(source).reshape(host.shape)


def plain(array: Array) -> np.ndarray:
    """Return what an array of numpy's engine holds, in place."""
    assert isinstance(array, HostArray)
    return array.data
