"""The doctor's parts one by one: what it says, what it looks for, and what it makes of it."""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest

from kernels.device.discovery import numpy_device
from kernels.host import NumpyEngine
from kernels.interface import Array
from kernels.measure import Measurement
from kernels.operation import Operation
from kernels.ops.reductions import COLUMN_SUM
from paramserver.doctor import devices, names, ports, system, versions
from paramserver.doctor.agreement import disagreements
from paramserver.doctor.report import Report, columns


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def report(said: list[str]) -> Report:
    return Report(said.append)


# What it says


def test_columns_are_as_wide_as_their_widest_cell() -> None:
    rows = [["family", "GB/s", "µs"], ["a", "1.5", ""], ["bbbbbbbb", "123.4", "7"]]
    assert columns(rows, "<>>") == [
        "family     GB/s  µs",
        "a           1.5",
        "bbbbbbbb  123.4   7",
    ]


def test_without_a_fault_the_end_is_0(report: Report, said: list[str]) -> None:
    report.ok("this")
    report.note("that")
    assert report.end() == 0
    assert said == ["  ok       this", "  note     that", "", "All is well."]


def test_the_end_repeats_every_fault_with_its_cure(report: Report, said: list[str]) -> None:
    report.fault("no wheel", "buy a wheel")
    report.fault("no road")
    del said[:]
    assert report.end() == 3
    assert said == ["", "2 faults:", "  1. no wheel", "     buy a wheel", "  2. no road"]


def test_long_texts_are_wrapped_and_commands_are_not(
    said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    report = Report(said.append)
    command = "apt-get install " + " ".join(["package-with-a-name"] * 5)
    report.fault("one two three four five six seven eight nine ten", command)
    assert said == ["  fault    one two three four five six", "           seven eight nine ten"]
    report.end()
    assert f"     {command}" in said


def test_a_figure_stands_in_the_column_of_its_unit() -> None:
    figures = [
        Measurement("matmul", "nn/1x2x3", 123.456, "GFLOP/s"),
        Measurement("matmul", "nt/1x2x3", 12.3456, "GFLOP/s"),
        Measurement("rule", "adam", 0.12345, "GB/s"),
        Measurement("launch", "pipelined", 1.5, "µs"),
    ]
    assert devices.figure_rows(figures) == [
        ["family", "case", "GFLOP/s", "GB/s", "µs"],
        ["matmul", "nn/1x2x3", "123", "", ""],
        ["", "nt/1x2x3", "12.3", "", ""],
        ["rule", "adam", "", "0.123", ""],
        ["launch", "pipelined", "", "", "1.50"],
    ]


# Versions


def test_every_version_is_said(report: Report, said: list[str]) -> None:
    versions.examine_versions(report)
    first = [line.split()[0] for line in said]
    assert first == ["Python", "paramserver", *versions.NEEDED, *versions.OPTIONAL]
    assert report.end() == 0


def test_a_package_that_is_not_there_is_named(
    report: Report, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def version(name: str) -> str:
        if name in ("aiozk", "uvloop"):
            raise PackageNotFoundError(name)
        return "1.0"

    monkeypatch.setattr(versions, "version", version)
    versions.examine_versions(report)
    assert [one.what for one in report.faults] == ["not installed: aiozk"]
    assert any(line.split()[:2] == ["uvloop", "-"] for line in said)


def test_an_old_python_is_a_fault(report: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "PYTHON", (*sys.version_info[:2], 99))
    versions.examine_versions(report)
    (one,) = report.faults
    assert "too old" in one.what


# System packages


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH with nothing in it."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def tool(folder: Path, name: str, text: str = "") -> Path:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def touch(path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.touch()


@pytest.mark.parametrize(
    ("version", "package"),
    [
        ("12.2.0-14", "libgcc-12-dev"),
        ("14-20240412-0ubuntu1", "libgcc-14-dev"),
        ("", "libgcc-dev"),
    ],
)
def test_a_bare_system_lacks_what_links(
    tools: Path, tmp_path: Path, version: str, package: str
) -> None:
    tool(tools, "dpkg-query", f"printf %s '{version}'")
    assert system.missing_packages(tmp_path) == ["binutils", "libc6-dev", package]


def test_a_system_without_dpkg_is_told_debians_name(tools: Path, tmp_path: Path) -> None:
    assert system.missing_packages(tmp_path)[-1] == "libgcc-dev"
    assert system.how_to_install(["binutils"]).startswith("install what this system's")


@pytest.mark.parametrize("libc", ["usr/lib64/libc.so", "usr/lib/x86_64-linux-gnu/libc.so"])
def test_nothing_is_missing_where_all_is_there(tools: Path, tmp_path: Path, libc: str) -> None:
    tool(tools, "ld")
    touch(tmp_path / libc)
    touch(tmp_path / "usr/lib/gcc/x86_64-linux-gnu/12/libgcc.a")
    assert system.missing_packages(tmp_path) == []


@pytest.mark.parametrize(("user", "sudo"), [(0, ""), (1000, "sudo ")])
def test_one_apt_line_brings_them(
    tools: Path, monkeypatch: pytest.MonkeyPatch, user: int, sudo: str
) -> None:
    tool(tools, "apt-get")
    monkeypatch.setattr("os.geteuid", lambda: user)
    assert system.how_to_install(["binutils", "libc6-dev"]) == (
        f"{sudo}apt-get update && "
        f"{sudo}apt-get install -y --no-install-recommends binutils libc6-dev"
    )


@pytest.mark.usefixtures("tools")
def test_where_pip_has_no_pocl_nothing_is_asked_for(
    report: Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(system, "pip_has_no_cpu_device", lambda: True)
    system.examine_system(report)
    assert report.end() == 0


# Names


def test_packages_of_our_names_are_found(tmp_path: Path) -> None:
    for name in ("a/kernels/__init__.py", "b/nodes.py", "c/paramserver/__init__.py"):
        touch(tmp_path / name)
    touch(tmp_path / "c/nodes/__init__.py")
    places = [str(names.OURS), *(str(tmp_path / folder) for folder in "abcb")]
    assert names.other_packages(places) == [
        tmp_path / "a/kernels/__init__.py",
        tmp_path / "b/nodes.py",
        tmp_path / "c/paramserver/__init__.py",
    ]


def test_the_package_that_brought_a_file_is_named(tmp_path: Path) -> None:
    touch(tmp_path / "kernels/__init__.py")
    touch(tmp_path / "others-1.2.dist-info/METADATA")
    (tmp_path / "others-1.2.dist-info/METADATA").write_text("Name: others\nVersion: 1.2\n")
    (tmp_path / "others-1.2.dist-info/RECORD").write_text("kernels/__init__.py,,\n")
    assert names.owner(tmp_path / "kernels/__init__.py") == " of the package others 1.2"
    touch(tmp_path / "nodes/__init__.py")
    assert names.owner(tmp_path / "nodes/__init__.py") == ""


def test_another_ones_node_is_said_and_is_no_fault(
    report: Report, said: list[str], tools: Path
) -> None:
    other = tool(tools, "node", "echo JavaScript")
    names.examine_names(report)
    text = " ".join(" ".join(said).split())
    assert f"the command node is another's, {other}: type" in text
    assert "`python -m nodes` instead" in text
    assert report.end() == 0


def test_our_node_is_known(tools: Path, tmp_path: Path) -> None:
    second = tmp_path / "second"
    second.mkdir()
    ours, other = tool(tools, "node", "from paramserver.__main__ import node"), tool(second, "node")
    assert names.node_commands(f"{tools}:{second}:{tools}") == [ours, other]
    assert names.is_ours(ours)
    assert not names.is_ours(other)


# Ports


def test_loopback_ports_work_here() -> None:
    assert ports.try_loopback("127.0.0.1") is None


def test_an_address_that_is_not_here_is_a_fault() -> None:
    fault = ports.try_loopback("192.0.2.1")
    assert fault is not None
    assert fault.startswith("cannot listen: ")


@pytest.fixture
def no_answer(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A resolver that does not answer before the test has ended."""
    ended = threading.Event()

    def ask(*_: object, **__: object) -> list[object]:
        ended.wait()
        return []

    monkeypatch.setattr(socket, "getaddrinfo", ask)
    yield
    ended.set()


@pytest.mark.usefixtures("no_answer")
async def test_a_resolver_that_is_silent_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ports, "WITHIN", 0.05)
    assert await ports.look_up("localhost") == []


async def test_a_localhost_elsewhere_is_noted(
    report: Report, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def look_up(_: str) -> list[str]:
        return ["192.0.2.1"]

    monkeypatch.setattr(ports, "look_up", look_up)
    await ports.examine_ports(report)
    assert any("localhost is 192.0.2.1" in line for line in said)


# Devices


class Wrong(NumpyEngine):
    """A device that sums wrongly."""

    def run(
        self, operation: Operation, arrays: Sequence[Array | None], *args: Any, **keys: Any
    ) -> None:
        super().run(operation, arrays, *args, **keys)
        if operation is COLUMN_SUM:
            arrays[-1].data[:] += 1  # type: ignore[union-attr]


def test_a_device_that_computes_wrongly_is_found_out() -> None:
    assert disagreements(NumpyEngine(numpy_device())) == []
    assert disagreements(Wrong(numpy_device())) == ["column_sum"]


def test_without_a_device_it_says_what_hides_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OCL_ICD_VENDORS", raising=False)
    assert devices.no_device_hint().startswith("install one")
    monkeypatch.setenv("OCL_ICD_VENDORS", "/nowhere")
    assert "OCL_ICD_VENDORS is '/nowhere'" in devices.no_device_hint()
