"""Kernels are built once on a host, whoever needs them."""

import shutil
from pathlib import Path

import pytest

from kernels.device.device import POCL
from kernels.device.discovery import devices
from tests.support.process import run

LD = """#!/bin/sh
echo "$PPID" >>"$LINKED"
exec {ld} "$@"
"""


@pytest.mark.skipif(
    all(info.platform != POCL for info in devices()), reason="PoCL is not installed here"
)
def test_the_processes_of_a_run_build_each_kernel_once(tmp_path: Path) -> None:
    # PoCL calls the linker once for each kernel that it compiles.
    bin_, linked, cache = tmp_path / "bin", tmp_path / "linked", tmp_path / "pocl"
    for folder in (bin_, cache):
        folder.mkdir()
    (bin_ / "ld").write_text(LD.format(ld=shutil.which("ld")))
    (bin_ / "ld").chmod(0o755)
    for epochs in ("1", "2"):
        done = run(
            *("nodes", "train", "digits", "--device", "portable"),
            *("--epochs", epochs, "--output", str(tmp_path / epochs)),
            cwd=tmp_path,
            PATH=f"{bin_}:/usr/bin:/bin",
            LINKED=str(linked),
            POCL_CACHE_DIR=str(cache),
            XDG_CACHE_HOME=str(tmp_path),
        )
        assert done.returncode == 0, done.stderr
        built = list(cache.rglob("*.so"))
        assert len(built) > 5
        assert len(linked.read_text().splitlines()) == len(built)
