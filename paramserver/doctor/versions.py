"""The versions of Python, of this package, and of what it stands on."""

from __future__ import annotations

import platform
import sys
from importlib.metadata import PackageNotFoundError, version

from kernels.device.target_cpu import own_level
from paramserver import __version__
from paramserver.doctor.report import Report

PYTHON = (3, 11)
"""The oldest Python that does."""

NEEDED = ("numpy", "pyopencl", "aiohttp", "aiozk", "msgpack", "pydantic")
OPTIONAL = {
    "uvloop": "asyncio's own loop serves, more slowly",
    "pocl-binary-distribution": "PoCL, a CPU device from pip, is not installed",
}


def installed(name: str) -> str | None:
    """Return the version of an installed distribution, or None."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def machine() -> str:
    """Return the system, its kind of processor, and the level of instructions that this one has."""
    level = own_level()
    return f"{platform.system()} {platform.machine()}{f', {level}' if level else ''}"


def examine_versions(report: Report) -> None:
    """Say every version, and what is not there or too old."""
    rows = [
        ["Python", platform.python_version(), machine()],
        ["paramserver", __version__, ""],
    ]
    rows += [[name, installed(name) or "-", ""] for name in NEEDED]
    rows += [
        [name, installed(name) or "-", "" if installed(name) else without]
        for name, without in OPTIONAL.items()
    ]
    report.table(rows, "<<<")
    lacking = [name for name in NEEDED if installed(name) is None]
    if lacking:
        report.fault(f"not installed: {', '.join(lacking)}", f"pip install {' '.join(lacking)}")
    if sys.version_info < PYTHON:
        wanted = ".".join(map(str, PYTHON))
        report.fault(
            f"Python {platform.python_version()} is too old: {wanted} is the oldest that does"
        )
