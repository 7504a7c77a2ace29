"""Devices on machines as people have them: a CPU that the compiler does not know, drivers that fail."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kernels.device import trial
from kernels.device.discovery import DeviceInfo, devices
from kernels.device.target_cpu import LEVELS, own_level
from kernels.device.thread_affinity import POCL
from tests.support.process import run

UNKNOWN_CPU = str(Path(__file__).parents[1] / "support" / "unknown_cpu")
PIP_POCL = next((info for info in devices() if "PoCL 3.0-rc2" in info.software), None)
OWN = own_level()

needs_pip_pocl = pytest.mark.skipif(PIP_POCL is None, reason="pip's PoCL 3.0 is not installed here")
needs_level = pytest.mark.skipif(OWN is None, reason="this is no x86-64 CPU of level v2 or above")


@needs_pip_pocl
@needs_level
def test_a_run_on_a_cpu_that_the_compiler_does_not_know(tmp_path: Path) -> None:
    done = run(
        *("nodes", "train", "digits", "--json", "--device", "PoCL 3.0"),
        cwd=tmp_path,
        PYTHONPATH=UNKNOWN_CPU,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["accuracy"] >= 0.96
    assert f"for {OWN}" in result["device"]


@needs_pip_pocl
def test_as_found_the_compilers_words_say_why_it_fails(tmp_path: Path) -> None:
    done = run(
        *("nodes", "train", "digits", "--json", "--device", "PoCL 3.0"),
        "--set=device.target_cpu=as found",
        cwd=tmp_path,
        PYTHONPATH=UNKNOWN_CPU,
        XDG_CACHE_HOME=str(tmp_path),
    )
    assert done.returncode == 3, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("node:")]
    assert "no OpenCL device works" in line
    assert "error: unknown target CPU 'generic'" in line
    assert "pip install" in line
    assert "Traceback" not in done.stderr


def test_no_device_is_one_line_and_code_3(tmp_path: Path) -> None:
    done = run("nodes", "train", "digits", "--json", cwd=tmp_path, POCL_DEVICES="none")
    if any(info.platform != POCL for info in devices()):
        pytest.skip("this host has a device beside PoCL's")
    assert done.returncode == 3, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("node:")]
    assert len(lines) == 1
    assert "install" in lines[0]
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").iterdir())


TRY = """
import sys
from kernels.device.discovery import devices
from kernels.device.trial import compute
info = next(one for one in devices(sys.argv[1]) if "PoCL 3.0-rc2" in one.software)
print(info.target, compute(info))
"""


@needs_pip_pocl
@needs_level
def test_what_was_built_for_one_level_is_not_taken_for_another(tmp_path: Path) -> None:
    names = list(LEVELS)
    levels = names[: names.index(str(OWN)) + 1][-2:]
    widths = {"x86-64-v2": "4", "x86-64-v3": "8", "x86-64-v4": "16"}
    for level in (*levels, *reversed(levels), "as found", *levels):
        done = subprocess.run(
            [sys.executable, "-c", TRY, level],
            env={
                **{name: of for name, of in os.environ.items() if not name.startswith("POCL_")},
                "POCL_CACHE_DIR": str(tmp_path / "pocl"),
                "XDG_CACHE_HOME": str(tmp_path),
            },
            timeout=60,
            check=False,
            capture_output=True,
            text=True,
        )
        if level != "as found":
            assert done.stdout.split() == [level, widths[level]], done.stderr
        elif done.returncode != 0:  # a CPU that the compiler does not know
            assert "unknown target CPU" in done.stderr


LINKER = """#!/bin/sh
{}
"""


@pytest.fixture
def cpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> DeviceInfo:
    if PIP_POCL is None:
        pytest.skip("pip's PoCL 3.0 is not installed here")
    monkeypatch.setattr(trial, "cache_folder", lambda: tmp_path)
    monkeypatch.setenv(
        "POCL_CACHE_DIR", str(tmp_path / os.path.basename(os.environ["POCL_CACHE_DIR"]))
    )
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    return PIP_POCL


def link_by(folder: Path, line: str) -> None:
    path = folder / "bin" / "ld"
    path.write_text(LINKER.format(line))
    path.chmod(0o755)


def test_a_driver_that_ends_its_process_is_passed_over_with_its_last_words(
    cpu: DeviceInfo, tmp_path: Path
) -> None:
    link_by(tmp_path, "echo 'ld: cannot find -lgcc' >&2; exit 1")
    found = trial.tried(cpu, lambda _: None)
    assert not found.works
    assert "ended the process by SIGABRT" in found.reason
    assert "cannot find -lgcc" in found.reason
    assert "\n" not in found.reason
    (tmp_path / "bin" / "ld").unlink()
    assert trial.tried(cpu, lambda _: None) == found  # kept
    assert trial.tried(cpu, lambda _: None, found.when) == found
    mended = trial.tried(cpu, lambda _: None, time.time())
    assert mended.works
    assert mended.width in (4, 8, 16)
    link_by(tmp_path, "exit 1")
    assert trial.tried(cpu, lambda _: None, time.time()) == mended  # costs nothing any more


def test_a_driver_that_hangs_is_ended_at_the_deadline(
    cpu: DeviceInfo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "WITHIN", 8.0)
    monkeypatch.setattr(trial, "LONG", 0.5)
    link_by(tmp_path, f"echo $$ >{tmp_path}/pid; exec sleep 600")
    told: list[str] = []
    found = trial.tried(cpu, told.append)
    assert found.reason == "a small kernel did not end within 8 s"
    assert told == [f"trying device {cpu}: 8 s at most, once"]
    pid = int((tmp_path / "pid").read_text())
    assert not Path(f"/proc/{pid}/cmdline").exists() or "sleep" not in Path(
        f"/proc/{pid}/cmdline"
    ).read_text(errors="replace")


def test_a_damaged_record_is_tried_again(cpu: DeviceInfo, tmp_path: Path) -> None:
    assert trial.tried(cpu, lambda _: None).works
    (path,) = tmp_path.glob("*.trial")
    for text in ("", "{", "[]", '{"works": 1}', '{"works": true, "width": "x"}', '{"else": 1}'):
        path.write_text(text)
        assert trial.tried(cpu, lambda _: None).works
        assert json.loads(path.read_text())["works"] is True
