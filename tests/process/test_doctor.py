"""The doctor as a person runs it, on machines that lack something, and its child processes."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from kernels.device.discovery import devices, pip_has_no_cpu_device
from paramserver.doctor import devices as examining
from paramserver.doctor import network
from paramserver.doctor.child import started
from paramserver.doctor.report import Report
from paramserver.errors import NotReady
from tests.support.process import ROOT, Running, gone, run

pytestmark = pytest.mark.usefixtures("no_orphans")

SECTIONS = ["Versions", "System packages", "Names", "Ports", "A pair of processes", "Devices"]


def module(folder: Path, name: str, text: str) -> str:
    """Write a module and return a PYTHONPATH on which it comes first."""
    path = folder / "modules" / f"{name}.py"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return f"{path.parent}{os.pathsep}{ROOT}"


def section(output: str, title: str) -> list[str]:
    """Return the lines of one section of what the doctor said."""
    lines = output.splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith(title)) + 1
    return lines[start : lines.index("", start)]


def joined(lines: list[str]) -> str:
    """Return wrapped lines as one."""
    return " ".join(" ".join(lines).split())


# The command


@pytest.mark.skipif(not devices(), reason="no OpenCL device on this host")
def test_a_machine_that_is_well_is_examined_whole(tmp_path: Path) -> None:
    done = run("paramserver", "doctor", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    found = [line for line in done.stdout.splitlines() if line and not line.startswith(" ")]
    assert [line.partition(" on this")[0] for line in found] == [*SECTIONS, "All is well."]
    small, large = section(done.stdout, SECTIONS[4])[1:]
    assert small.startswith("  1 kB there and back")
    assert large.startswith("  replies of 16 MiB")
    assert all(float(figure) > 0 for figure in [*small.split()[-4:-2], *large.split()[-4:-2]])
    lines = section(done.stdout, "Devices")
    assert [line for line in lines if line.startswith("  ok       0: ")]
    families = {line.split()[0] for line in lines if line[2:3].strip()}
    assert {"launch", "matmul", "elementwise", "loss", "rule"} <= families
    assert lines.count("  ok       its results agree with numpy's") == len(devices())


def test_one_device_can_be_chosen(tmp_path: Path) -> None:
    done = run("paramserver", "doctor", "--device", "numpy", cwd=tmp_path)
    assert [line for line in section(done.stdout, "Devices") if "ok       numpy " in line]


def test_a_device_that_is_not_there_is_a_fault(tmp_path: Path) -> None:
    done = run("paramserver", "doctor", "--device", "abacus", cwd=tmp_path)
    assert done.returncode == 3
    lines = section(done.stdout, "Devices")
    assert lines[0].startswith("  fault    ")
    assert "device.select = 'abacus' names no device" in joined(lines)


@pytest.mark.skipif(pip_has_no_cpu_device(), reason="no OpenCL device is no fault here")
def test_without_a_device_it_says_what_to_install(tmp_path: Path) -> None:
    text = "class Error(Exception): pass\ndef get_platforms(): raise Error('none')\n"
    done = run(
        "paramserver",
        "doctor",
        cwd=tmp_path,
        PYTHONPATH=module(tmp_path, "pyopencl", text),
        OCL_ICD_VENDORS=str(tmp_path),
    )
    assert done.returncode == 3
    assert section(done.stdout, "Devices") == ["  fault    no OpenCL device found"]
    cure = done.stdout.splitlines()[-1]
    assert "pip install" in cure
    assert f"OCL_ICD_VENDORS is '{tmp_path}'" in cure


@pytest.mark.skipif(pip_has_no_cpu_device(), reason="pip has no PoCL for this platform")
def test_without_a_linker_it_names_the_package(tmp_path: Path) -> None:
    done = run("paramserver", "doctor", cwd=tmp_path, PATH=str(tmp_path))
    assert done.returncode == 3
    lines = section(done.stdout, "System packages")
    assert lines[0].startswith("  fault    not installed: binutils")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_its_children_end_with_it(tmp_path: Path, number: signal.Signals) -> None:
    def children() -> list[int]:
        tasks = Path(f"/proc/{doctor.process.pid}/task")
        return [int(pid) for file in tasks.glob("*/children") for pid in file.read_text().split()]

    with Running("paramserver", "doctor", cwd=tmp_path) as doctor:
        doctor.wait_until(lambda: bool(children()))
        pids = children()
        doctor.signal(number)
        doctor.process.wait(10.0)
        assert gone(pids, 10.0) == []
        assert "Traceback" not in doctor.said


# Drivers that fail


async def test_a_driver_that_crashes_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "import os, sys\nprint('cannot find -lgcc', file=sys.stderr, flush=True)\nos.abort()\n"
    monkeypatch.setenv("PYTHONPATH", module(tmp_path, "pyopencl", text))
    report = Report(lambda _: None)
    await examining.examine_devices(report, None)
    (fault,) = report.faults
    assert "SIGABRT: cannot find -lgcc" in fault.what


async def test_a_driver_that_hangs_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "import threading\nthreading.Event().wait()\n"
    monkeypatch.setenv("PYTHONPATH", module(tmp_path, "pyopencl", text))
    monkeypatch.setattr(examining, "FIND_WITHIN", 0.5)
    with pytest.raises(NotReady, match=r"no end after 0\.5 s"):
        await examining.find_devices()


async def test_what_was_measured_before_a_crash_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (
        "import os\nfrom paramserver.doctor.child import Voice\nvoice = Voice()\n"
        "figure = {'family': 'matmul', 'case': 'nn/1x1x1', 'value': 12.5, 'unit': 'GFLOP/s'}\n"
        "voice.tell(figure=figure)\nprint('drivers talk')\nos.abort()\n"
    )
    monkeypatch.setenv("PYTHONPATH", module(tmp_path, "half", text))
    monkeypatch.setattr(examining, "TRIAL", "half")
    said: list[str] = []
    report = Report(said.append)
    await examining.examine_devices(report, "gpu")
    assert [line for line in said if line.split() == ["matmul", "nn/1x1x1", "12.5"]]
    (fault,) = report.faults
    assert fault.what.startswith("--device gpu failed: its process was ended by SIGABRT")


async def test_a_child_that_does_not_leave_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "import threading\nprint('{}', flush=True)\nthreading.Event().wait()\n"
    monkeypatch.setenv("PYTHONPATH", module(tmp_path, "stays", text))
    async with started("stays", deadline=10.0) as child:
        assert await child.told() == {}
        pid = child.pid
    assert gone([pid], 0.0) == []


# The pair of processes


async def test_a_pair_of_processes_has_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr(network, "ROUNDS", 1)
    ours, raw = await network.measure_pair()
    for times in (ours, raw):
        assert len(times.trips) == network.TRIPS
        assert len(times.replies) == network.REPLIES
        assert times.trip > 0
        assert times.goodput > 0


@pytest.mark.parametrize("text", ["import sys\nsys.exit('no socket')\n", "input()\n"])
async def test_a_pair_that_fails_is_a_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("PYTHONPATH", module(tmp_path, "broken", text))
    monkeypatch.setattr(network, "PAIR", "broken")
    monkeypatch.setattr(network, "WITHIN", 1.0)
    report = Report(lambda _: None)
    await network.examine_pair(report)
    (fault,) = report.faults
    assert "a pair of processes" in fault.what
    assert sys.executable not in fault.what
