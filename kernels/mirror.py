"""Host memory that an OpenCL device computes in, or a copy of it where the device has its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from kernels.interface import Array
from kernels.program import OpenDevice

if TYPE_CHECKING:
    from kernels.opencl import OpenCLEngine


class CopiedMirror:
    """A host array and the device's copy of it."""

    def __init__(self, engine: OpenCLEngine, host: np.ndarray, *, written: bool) -> None:
        self._engine = engine
        self._host = host
        self._written = written
        self.array = engine.empty(host.shape, host.dtype.type)

    def __repr__(self) -> str:
        return f"<CopiedMirror of {self.array!r}>"

    def to_device(self) -> None:
        """Enqueue the copy to the device."""
        self._engine.upload(self.array, self._host)

    def to_host(self) -> None:
        """Enqueue the copy to the host, where the device writes at all."""
        if self._written:
            self._engine.download(self.array, self._host)


class SharedMirror:
    """A host array in whose memory the device computes; it has one owner at a time.

    As OpenCL wants it, the memory is the host's while it is mapped, and the kernels' while not.
    """

    def __init__(self, device: OpenDevice, buffer: Any, array: Array, *, written: bool) -> None:
        self._device = device
        self._buffer = buffer
        self._written = written
        self._mapped: Any = device.map_for_host(buffer, array.size, written=written)
        self.array = array

    def __repr__(self) -> str:
        return f"<SharedMirror of {self.array!r}>"

    def to_device(self) -> None:
        """Give the memory to the kernels."""
        self._device.unmap(self._mapped)
        self._mapped = None

    def to_host(self) -> None:
        """Give the memory to the host, once everything enqueued has finished."""
        self._mapped = self._device.map_for_host(
            self._buffer, self.array.size, written=self._written
        )
