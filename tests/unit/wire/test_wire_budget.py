"""The budget for bodies: bounded, aligned, fair, and safe to give back from anywhere."""

import numpy as np
import pytest

from paramserver.transport.memory import ALIGNMENT, SMALLEST, Budget, Memory, size_class

MIB = 1 << 20


def test_memory_is_aligned_writable_and_of_the_length_asked() -> None:
    budget = Budget()
    for length in (1, 5, 4096, 4097, 100_000, 3 * MIB + 1):
        memory = budget.take(length)
        assert memory is not None
        assert len(memory.view) == length
        assert not memory.view.readonly
        assert np.frombuffer(memory.view, np.uint8).ctypes.data % ALIGNMENT == 0


@pytest.mark.parametrize("length", [1, 2, 4095, 4096, 4097, 8192, 8193, 33 * MIB, 64 * MIB])
def test_rounding_wastes_an_eighth_at_most(length: int) -> None:
    size = size_class(length)
    assert size >= length
    assert size == SMALLEST or size <= length * 9 / 8
    assert size_class(size) == size


def test_what_was_given_back_is_used_again_and_counted_once() -> None:
    budget = Budget(MIB)
    first = budget.take(100_000)
    assert first is not None
    place = np.frombuffer(first.view, np.uint8).ctypes.data
    held = budget.held
    first.release()
    first.release()
    assert budget.held == 0
    second = budget.take(100_001)
    assert second is not None
    assert np.frombuffer(second.view, np.uint8).ctypes.data == place
    assert budget.held == held


def test_idle_memory_is_bounded() -> None:
    budget = Budget(80 * SMALLEST)
    taken = [budget.take(1) for _ in range(80)]
    for memory in taken:
        assert memory is not None
        memory.release()
    assert (
        repr(budget) == f"<Budget 0 of {budget.total} bytes held, {10 * SMALLEST} idle, 0 waiting>"
    )


def test_no_more_is_held_than_the_total_but_for_one_that_is_larger() -> None:
    budget = Budget(MIB)
    first = budget.take(MIB // 2)
    second = budget.take(MIB // 2)
    assert first is not None
    assert second is not None
    assert budget.take(1) is None
    first.release()
    assert budget.take(MIB) is None
    second.release()
    large = budget.take(5 * MIB)
    assert large is not None
    assert budget.take(1) is None


def test_turns_come_in_order_and_nobody_overtakes() -> None:
    budget = Budget(MIB)
    holder = budget.take(MIB)
    assert holder is not None
    granted: list[tuple[str, Memory]] = []
    budget.queue(MIB // 2, lambda memory: granted.append(("large", memory)))
    budget.queue(SMALLEST, lambda memory: granted.append(("small", memory)))
    assert granted == []
    holder.release()
    assert [name for name, _ in granted] == ["large", "small"]


def test_a_large_body_does_not_starve_beside_small_ones() -> None:
    budget = Budget(MIB)
    small = [budget.take(MIB // 4) for _ in range(4)]
    granted: list[Memory] = []
    budget.queue(MIB, granted.append)
    for memory in small:
        assert memory is not None
        memory.release()
        assert budget.take(1) is None
    assert len(granted) == 1
    granted[0].release()
    assert budget.take(1) is not None


def test_who_leaves_the_queue_makes_room_for_the_next() -> None:
    budget = Budget(MIB)
    holder = budget.take(MIB // 2)
    assert holder is not None
    granted: list[Memory] = []
    large = budget.queue(MIB, lambda _: pytest.fail("it left"))
    budget.queue(MIB // 4, granted.append)
    assert granted == []
    budget.cancel(large)
    assert len(granted) == 1
    budget.cancel(large)
    holder.release()
    assert len(granted) == 1


def test_memory_given_back_from_within_a_turn_serves_the_next_without_depth() -> None:
    budget = Budget(MIB)
    holder = budget.take(MIB)
    assert holder is not None
    served = []

    def use(memory: Memory) -> None:
        served.append(len(memory.view))
        memory.release()

    for _ in range(5000):
        budget.queue(MIB, use)
    holder.release()
    assert len(served) == 5000
    assert budget.held == 0


def test_one_granted_may_queue_again() -> None:
    budget = Budget(MIB)
    holder = budget.take(MIB)
    assert holder is not None
    rounds: list[int] = []

    def use(memory: Memory) -> None:
        rounds.append(budget.held)
        if len(rounds) < 3:
            budget.queue(MIB, use)
        memory.release()

    budget.queue(MIB, use)
    holder.release()
    assert rounds == [MIB] * 3
    assert budget.held == 0
