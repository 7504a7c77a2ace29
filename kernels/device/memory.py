"""Bound what the buffers of one device take: many drivers promise more memory than there is.

PoCL gives any number of buffers, and Linux ends the process when they are filled.
"""

import gc
import weakref
from typing import Any

import numpy as np
import pyopencl as cl

from kernels.device.discovery import DeviceInfo
from kernels.errors import DeviceError


class Buffer(cl.Buffer):
    """pyopencl's buffer, which cannot be referred to weakly itself."""


ALIGNMENT = 128
"""Bytes: where memory begins that host and device share."""


class DeviceMemory:
    """What the buffers made here take until they are dropped, and what they may take."""

    def __init__(
        self, info: DeviceInfo, context: Any, device: Any, bound: float | None = None
    ) -> None:
        """Bound the memory of a device by `device.memory`.

        Args:
            info: the device, whose own memory is the bound where none is given.
            context: where buffers are made.
            device: pyopencl's own object for it.
            bound: bytes, or up to 1 a share of the device's memory.
        """
        self._info = info
        self._context = context
        self._given = bound
        self._largest: int = device.max_mem_alloc_size
        if bound is None:
            bound = 1
        self.limit = int(bound * info.memory_bytes if bound <= 1 else bound)
        """Bytes that all buffers may take."""
        self.taken = 0
        """Bytes that they take now."""

    def __repr__(self) -> str:
        return f"<DeviceMemory of {self._info.name}: {self.taken} of {self.limit} bytes>"

    def buffer(self, nbytes: int, host: np.ndarray | None = None) -> Any:
        """Return a new buffer, in memory of its own or in a host array's.

        Raises:
            DeviceError: it would be more than the device gives at once, or than all may take.
        """
        nbytes = max(nbytes, 4)
        self._admit(nbytes)
        flags = cl.mem_flags.READ_WRITE | (0 if host is None else cl.mem_flags.USE_HOST_PTR)
        buffer = Buffer(self._context, flags, nbytes, host)
        self.taken += nbytes
        weakref.finalize(buffer, self._give_back, nbytes).atexit = False
        return buffer

    def shared(self, nbytes: int) -> tuple[Any, np.ndarray]:
        """Return a new buffer in the host's memory, and its bytes. Raises as `buffer`."""
        nbytes = max(nbytes, 4)
        self._admit(nbytes)
        raw = host_bytes(self._info, nbytes + ALIGNMENT)
        skip = -raw.ctypes.data % ALIGNMENT
        host = raw[skip : skip + nbytes]
        return self.buffer(nbytes, host), host

    def _admit(self, nbytes: int) -> None:
        if self.taken + nbytes > self.limit:
            gc.collect()  # what is only held by a cycle is not in use
        if self.taken + nbytes > self.limit:
            raise DeviceError(self._refusal(nbytes))
        if nbytes > self._largest:
            raise DeviceError(
                f"device {self._info} gives at most {self._largest:,} bytes at once, not "
                f"{nbytes:,}: use a smaller layer or minibatch, or another device"
            )

    def _give_back(self, nbytes: int) -> None:
        self.taken -= nbytes

    def _refusal(self, nbytes: int) -> str:
        needed = f"{nbytes:,} bytes beside {self.taken:,} taken"
        if self._given is not None:
            return (
                f"device {self._info} may give {self.limit:,} bytes by device.memory = "
                f"{self._given:g}, not {needed}: raise it, or use a smaller model or minibatch"
            )
        return (
            f"device {self._info} is out of memory: it cannot give {needed}; "
            "use a smaller model or minibatch, or another device"
        )


def host_bytes(info: DeviceInfo, nbytes: int) -> np.ndarray:
    """Return so much of the host's memory; raise DeviceError where there is not so much."""
    try:
        return np.empty(nbytes, np.uint8)
    except (MemoryError, ValueError) as error:
        raise DeviceError(
            f"this machine has no {nbytes:,} bytes to exchange with device {info}: use a smaller "
            "minibatch"
        ) from error
