"""Find the devices, run every kernel family on each, and say what they reach."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from kernels.device.discovery import INSTALL_HINT, DeviceInfo, pip_has_no_cpu_device
from kernels.device.trial import WITHIN
from kernels.measure import Measurement
from paramserver.doctor.child import started
from paramserver.doctor.report import Report
from paramserver.errors import NotReady

TRIAL = "paramserver.doctor.trial"
FIND_WITHIN = 10.0
TRY_WITHIN = WITHIN + 40.0
"""Seconds for one device: a second or two, and on an empty kernel cache what compiling takes."""

UNITS = ("GFLOP/s", "GB/s", "µs")


async def find_devices() -> list[DeviceInfo]:
    """Return the OpenCL devices of this machine.

    Raises:
        NotReady: a driver crashed or hung while it was asked.
    """
    async with started(TRIAL, deadline=FIND_WITHIN) as child:
        told = await child.told()
        if "error" in told:
            raise NotReady(told["error"])
        return [DeviceInfo(**one) for one in told["devices"]]


async def examine_devices(report: Report, device: str | None) -> None:
    """Try the device that was asked for, or else every device found."""
    if device is not None:
        for why in await _try(report, device, f"--device {device}"):
            report.fault(why)
        return
    try:
        found = await find_devices()
    except NotReady as error:
        report.fault(f"looking for OpenCL devices failed: {error}")
        return
    if found:
        tried = [await _try(report, str(info.index), f"device {info}") for info in found]
        some_work = not all(tried)
        for why in (why for reasons in tried for why in reasons):
            if some_work:
                report.note(f"passed over: {why}")
            else:
                report.fault(why)
        if some_work and len(found) > 1:
            await _say_choice(report)
    elif pip_has_no_cpu_device():
        report.note(f"no OpenCL device: {no_device_hint()}; numpy computes until then")
        for why in await _try(report, "numpy", "numpy"):
            report.fault(why)
    else:
        report.fault("no OpenCL device found", no_device_hint())


def no_device_hint() -> str:
    """Return what to do where no device was found."""
    vendors = os.environ.get("OCL_ICD_VENDORS")
    if vendors is not None:
        return (
            f"the variable OCL_ICD_VENDORS is {vendors!r}, which decides where drivers are looked "
            f"for: unset it, or {INSTALL_HINT}"
        )
    try:
        version("pyopencl")
    except PackageNotFoundError:
        return f"pyopencl is not installed: {INSTALL_HINT}"
    return INSTALL_HINT


async def _say_choice(report: Report) -> None:
    """Say which of several devices a run takes, if nothing else is asked for."""
    try:
        async with started(TRIAL, "auto", "choose", deadline=TRY_WITHIN) as child:
            told = await child.told()
    except NotReady as error:
        told = {"error": str(error)}
    if "chosen" in told:
        report.ok(f'device.select = "auto" takes {told["chosen"]}')
    else:
        report.fault(f"no device could be chosen: {told['error']}")


async def _try(report: Report, select: str, name: str) -> list[str]:
    """Run the trial of one device, and say its figures also where it fails half-way.

    Returns why it fails, if it does; a device that computes wrongly is a fault whatever else works.
    """
    figures: list[Measurement] = []
    try:
        async with started(TRIAL, select, deadline=TRY_WITHIN) as child:
            told = await child.told()
            if "device" in told:
                info = DeviceInfo(**told["device"])
                seconds = told["seconds"]
                report.ok(f"{info}, driver {info.driver}; kernels ready in {seconds:.1f} s")
                told = await child.told()
            while "figure" in told:
                figures.append(Measurement(**told["figure"]))
                told = await child.told()
    except NotReady as error:
        told = {"error": f"{name} failed: {error}"}
    if figures:
        report.table(figure_rows(figures), "<<>>>")
    if "error" in told:
        return [told["error"]]
    if told["wrong"]:
        report.fault(
            f"{name} computes wrongly: {', '.join(told['wrong'])} differ from numpy's results",
            "update its driver, or choose another device by device.select",
        )
    else:
        report.ok("its results agree with numpy's")
    return []


def figure_rows(figures: Sequence[Measurement]) -> list[list[str]]:
    """Return a table of figures: family, case, and one column for each unit."""
    rows = [["family", "case", *UNITS]]
    family = ""
    for figure in figures:
        cells = [readable(figure.value) if figure.unit == unit else "" for unit in UNITS]
        rows.append([figure.family if figure.family != family else "", figure.case, *cells])
        family = figure.family
    return rows


def readable(value: float) -> str:
    """Return a figure with three digits or so: 0.123, 1.23, 12.3, 123."""
    places = 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 3
    return f"{value:.{places}f}"
