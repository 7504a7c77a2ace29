"""Host memory in which an OpenCL CPU device computes."""

from __future__ import annotations

from typing import Any

import numpy as np

from kernels.checks import check_put
from kernels.device.device import OpenDevice
from kernels.interface import Array


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


class SharedArray:
    """An array that host and device both reach, in one memory where the device needs no maps.

    Commands of their own for a few bytes take many times what the bytes do: what is written while the
    device is idle is simply there when it begins.
    """

    def __init__(
        self, device: OpenDevice, buffer: Any, array: Array, host: np.ndarray, *, one: bool
    ) -> None:
        self._device = device
        self._buffer = buffer
        self._one = one
        self.array = array
        self.host = host

    def __repr__(self) -> str:
        return f"<SharedArray of {self.array!r}>"

    def put(self, values: np.ndarray) -> None:
        """Let the device see values as the first; see `Shared.put`."""
        check_put(self.array, values)
        self._device.only_now()
        if self._one and self._device.idle:
            self.host.reshape(-1)[: values.size] = values.reshape(-1)
        elif values.size:
            self._device.copy_in(self._buffer, 0, values)

    def bring(self) -> None:
        """Let the host see what was enqueued until now; see `Shared.bring`."""
        self._device.only_now()
        if not self._one:
            self._device.copy_out(self._buffer, 0, self.host)
