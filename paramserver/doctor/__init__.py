"""Find out what of this machine works, what it reaches, and what is missing.

Each file is one part of the examination; what touches a device or serves the other end of a
connection runs in a child process that ends whatever happens, see `paramserver.doctor.child`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from paramserver.doctor.devices import examine_devices
from paramserver.doctor.names import examine_names
from paramserver.doctor.network import examine_pair
from paramserver.doctor.ports import examine_ports
from paramserver.doctor.report import Report
from paramserver.doctor.system import examine_system
from paramserver.doctor.tune import tune_devices
from paramserver.doctor.versions import examine_versions

__all__ = ["examine", "tune_devices"]


async def examine(device: str | None, say: Callable[[str], None]) -> int:
    """Examine this machine and say the findings line by line, within 15 s on warm kernels.

    ``device`` selects what to try as `device.select` does; None tries every OpenCL device. Returns
    the exit code: 0 where all is well, 3 where something is missing.
    """
    report = Report(say)
    say("Versions")
    examine_versions(report)
    report.heading("System packages")
    await asyncio.to_thread(examine_system, report)
    report.heading("Names")
    await asyncio.to_thread(examine_names, report)
    report.heading("Ports")
    await examine_ports(report)
    report.heading("A pair of processes on this machine (ratio: larger is better)")
    await examine_pair(report)
    report.heading("Devices")
    await examine_devices(report, device)
    return report.end()
