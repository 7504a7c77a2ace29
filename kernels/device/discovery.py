"""Find, describe and choose devices.

pyopencl is imported only when devices are looked for, so that a host without it can use numpy.
"""

import os
import platform
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from kernels.device.thread_affinity import spreading
from kernels.errors import DeviceError

INSTALL_HINT = (
    'install one (pip install "pyopencl[pocl]" brings a CPU device on Linux x86-64; a GPU\'s comes '
    'with its driver), or set device.select = "numpy" to compute without OpenCL'
)


@dataclass(frozen=True)
class DeviceInfo:
    """What a person and a tuner need to know about one device."""

    index: int
    """Position in `devices()`; -1 for numpy."""
    name: str
    platform: str
    type: str
    """"cpu", "gpu", "accelerator" or "numpy"."""
    compute_units: int
    memory_bytes: int
    driver: str
    alignment: int
    """Bytes to which a host buffer must be aligned for the device to use it in place."""

    def __str__(self) -> str:
        units = f"{self.compute_units} unit{'' if self.compute_units == 1 else 's'}"
        memory = f"{self.memory_bytes / 2**30:.1f} GiB"
        if self.type == "numpy":
            return f"numpy {self.driver} on the host ({units}, {memory})"
        return f"{self.index}: {self.name} ({self.type}, {self.platform}, {units}, {memory})"


def devices() -> list[DeviceInfo]:
    """Return every OpenCL device found, in the platforms' order; empty where there is none."""
    return [info for info, _ in found_devices()]


def found_devices() -> list[tuple[DeviceInfo, Any]]:
    """Return every OpenCL device found with pyopencl's own object for it."""
    return [(_describe(index, device), device) for index, device in enumerate(_opencl_devices())]


def _opencl_devices() -> Iterator[Any]:
    try:
        import pyopencl as cl
    except ImportError:
        return
    try:
        platforms = cl.get_platforms()
    except cl.Error:  # the loader's way of saying that no platform is installed
        return
    for opencl_platform in platforms:
        try:
            with spreading(opencl_platform.name):  # PoCL starts its threads when first asked
                found = opencl_platform.get_devices()
        except cl.Error:  # a platform without a device of its own: a driver without its hardware
            continue
        yield from found


def _describe(index: int, device: Any) -> DeviceInfo:
    import pyopencl as cl

    kinds = {
        "cpu": cl.device_type.CPU,
        "gpu": cl.device_type.GPU,
    }
    kind = next((name for name, bit in kinds.items() if device.type & bit), "accelerator")
    return DeviceInfo(
        index=index,
        name=" ".join(device.name.split()),
        platform=" ".join(device.platform.name.split()),
        type=kind,
        compute_units=device.max_compute_units,
        memory_bytes=device.global_mem_size,
        driver=device.driver_version,
        alignment=max(128, device.mem_base_addr_align // 8),
    )


def numpy_device() -> DeviceInfo:
    """Describe the host as the device of the numpy engine."""
    import numpy as np

    return DeviceInfo(
        index=-1,
        name="numpy",
        platform="numpy",
        type="numpy",
        compute_units=os.cpu_count() or 1,
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        driver=np.__version__,
        alignment=128,
    )


def choose(select: str = "auto") -> DeviceInfo:
    """Choose a device by what a person wrote, and return its description.

    "auto" takes a GPU first, else a CPU device, else any other; numpy only where pip has no CPU
    device (anything but Linux on x86-64). "0", "1" is an index of `devices()`; "cpu", "gpu" and
    "accelerator" the first of a type; "numpy" the host; anything else a part of a name or of a
    platform's name. Raises DeviceError, which names the choices.
    """
    wanted = select.strip().lower()
    if wanted == "numpy":
        return numpy_device()
    found = devices()
    if wanted == "auto":
        ranked = sorted(found, key=lambda info: ("gpu", "cpu", "accelerator").index(info.type))
        if ranked:
            return ranked[0]
        if pip_has_no_cpu_device():
            return numpy_device()
        raise DeviceError(f"no OpenCL device found: {INSTALL_HINT}")
    if not found:
        raise DeviceError(f"no OpenCL device found for device.select = {select!r}: {INSTALL_HINT}")
    if wanted.isdecimal():
        matches = [info for info in found if info.index == int(wanted)]
    elif wanted in ("cpu", "gpu", "accelerator"):
        matches = [info for info in found if info.type == wanted]
    elif wanted:
        matches = [info for info in found if wanted in f"{info.name} {info.platform}".lower()]
    else:
        matches = []
    if not matches:
        choices = "; ".join(str(info) for info in found)
        raise DeviceError(
            f"device.select = {select!r} names no device; there is {choices}; "
            'or "auto", "cpu", "gpu", "numpy"'
        )
    return matches[0]


def pip_has_no_cpu_device() -> bool:
    """Say whether this is a platform for which pip has no OpenCL CPU device."""
    return not (sys.platform == "linux" and platform.machine() in ("x86_64", "AMD64"))
