"""What PoCL needs of the system to link kernels: ``ld``, and the files it names to it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from kernels.device.discovery import pip_has_no_cpu_device
from paramserver.doctor.report import Report

QUERY_WITHIN = 5.0


def missing_packages(root: Path = Path("/")) -> list[str]:
    """Return the packages, by Debian's names, without which PoCL cannot link a kernel.

    A system without them fails at the first launch: `cannot find -lgcc`, `-lgcc_s`, `-lc`.
    """
    missing = []
    if shutil.which("ld") is None:
        missing.append("binutils")
    if not _any(root, "usr/lib*/libc.so", "usr/lib/*/libc.so"):
        missing.append("libc6-dev")
    if not _any(root, "usr/lib/gcc/*/*/libgcc.a"):
        missing.append(_libgcc_package())
    return missing


def _any(root: Path, *patterns: str) -> bool:
    return any(True for pattern in patterns for _ in root.glob(pattern))


def _libgcc_package() -> str:
    """Return the development package of the libgcc that this system has, such as libgcc-12-dev."""
    query = ["dpkg-query", "--show", "--showformat=${Version}", "libgcc-s1"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=QUERY_WITHIN)
    except (OSError, subprocess.TimeoutExpired):
        return "libgcc-dev"
    release = answer.stdout.partition(".")[0].partition("-")[0].strip()
    return f"libgcc-{release}-dev" if release.isdecimal() else "libgcc-dev"


def how_to_install(packages: list[str]) -> str:
    """Return the one line that brings packages, or words where there is no apt-get."""
    names = " ".join(packages)
    if shutil.which("apt-get") is None:
        return f"install what this system's package manager calls {names}"
    sudo = "" if os.geteuid() == 0 else "sudo "
    return f"{sudo}apt-get update && {sudo}apt-get install -y --no-install-recommends {names}"


def examine_system(report: Report) -> None:
    """Say which system packages are missing, and the line that brings them."""
    if pip_has_no_cpu_device():
        report.ok("nothing is needed here: pip has no PoCL for this platform")
        return
    missing = missing_packages()
    if missing:
        report.fault(
            f"not installed: {', '.join(missing)}; PoCL links no kernel without",
            how_to_install(missing),
        )
    else:
        report.ok("PoCL can link kernels: ld, libc and libgcc are here")
