"""The numpy engine in float64: what float32 is measured by."""

import numpy as np

from kernels.device import numpy_device
from kernels.engine import Array
from kernels.host import HostArray, HostMirror, NumpyEngine
from nodes.models import Model
from nodes.training.learner import Learner


class Doubles(HostArray):
    """An array of float64 that passes for float32."""

    def __init__(self, data: np.ndarray) -> None:
        super().__init__(data)
        if data.dtype == np.float64:
            self.dtype = np.dtype(np.float32)

    def view(self, offset: int, shape: tuple[int, ...]) -> "Doubles":
        return Doubles(super().view(offset, shape).data)


class Float64Engine(NumpyEngine):
    """The twins in float64, for differences that float32 could not resolve."""

    def __init__(self) -> None:
        super().__init__(numpy_device())

    def empty(self, shape: tuple[int, ...], dtype: type[np.generic] = np.float32) -> Array:
        return Doubles(np.empty(shape, np.float64 if dtype is np.float32 else dtype))

    def mirror(self, host: np.ndarray, *, written: bool = True) -> HostMirror:
        return HostMirror(Doubles(host))

    def upload(self, target: Array, host: np.ndarray) -> None:
        plain(target).reshape(-1)[...] = host.reshape(-1)

    def download(self, source: Array, host: np.ndarray) -> None:
        host[...] = plain(source).reshape(host.shape)


def exact_learner(which: Model, rows: int) -> Learner:
    """Make a learner in float64, its sums of losses too."""
    learner = Learner(Float64Engine(), which, rows)
    learner._host_stats = learner._host_stats.astype(np.float64)
    return learner


def plain(array: Array) -> np.ndarray:
    assert isinstance(array, HostArray)
    return array.data
