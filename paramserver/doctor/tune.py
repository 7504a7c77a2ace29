"""Search for the best cuts of a device's products, and say what they gain over the shipped ones."""

from __future__ import annotations

import math
from collections.abc import Callable

from kernels.device.discovery import DeviceInfo
from paramserver.doctor.child import LONGEST, started
from paramserver.doctor.devices import TRIAL, find_devices, no_device_hint
from paramserver.doctor.report import Report
from paramserver.errors import NotReady


async def tune_devices(device: str | None, say: Callable[[str], None]) -> int:
    """Search on one device, or on every one found, for under two minutes each; keep what is found.

    Returns the exit code: 0 where all went well, 3 otherwise.
    """
    report = Report(say)
    say("Products cut otherwise than by the model (ratio: larger is better)")
    try:
        names = [str(info.index) for info in await find_devices()] if device is None else [device]
    except NotReady as error:
        report.fault(f"looking for OpenCL devices failed: {error}")
        return report.end()
    if not names:
        report.fault("no OpenCL device found", no_device_hint())
    for name in names:
        await _tune(report, name)
    return report.end()


async def _tune(report: Report, select: str) -> None:
    rows: list[list[str]] = []
    ratios: list[float] = []
    try:
        async with started(TRIAL, select, "tune", deadline=LONGEST) as child:
            told = await child.told()
            if "device" in told:
                report.ok(str(DeviceInfo(**told["device"])))
                told = await child.told()
            while "of" in told:
                ratios.append(told["ratio"])
                if told["choice"] is not None:
                    columns, items = told["choice"]
                    rows.append([told["of"], f"{columns} columns", f"{items} items a unit"])
                    rows[-1].append(f"{told['ratio']:.2f}")
                told = await child.told()
    except NotReady as error:
        told = {"error": f"device {select} failed: {error}"}
    report.table(rows, "<>>>")
    if "error" in told:
        report.fault(told["error"])
    elif ratios:
        mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
        report.ok(f"{len(rows)} of {len(ratios)} classes of shapes gain; in the mean {mean:.3f}")
    else:
        report.note("nothing to choose on this device")
