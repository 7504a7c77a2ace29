"""Give pip's PoCL 3.0 the name of a CPU, for which it has no variable.

Its description of a device holds a pointer to the name that LLVM gave (``llvm_cpu`` of
``struct _cl_device_id`` in lib/CL/pocl_cl.h of PoCL 3.0), which is read at every build. The pointer is
replaced if, and only if, the library's file is the very one whose layout is known here and the pointer
leads to the name that PoCL itself tells. Everything else is left alone.
"""

import ctypes
import hashlib
import os
from pathlib import Path
from typing import Any

from kernels.device.cache import cache_folder

DIGESTS = frozenset({"d214aece60df73c75d8a678d33e4a51f4e5b594772dc74891b5451f909db6025"})
"""SHA-256 of libpocl in the wheel of pocl-binary-distribution 3.0."""
FIELD = 640
"""Bytes from the beginning of the description to the pointer."""
UNKNOWN = "generic"
"""LLVM's name for a CPU that it does not know."""


def is_loaded() -> bool:
    """Say if this process has loaded a PoCL."""
    try:
        return "/libpocl" in Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False


def own_name(device: Any) -> str:
    """Return what a device of any PoCL says that LLVM takes the CPU for, or ""."""
    triple, mark, name = device.version.rpartition("linux-gnu-")
    return name.strip() if mark and "HSTR" in triple else ""


def give_name(device: Any, name: str, *, unknown: bool = False) -> bool:
    """Have a device of pip's PoCL 3.0 compile for the CPU of this name; say if it does.

    Call it before the first build; a second time does no harm. It returns False, and touches nothing,
    on every other device, and with ``unknown`` also where LLVM knows the CPU.
    """
    found = own_name(device)
    if not found or "PoCL 3.0" not in device.platform.version:
        return False
    library = _library_of(device)
    if library is None or _digest(library) not in DIGESTS:
        return False
    field = ctypes.cast(device.int_ptr + FIELD, ctypes.POINTER(ctypes.c_void_p))
    held = ctypes.string_at(field[0]).decode(errors="replace") if field[0] else ""
    if held == name:
        return True
    if held not in (found, UNKNOWN) or (unknown and held != UNKNOWN):
        return False
    # Of malloc's memory, because PoCL may free it.
    libc = ctypes.CDLL(None)
    libc.strdup.restype = ctypes.c_void_p
    field[0] = libc.strdup(name.encode())
    return True


def _library_of(device: Any) -> Path | None:
    """Return the file of the driver that a device belongs to, or None if the system does not tell.

    A device begins with a pointer to its driver's table of functions: cl_khr_icd of OpenCL.
    """
    (table,) = ctypes.cast(device.int_ptr, ctypes.POINTER(ctypes.c_size_t * 1)).contents
    try:
        maps = Path("/proc/self/maps").read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return None
    for line in maps.splitlines():
        bounds, *_, path = line.split(maxsplit=5)
        first, end = (int(bound, 16) for bound in bounds.split("-"))
        if first <= table < end:
            return Path(path) if path.startswith("/") else None
    return None


def _digest(library: Path) -> str:
    """Return the SHA-256 of a file, once computed and then kept as long as the file stays as it is."""
    try:
        with library.open("rb") as file:
            about = os.fstat(file.fileno())
            stamp = (str(library), about.st_ino, about.st_size, about.st_mtime_ns)
            key = hashlib.sha256(repr(stamp).encode()).hexdigest()[:24]
            kept = cache_folder() / f"{key}.digest"
            if kept.exists():
                return kept.read_text(encoding="ascii")
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, ValueError):
        return ""
    # Whole or not at all: others may read it meanwhile.
    part = kept.with_suffix(f".{os.getpid()}")
    try:
        part.write_text(digest, encoding="ascii")
        part.replace(kept)
    except OSError:
        part.unlink(missing_ok=True)
    return digest
