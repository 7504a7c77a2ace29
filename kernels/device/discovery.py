"""Find and describe devices.

pyopencl is imported only when devices are looked for, so that a host without it can use numpy.
"""

import os
import platform
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from kernels.device import pip_pocl, target_cpu
from kernels.device.target_cpu import Started
from kernels.device.thread_affinity import POCL, spreading

INSTALL_HINT = (
    'install one (pip install "pyopencl[pocl]" brings a CPU device on Linux x86-64, apt install '
    "pocl-opencl-icd on Debian and Ubuntu; a GPU's comes with its driver), or set device.select = "
    '"numpy" to compute without OpenCL'
)

SHORT_NAMES = {POCL: "PoCL", "NVIDIA CUDA": "CUDA", "Intel(R) OpenCL": "Intel OpenCL"}
"""What people call a platform, where its own name is long."""


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
    target: str = ""
    """The CPU that PoCL's compiler compiles for; empty on other devices."""
    width: int = field(default=0, compare=False)
    """Floats of the widest instructions that its compiler makes; 0 before it was tried."""

    def __str__(self) -> str:
        units = f"{self.compute_units} unit{'' if self.compute_units == 1 else 's'}"
        memory = f"{self.memory_bytes / 2**30:.1f} GiB"
        if self.type == "numpy":
            return f"numpy {self.driver} on the host ({units}, {memory})"
        return f"{self.index}: {self.name} ({self.type}, {self.software}, {units}, {memory})"

    @property
    def software(self) -> str:
        """The driver, its version, and what it compiles for."""
        name = SHORT_NAMES.get(self.platform, self.platform)
        return f"{name} {self.driver}{f' for {self.target}' if self.target else ''}"

    @property
    def label(self) -> str:
        """Its name and software, short enough for a table."""
        return self.name if self.type == "numpy" else f"{self.name}, {self.software}"

    @property
    def kind(self) -> str:
        """What devices have in common if they compute the same bits."""
        return self.software if self.target else self.label


def devices(target: str | None = None) -> list[DeviceInfo]:
    """Return every OpenCL device found, in the platforms' order; empty if there is none.

    Whether one works is for `kernels.device.choice` to find out. ``target`` is as in
    `kernels.device.target_cpu.start`, which raises DeviceError.
    """
    return [info for info, _ in found_devices(target)]


def found_devices(target: str | None = None) -> list[tuple[DeviceInfo, Any]]:
    """Return every OpenCL device found with pyopencl's own object for it."""
    started = target_cpu.start(target)
    # Each is given its name, also those that are not shown.
    found = [(device, _target(device, started)) for device in _opencl_devices()]
    shown = [pair for pair in found if not is_inline(pair[0]) or threaded(pair[0]) is None]
    return [(_describe(index, *pair), pair[0]) for index, pair in enumerate(shown)]


def is_inline(device: Any) -> bool:
    """Say if a device is PoCL's that computes in the calling thread, one work-group after another."""
    return bool(device.platform.name == POCL and device.name.startswith(target_cpu.INLINE))


def inline_device(device: Any) -> Any:
    """Return the device that computes in the calling thread beside PoCL's CPU device, or None."""
    if device.platform.name != POCL or threaded(device) != device:
        return None
    return next((one for one in device.platform.get_devices() if is_inline(one)), None)


def threaded(device: Any) -> Any:
    """Return the CPU device with threads of a device's PoCL, or None."""
    for one in device.platform.get_devices():
        if one.name.startswith(target_cpu.THREADS) and not is_inline(one):
            return one
    return None


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


def _describe(index: int, device: Any, target: str) -> DeviceInfo:
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
        target=target,
    )


def _target(device: Any, started: Started) -> str:
    """Return for which CPU a device compiles, after pip's PoCL was given the name.

    Where a foreign program loaded it, kernels for another CPU must not get into that program's cache.
    """
    if device.platform.name != POCL:
        return ""
    if started.name != target_cpu.AS_FOUND and pip_pocl.give_name(
        device, started.name, unknown=started.foreign
    ):
        return started.name
    return pip_pocl.own_name(device)


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


def pip_has_no_cpu_device() -> bool:
    """Say whether this is a platform for which pip has no OpenCL CPU device."""
    return not (sys.platform == "linux" and platform.machine() in ("x86_64", "AMD64"))
