"""Kernels are built once on a host: its other processes wait for the first one.

Binaries are cached on disk by the OpenCL implementation (PoCL, GPU drivers) or else by pyopencl.
The first process of a host to meet a device and a source builds, the others wait on a file lock.
"""

import fcntl
import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from kernels.device.cache import cache_folder
from kernels.device.discovery import DeviceInfo
from kernels.device.target_cpu import cache_name, own_level
from kernels.errors import DeviceError

BUILD_DEADLINE = 120.0
"""Seconds to wait for another process that builds the same kernels."""


@contextmanager
def building(
    info: DeviceInfo, texts: Sequence[str], first: Callable[[], None] = lambda: None
) -> Iterator[None]:
    """Hold a host-wide lock while kernels are built for the first time.

    The file that says "built" is only a hint: where it lies (a cache was cleared), processes build
    side by side, which costs time and nothing else. ``first`` is called before a first build.

    Raises:
        DeviceError: another process has built them for BUILD_DEADLINE.
    """
    key, folder = key_of(info, *texts), cache_folder()
    done = folder / f"{key}.built"
    if done.exists():
        yield
        return
    with exclusive(folder / f"{key}.lock", "builds kernels"):
        if not done.exists():
            first()
        yield
        done.touch()


def key_of(info: DeviceInfo, *texts: str) -> str:
    """Return a name for files about a device, its driver, what it compiles for, and texts."""
    import pyopencl as cl  # a host without it uses numpy

    built_for = cache_name(info.target, own_level())
    parts = (info.platform, info.name, info.driver, built_for, cl.VERSION_TEXT, *texts)
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]


@contextmanager
def exclusive(path: Path, doing: str) -> Iterator[None]:
    """Hold a lock on a file of this host; ``doing`` says what its holder does.

    Raises:
        DeviceError: another process has held it for BUILD_DEADLINE.
    """
    with path.open("w") as lock:
        deadline = time.monotonic() + BUILD_DEADLINE
        while True:
            try:
                fcntl.flock(lock.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise DeviceError(
                        f"another process {doing} for {BUILD_DEADLINE:.0f} s (it holds {path}): "
                        "look for one that hangs, and end it"
                    ) from None
                time.sleep(0.05)
            else:
                break
        yield
