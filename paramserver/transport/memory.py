"""Memory for bodies that arrive: aligned, reused, and bounded for a whole peer."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

ALIGNMENT = 128
SMALLEST = 4096
IDLE_SHARE = 8


class Memory:
    """A piece of a budget: a writable, aligned view, to be released once."""

    def __init__(self, budget: Budget, whole: memoryview, length: int) -> None:
        self._budget: Budget | None = budget
        self._whole = whole
        self.view = whole[:length]
        self.views: Sequence[memoryview] = [self.view]

    def release(self) -> None:
        """Give the memory back; the second time does nothing."""
        budget, self._budget = self._budget, None
        if budget is not None:
            budget.give(self._whole)


class Budget:
    """The bytes that the connections of one peer may hold in bodies received.

    A body larger than what is left waits for its turn, unless nothing else is held: then it may
    exceed the budget, since a frame's own limit has been checked already.
    """

    def __init__(self, total: int = 1 << 30) -> None:
        self.total = total
        self.held = 0
        self._idle: dict[int, list[memoryview]] = {}
        self._idle_bytes = 0
        self._waiting: list[Callable[[], None]] = []

    def __repr__(self) -> str:
        return f"<Budget {self.held} of {self.total} bytes held, {self._idle_bytes} idle>"

    def take(self, length: int) -> Memory | None:
        """Take memory for ``length`` bytes; None where the budget has no room now."""
        size = max(SMALLEST, 1 << (length - 1).bit_length())
        if self.held and self.held + size > self.total:
            return None
        self.held += size
        idle = self._idle.get(size)
        if idle:
            self._idle_bytes -= size
            whole = idle.pop()
        else:
            raw = np.empty(size + ALIGNMENT, np.uint8)
            skip = -raw.ctypes.data % ALIGNMENT
            whole = raw[skip : skip + size].data
        return Memory(self, whole, length)

    def give(self, whole: memoryview) -> None:
        """Take memory back and wake who waits for room."""
        size = len(whole)
        self.held -= size
        if self._idle_bytes + size <= self.total // IDLE_SHARE:
            self._idle.setdefault(size, []).append(whole)
            self._idle_bytes += size
        waiting, self._waiting = self._waiting, []
        for wake in waiting:
            wake()

    def when_room(self, wake: Callable[[], None]) -> None:
        """Have ``wake`` called when memory was given back."""
        self._waiting.append(wake)
