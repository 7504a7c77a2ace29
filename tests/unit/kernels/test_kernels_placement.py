import _thread
import os
import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from kernels.device.thread_affinity import POCL, spreading

CORES = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()


@contextmanager
def started(count: int, platform: str) -> Iterator[list[set[int]]]:
    """Start threads as a driver would; give the cores that each may use then."""
    done = threading.Event()
    found: queue.Queue[int] = queue.Queue()
    ended = [threading.Lock() for _ in range(count)]

    def wait(lock: threading.Lock) -> None:
        found.put(threading.get_native_id())
        done.wait()
        lock.release()

    try:
        with spreading(platform):
            for lock in ended:
                lock.acquire()
                _thread.start_new_thread(wait, (lock,))  # Python does not know it as its own
            natives = [found.get(timeout=10) for _ in range(count)]
        yield [os.sched_getaffinity(native) for native in natives]
    finally:
        done.set()
        for lock in ended:
            assert lock.acquire(timeout=10)


@pytest.mark.skipif(len(CORES) < 2, reason="one core, or a system that does not tell")
def test_as_many_threads_as_cores_get_one_each() -> None:
    with started(len(CORES), POCL) as found:
        assert sorted(found, key=min) == [{core} for core in sorted(CORES)]
    assert os.sched_getaffinity(0) == CORES


@pytest.mark.skipif(not CORES, reason="a system that does not tell its cores")
@pytest.mark.parametrize(("more", "platform"), [(1, POCL), (0, "another")])
def test_other_threads_stay_where_they_may_be(more: int, platform: str) -> None:
    with started(len(CORES) + more, platform) as found:
        assert all(cores == CORES for cores in found)


@pytest.mark.skipif(not CORES, reason="a system that does not tell its cores")
def test_a_failure_passes_through() -> None:
    with pytest.raises(ValueError, match="no driver"), spreading(POCL):
        raise ValueError("no driver")


@pytest.mark.skipif(not CORES, reason="a system that does not tell its cores")
def test_a_thread_of_python_s_is_left_alone() -> None:
    done = threading.Event()
    threads = [threading.Thread(target=done.wait) for _ in range(len(CORES))]
    with spreading(POCL):
        for thread in threads:
            thread.start()
    try:
        assert all(os.sched_getaffinity(thread.native_id or 0) == CORES for thread in threads)
    finally:
        done.set()
        for thread in threads:
            thread.join()
