import os
from collections.abc import Generator, Iterator
from dataclasses import replace

import pytest

from kernels.device.choice import choose
from kernels.device.discovery import devices
from kernels.engine import Engine, open_engine
from kernels.opencl import OpenCLEngine

# A part of what a device's description says of its software, to test no others.
ONLY = os.environ.get("TEST_DEVICES", "")
FOUND = [info for info in devices() if ONLY in info.software]
if ONLY and not FOUND:
    raise pytest.UsageError(f"TEST_DEVICES={ONLY}: no such device among {devices()}")
OPENCL = [str(info.index) for info in FOUND]
# The kernels for GPUs run on any device, if slowly: so they are tested where there is no GPU.
GPU_KERNELS = [f"{info.index} with the kernels for GPUs" for info in FOUND if info.type == "cpu"]
OCLGRIND = any(info.platform == "Oclgrind" for info in FOUND)
if OCLGRIND and os.environ.get("OCLGRIND_DATA_RACES") != "1":
    raise pytest.UsageError("under Oclgrind these tests look for races too: oclgrind --data-races")
# A simulator that looks for faults in kernels has nothing to do with numpy's engine.
HOST = [] if OCLGRIND else ["numpy"]


def pytest_report_header() -> list[str]:
    return [f"OpenCL device {info}; driver {info.driver}" for info in FOUND] or ["no OpenCL device"]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Fail what Oclgrind reports on: it says so on stderr only, and goes on."""
    report = yield
    said = "".join(
        text for name, text in report.sections if name == f"Captured stderr {report.when}"
    )
    if OCLGRIND and report.passed and said:
        report.outcome = "failed"
        report.longrepr = f"{report.nodeid}: Oclgrind reports in its {report.when}:\n{said}"
    return report


def opened(select: str) -> Engine:
    index, _, gpu = select.partition(" ")
    if gpu:
        return OpenCLEngine(replace(choose(index), type="gpu"))
    return open_engine(select)


@pytest.fixture(scope="session", params=[*OPENCL, *GPU_KERNELS, *HOST])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    engine = opened(request.param)
    yield engine
    engine.close()


@pytest.fixture(
    scope="session",
    params=[*OPENCL, *GPU_KERNELS]
    or [pytest.param("none", marks=pytest.mark.skip("no OpenCL device on this host"))],
)
def opencl(request: pytest.FixtureRequest) -> Iterator[OpenCLEngine]:
    engine = opened(request.param)
    assert isinstance(engine, OpenCLEngine)
    yield engine
    engine.close()
