"""Host memory in which an OpenCL CPU device computes."""

from __future__ import annotations

from typing import Any

from kernels.interface import Array
from kernels.program import OpenDevice


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
