"""What PoCL is told as it starts: above all the CPU to compile for, which it may not know.

LLVM names the CPUs it knows. One that is newer than itself it calls by the name of an older one, so
half of the registers lie idle, or "generic", which PoCL 3.0's own compiler then refuses. The levels of
the x86-64 psABI (https://gitlab.com/x86-psABIs/x86-64-ABI) name sets of instructions instead, and a
compiler knows them whatever CPU has them. PoCL reads a name from its environment as it starts (from 5.0
on, and in Debian's builds); pip's 3.0 is given it by `kernels.device.pip_pocl`.

PoCL keeps the kernels that it built under the name that LLVM found, not under the one it was given, and
its library of built-in functions is chosen by the CPU alone. So its cache gets a folder for each pair
of the two, and `OpenDevice.build` writes them into every kernel's text.
"""

import os
import re
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from kernels.device import pip_pocl
from kernels.device.cache import cache_folder
from kernels.errors import DeviceError

AS_FOUND = "as found"
"""For `device.target_cpu`: leave to the compiler what it takes the CPU for."""

LEVELS: Mapping[str, frozenset[str]] = {
    "x86-64-v2": frozenset(["cx16", "lahf_lm", "popcnt", "pni", "sse4_1", "sse4_2", "ssse3"]),
    "x86-64-v3": frozenset(["abm", "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe"]),
    "x86-64-v4": frozenset(["avx512bw", "avx512cd", "avx512dq", "avx512f", "avx512vl"]),
}
"""What each level of the psABI adds to the one before, in the words of Linux's /proc/cpuinfo."""

_BUILTINS = {"x86-64-v2": "sse41", "x86-64-v3": "avx2", "x86-64-v4": "avx512"}
"""PoCL's libraries of built-in functions; Debian's builds take the CPU's name from the library's."""

THREADS, INLINE = ("pthread-", "cpu-"), ("basic-", "cpu-minimal-")
"""Names, up to PoCL 4 and from there on, of its CPU device, and of the one that computes in the calling
thread."""
DEVICES = "pthread cpu cpu-tbb basic cpu-minimal"
"""Brings both as POCL_DEVICES: PoCL passes over names that it does not know."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
_lock = threading.Lock()


@dataclass(frozen=True)
class Started:
    """How this process began with PoCL."""

    name: str
    """The CPU that it is to compile for, or `AS_FOUND`."""
    foreign: bool
    """True if a program of which this is a part loaded a PoCL before, with a cache of its own."""


_started: Started | None = None


def check_name(name: str, key: str = "device.target_cpu") -> str:
    """Return a CPU's name, or `AS_FOUND`, if it can be one; ``key`` says where it was set.

    Raises:
        DeviceError: it cannot.
    """
    if name != AS_FOUND and not _NAME.fullmatch(name):
        raise DeviceError(
            f"{key} = {name!r} is no CPU's name: use one that LLVM knows, such as "
            f'"x86-64-v3", or "{AS_FOUND}"'
        )
    return name


def level_of(flags: Iterable[str]) -> str | None:
    """Return the highest level of the psABI that a CPU with these flags has, or None below v2."""
    has, found = set(flags), None
    for level, needed in LEVELS.items():
        if not needed <= has:
            break
        found = level
    return found


@cache
def own_level() -> str | None:
    """Return the highest level that all CPUs of this machine and its operating system have.

    Linux leaves out the flags that it does not support itself, or was told to hide. None if the machine
    is no x86-64 or does not tell.
    """
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    lines = {line for line in text.splitlines() if line.startswith("flags")}
    sets = [set(line.partition(":")[2].split()) for line in lines]
    return level_of(set.intersection(*sets)) if sets else None


def start(target: str | None = None) -> Started:
    """Return for what PoCL is to compile in this process, and tell it before it first starts.

    ``target`` is a CPU's name or `AS_FOUND`; None takes what the process began with, else the variable
    POCL_LLVM_CPU_NAME, else this machine's level.

    Raises:
        DeviceError: it is no name, or this process began with another.
    """
    global _started
    with _lock:
        if _started is None:
            given = os.environ.get("POCL_LLVM_CPU_NAME")
            asked = "device.target_cpu" if target or not given else "POCL_LLVM_CPU_NAME"
            name = check_name(target or given or own_level() or AS_FOUND, asked)
            foreign = pip_pocl.is_loaded()
            if name == AS_FOUND:
                os.environ.pop("POCL_LLVM_CPU_NAME", None)
            os.environ.update(environment(name, own_level()))
            _started = Started(name, foreign)
        elif target is not None and target != _started.name:
            raise DeviceError(
                f"device.target_cpu = {target!r} comes too late: this process compiles for "
                f"{_started.name!r} already; start another one"
            )
        return _started


def environment(target: str, level: str | None) -> dict[str, str]:
    """Return the variables that tell PoCL for what to compile, and where to keep it."""
    name = cache_name(target, level)
    given = os.environ.get("POCL_CACHE_DIR")
    folder = Path(given) if given else cache_folder() / "pocl"
    if folder.name != name:  # a parent of ours may have set it for us
        folder /= name
    variables = {"POCL_CACHE_DIR": str(folder)}
    if "POCL_DEVICES" not in os.environ:
        variables["POCL_DEVICES"] = DEVICES
    if target != AS_FOUND:
        variables["POCL_LLVM_CPU_NAME"] = target
        if target in _BUILTINS and "POCL_KERNELLIB_NAME" not in os.environ:
            variables["POCL_KERNELLIB_NAME"] = _BUILTINS[target]
    return variables


def cache_name(target: str, level: str | None) -> str:
    """Return the name of what is built for ``target`` on a CPU of ``level``."""
    name = target.replace(" ", "-")
    return name if level in (None, target) else f"{name}-on-{level}"
