"""A disk of a few pages: a tmpfs in a mount namespace of a process's own, so that it can be full."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

_IN_NAMESPACE = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c")


def small_disk(folder: Path, size: str) -> list[str]:
    """Return what to write before a command to give it a tmpfs of ``size`` (256k, 4m) at ``folder``.

    The process keeps the id that it is started with, and the disk is its own: others see it under
    /proc/<id>/root. Skips the test where the system allows no such thing.
    """
    mount = f"mount -t tmpfs -o size={size} none {folder}"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        can = subprocess.run(
            [*_IN_NAMESPACE, mount], capture_output=True, timeout=10, check=False
        ).returncode
    except FileNotFoundError:
        can = 127
    if can != 0:
        pytest.skip("NO SMALL DISK: this system lets nobody mount a tmpfs in a user namespace")
    return [*_IN_NAMESPACE, f'{mount} && exec "$@"', "sh"]


def fill(folder: Path, leave: int = 0) -> Path:
    """Fill the disk at ``folder`` with one file but for about ``leave`` bytes; return that file."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            file.truncate(max(file.tell() - leave, 0))
    return filler
