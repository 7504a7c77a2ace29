"""Choose a device by what a person wrote, among those that a trial has shown to work."""

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from kernels.device.discovery import (
    INSTALL_HINT,
    DeviceInfo,
    devices,
    numpy_device,
    pip_has_no_cpu_device,
)
from kernels.device.thread_affinity import POCL
from kernels.device.trial import Tell, Trial, tried
from kernels.errors import DeviceError

TYPES = ("gpu", "cpu", "accelerator")
"""In the order in which "auto" looks for them."""


def choose(
    select: str = "auto", target: str | None = None, tell: Tell = lambda _: None
) -> DeviceInfo:
    """Choose a device that works, and return its description.

    Args:
        select: "auto" takes a GPU, else a CPU device, else any other; numpy only where there is none
            and pip has no CPU device (anything but Linux on x86-64). "0", "1" is an index of
            `devices()`; "cpu", "gpu" and "accelerator" are types; "numpy" is the host; anything else
            is a part of a name or of a platform's name. Of several CPU devices the one with the widest
            instructions comes first, then PoCL, then the newer.
        target: see `kernels.device.target_cpu.start`.
        tell: is told what takes longer than two seconds, and which device was passed over and why.

    Raises:
        DeviceError: none works; the text names the choices, and why each fails.
    """
    wanted = select.strip().lower()
    if wanted == "numpy":
        return numpy_device()
    found = devices(target)
    matches = _matching(found, wanted)
    if found and not matches:
        choices = "; ".join(str(info) for info in found)
        raise DeviceError(
            f"device.select = {select!r} names no device; there is {choices}; "
            'or "auto", "cpu", "gpu", "numpy"'
        )
    began = time.time()
    working, failed = _try_all(matches, lambda info: tried(info, tell))
    if matches and not working:  # what failed before may have been mended since
        working, failed = _try_all(matches, lambda info: tried(info, tell, began))
    if working:
        for info, trial in failed:
            tell(f"device {info} is passed over, because it fails: {trial.reason}")
        best, trial = working[0]
        return replace(best, width=trial.width)
    if not found and wanted == "auto" and pip_has_no_cpu_device():
        return numpy_device()
    raise DeviceError(no_device(select, failed))


def _matching(found: Sequence[DeviceInfo], wanted: str) -> list[DeviceInfo]:
    if wanted == "auto":
        return list(found)
    if wanted.isdecimal():
        return [info for info in found if info.index == int(wanted)]
    if wanted in TYPES:
        return [info for info in found if info.type == wanted]
    if not wanted:
        return []
    return [
        info for info in found if wanted in f"{info.name} {info.platform} {info.software}".lower()
    ]


Tried = list[tuple[DeviceInfo, Trial]]


def _try_all(
    among: Sequence[DeviceInfo], one: Callable[[DeviceInfo], Trial]
) -> tuple[Tried, Tried]:
    """Try devices type by type, up to the first type that has one that works, the best first."""
    failed: Tried = []
    for kind in TYPES:
        results = [(info, one(info)) for info in among if info.type == kind]
        failed += [pair for pair in results if not pair[1].works]
        working = [pair for pair in results if pair[1].works]
        if working:
            return sorted(working, key=lambda pair: _merit(*pair), reverse=True), failed
    return [], failed


def _merit(info: DeviceInfo, trial: Trial) -> tuple[int, bool, tuple[int, ...], int]:
    if info.type != "cpu":
        return 0, False, (), -info.index
    return trial.width, info.platform == POCL, version_of(info.driver), -info.index


def version_of(driver: str) -> tuple[int, ...]:
    """Return the numbers that a driver's version begins with; those of "3.0-rc2" are 3 and 0."""
    match = re.match(r"\d+(\.\d+)*", driver)
    return tuple(int(part) for part in match.group().split(".")) if match else ()


def no_device(select: str, failed: Sequence[tuple[DeviceInfo, Trial]]) -> str:
    """Return the one line that says why there is no device, and what to do."""
    asked = "" if select == "auto" else f" for device.select = {select!r}"
    if not failed:
        return f"no OpenCL device found{asked}: {INSTALL_HINT}"
    reasons = "; ".join(f"{info} fails: {trial.reason}" for info, trial in failed)
    return f"no OpenCL device works{asked}: {reasons}; {INSTALL_HINT}"
