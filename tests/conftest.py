"""Give every test printed seeds, a deadline that dumps stacks, no process left behind, data."""

import asyncio
import faulthandler
import gc
import os
import random
import secrets
import select
import signal
import sys
import threading
import time
import traceback
import zlib
from collections.abc import Generator, Iterator
from pathlib import Path
from types import CoroutineType, FrameType
from typing import Any

import hypothesis
import numpy as np
import pytest
from zookeeping.jars import NoZooKeeper
from zookeeping.server import Ensemble

# Seconds that each of a test's phases may take. `@pytest.mark.deadline(seconds)` gives it more.
DEADLINE = 120.0
LONG_DEADLINE = 900.0
# A main thread stuck inside a C call runs no signal handler: after this much more the process ends.
GRACE = 30.0
# Inherited by every process that the tests start, so that orphans are found whoever adopted them.
SESSION_VARIABLE = "PARAMSERVER_TEST_SESSION"
# Python's own helpers, which live as long as the test process.
HELPERS = ("multiprocessing.resource_tracker", "multiprocessing.forkserver")

SEED = pytest.StashKey[int]()
STDERR = pytest.StashKey[int]()

# A loaded machine must not fail a property for being slow, the deadline above judges that.
hypothesis.settings.register_profile("paramserver", deadline=None, print_blob=True)
hypothesis.settings.load_profile("paramserver")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seed", type=int, help="seed of the session's random numbers")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "deadline(seconds): what each phase of this test may take")
    seed: int | None = config.getoption("--seed")
    config.stash[SEED] = config.option.seed = secrets.randbits(32) if seed is None else seed
    # Capturing is suspended here, so this is the terminal's stderr and stays it.
    config.stash[STDERR] = os.dup(2)
    os.environ[SESSION_VARIABLE] = f"{os.getpid()}-{secrets.token_hex(8)}"
    # Processes that the tests start do not search for what their device does best.
    os.environ["PARAMSERVER_DEVICE__TUNE"] = "false"


def pytest_unconfigure(config: pytest.Config) -> None:
    os.close(config.stash[STDERR])


def pytest_report_header(config: pytest.Config) -> str:
    return f"seed: {config.stash[SEED]} (again with --seed {config.stash[SEED]})"


# Seeds


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """This test's own seed, made of the session's seed and the test's name."""
    name = request.node.nodeid.encode()
    value = zlib.crc32(name, request.config.stash[SEED] & 0xFFFFFFFF)
    # Shown with a failure.
    print(f"seed {value}")
    return value


@pytest.fixture
def rng(seed: int) -> np.random.Generator:
    """A numpy generator that the printed seed makes again."""
    return np.random.default_rng(seed)


@pytest.fixture(autouse=True)
def _seed_globals(request: pytest.FixtureRequest) -> None:
    random.seed(request.config.stash[SEED])


# Deadlines


class DeadlinePassed(Exception):
    """A phase of a test took too long; the text holds every thread's and every task's stack."""


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, object, object]:
    return (yield from _within_deadline(item, "set-up"))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    return (yield from _within_deadline(item, "call"))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, object, object]:
    return (yield from _within_deadline(item, "teardown"))


def _within_deadline(item: pytest.Item, phase: str) -> Generator[None, object, object]:
    """Interrupt the phase with all stacks when its deadline passes."""
    __tracebackhide__ = True
    seconds = LONG_DEADLINE if item.get_closest_marker("long") else DEADLINE
    if marker := item.get_closest_marker("deadline"):
        seconds = float(marker.args[0])
    report: list[str] = []

    def interrupt(_number: int, frame: FrameType | None) -> None:
        if not report:
            report.append(
                f"{item.nodeid}: {phase} took longer than {seconds:g} s\n{_stacks(frame)}"
            )
        raise DeadlinePassed(report[0])

    before = signal.signal(signal.SIGALRM, interrupt)
    # Again each second, because a callback of an event loop may swallow the exception.
    signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)
    faulthandler.dump_traceback_later(seconds + GRACE, exit=True, file=item.config.stash[STDERR])
    try:
        result = yield
    except BaseException as error:
        # What reached us may be what a swallowed interruption led to.
        if report and not isinstance(error, DeadlinePassed | KeyboardInterrupt):
            raise DeadlinePassed(report[0]) from error
        raise
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.cancel_dump_traceback_later()
        signal.signal(signal.SIGALRM, before)
    if report:
        raise DeadlinePassed(report[0])
    return result


def _stacks(interrupted: FrameType | None) -> str:
    """Describe every thread and every unfinished task of every event loop."""
    frames = sys._current_frames()
    if interrupted is not None:
        frames[threading.get_ident()] = interrupted
    lines = []
    for thread in threading.enumerate():
        lines.append(f"\nthread {thread.name!r}\n")
        if thread.ident in frames:
            lines += traceback.format_stack(frames[thread.ident], limit=16)
    for task in _unfinished_tasks():
        lines.append(f"\ntask {task.get_name()!r}\n")
        lines += _awaiting(task.get_coro())
    return "".join(lines)


def _unfinished_tasks() -> list[asyncio.Task[Any]]:
    # `asyncio.all_tasks` knows one loop; other threads may run their own.
    return [
        found for found in gc.get_objects() if isinstance(found, asyncio.Task) and not found.done()
    ]


def _awaiting(coroutine: object) -> list[str]:
    """Follow a suspended coroutine down to what it awaits; a task's own stack stops at the top."""
    lines: list[str] = []
    while isinstance(coroutine, CoroutineType):
        if coroutine.cr_frame is not None:
            lines += traceback.format_stack(coroutine.cr_frame, limit=1)
        coroutine = coroutine.cr_await
    if coroutine is not None:
        lines.append(f"  awaits {coroutine!r}\n")
    return lines


# Processes


@pytest.fixture(scope="session", autouse=True)
def _own_state_folder(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep the runs of tests apart from a person's: commands find local runs by their state folder."""
    os.environ["XDG_STATE_HOME"] = str(tmp_path_factory.mktemp("state"))


@pytest.fixture(scope="session", autouse=True)
def _no_process_left_behind() -> Iterator[None]:
    """Fail the session if a process that it started outlives it, whoever is its parent by then."""
    yield
    _refuse_leftovers(_processes_of_session())


@pytest.fixture
def no_orphans(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail the test that asks for this if a process started during it is still there after it."""
    if "zookeeper" in request.fixturenames:
        request.getfixturevalue("zookeeper")  # it stays for others
    before = _processes_of_session()
    yield
    _refuse_leftovers(_processes_of_session() - before)


def _processes_of_session() -> set[int]:
    """Find by the variable they inherited the processes that we and our descendants started."""
    mark = f"{SESSION_VARIABLE}={os.environ[SESSION_VARIABLE]}".encode()
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        pid = int(folder.name)
        try:
            if pid == os.getpid() or mark not in _environment(pid).split(b"\0"):
                continue
            if any(helper in _command(pid) for helper in HELPERS):
                continue
        except OSError:
            # Another user's process, or one that has just ended.
            continue
        found.add(pid)
    return found


def _environment(pid: int) -> bytes:
    """Read a process's environment; one that is just starting a program shows none for a moment."""
    place = Path(f"/proc/{pid}")
    end = time.monotonic() + 0.02
    while not (environment := (place / "environ").read_bytes()) and time.monotonic() < end:
        # Raises OSError for what has no program: kernel threads and processes that have ended.
        os.readlink(place / "exe")
        os.sched_yield()
    return environment


def _command(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")


def _refuse_leftovers(pids: set[int]) -> None:
    """Give the processes two seconds to end by themselves; kill and name those that stay."""
    left = []
    end = time.monotonic() + 2.0
    for pid in sorted(pids):
        try:
            command = _command(pid)
            # A handle on this very process: its number may be another's by the time we kill.
            handle = os.pidfd_open(pid)
        except OSError:
            continue
        try:
            ended, _, _ = select.select([handle], [], [], max(0.0, end - time.monotonic()))
            if not ended:
                left.append(f"  {pid}: {command}")
                signal.pidfd_send_signal(handle, signal.SIGKILL)
        except ProcessLookupError:
            continue
        finally:
            os.close(handle)
    if left:
        pytest.fail("the tests left processes behind:\n" + "\n".join(left))


# ZooKeeper


@pytest.fixture(scope="session")
def zookeeper(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real server's address; each test takes a path of its own there."""
    try:
        with Ensemble(tmp_path_factory.mktemp("zookeeper"), 1, tick=200) as running:
            yield running.address
    except NoZooKeeper as error:
        pytest.skip(f"NO ZOOKEEPER: {error}")


@pytest.fixture(scope="session")
def ensemble(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of three real servers that stay well."""
    try:
        with Ensemble(tmp_path_factory.mktemp("ensemble"), 3, tick=200) as running:
            yield running.address
    except NoZooKeeper as error:
        pytest.skip(f"NO ZOOKEEPER: {error}")


# Data


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real data sets that the variable PARAMSERVER_DATA names."""
    place = os.environ.get("PARAMSERVER_DATA")
    if not place:
        pytest.skip("no real data here: set PARAMSERVER_DATA to a folder that holds mnist/")
    folder = Path(place)
    assert folder.is_dir(), f"PARAMSERVER_DATA names {folder}, which is no folder"
    return folder
