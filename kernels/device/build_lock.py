"""Kernels are built once on a host: its other processes wait for the first one.

Binaries are cached on disk by the OpenCL implementation (PoCL, GPU drivers) or else by pyopencl.
The first process of a host to meet a device and a source builds, the others wait on a file lock.
"""

import fcntl
import hashlib
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyopencl as cl

from kernels.device.cache import cache_folder
from kernels.device.discovery import DeviceInfo
from kernels.errors import DeviceError

BUILD_DEADLINE = 120.0
"""Seconds to wait for another process that builds the same kernels."""


@contextmanager
def building(info: DeviceInfo, texts: Sequence[str]) -> Iterator[None]:
    """Hold a host-wide lock while kernels are built for the first time.

    The file that says "built" is only a hint: where it lies (a cache was cleared), processes build
    side by side, which costs time and nothing else. Raises DeviceError after BUILD_DEADLINE.
    """
    parts = (info.platform, info.name, info.driver, cl.VERSION_TEXT, *texts)
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]
    folder = cache_folder()
    done = folder / f"{key}.built"
    if done.exists():
        yield
        return
    path = folder / f"{key}.lock"
    with path.open("w") as lock:
        _lock(lock.fileno(), path)
        yield
        done.touch()


def _lock(descriptor: int, path: Path) -> None:
    deadline = time.monotonic() + BUILD_DEADLINE
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise DeviceError(
                    f"another process has been building kernels for {BUILD_DEADLINE:.0f} s "
                    f"(it holds {path}): look for one that hangs, and end it"
                ) from None
            time.sleep(0.05)
        else:
            return
