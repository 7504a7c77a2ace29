"""Memory for bodies that arrive: aligned, reused, and bounded for a whole peer."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import numpy as np

ALIGNMENT = 128
SMALLEST = 4096
STEPS = 3
IDLE_SHARE = 8


class Memory:
    """A piece of a budget: a writable, aligned view, to be released once."""

    __slots__ = ("_budget", "_whole", "view", "views")

    def __init__(self, budget: Budget, whole: memoryview, length: int) -> None:
        self._budget: Budget | None = budget
        self._whole = whole
        self.view = whole[:length]
        self.views: Sequence[memoryview] = [self.view]

    def __repr__(self) -> str:
        state = "released" if self._budget is None else "held"
        return f"<Memory of {len(self.view)} bytes, {state}>"

    def release(self) -> None:
        """Give the memory back; the second time does nothing."""
        budget, self._budget = self._budget, None
        if budget is not None:
            budget.give(self._whole)


class Turn:
    """A place in a budget's queue: once there is room, ``granted`` is called with the memory."""

    __slots__ = ("granted", "length")

    def __init__(self, length: int, granted: Callable[[Memory], None]) -> None:
        self.length = length
        self.granted = granted


class Budget:
    """The bytes that the connections of one peer may hold in bodies received.

    A body larger than what is left waits for its turn, unless nothing else is held: then it may
    exceed the budget, since a frame's own limit has been checked already. Turns come in the order of
    asking, and nobody takes memory past those who wait: large bodies do not starve beside small ones.
    """

    def __init__(self, total: int = 1 << 30) -> None:
        self.total = total
        self.held = 0
        self._idle: dict[int, list[memoryview]] = {}
        self._idle_bytes = 0
        self._waiting: deque[Turn] = deque()
        self._serving = False

    def __repr__(self) -> str:
        return (
            f"<Budget {self.held} of {self.total} bytes held, {self._idle_bytes} idle, "
            f"{len(self._waiting)} waiting>"
        )

    def take(self, length: int) -> Memory | None:
        """Take memory for ``length`` bytes; None where there is no room now, or others wait."""
        if self._waiting or not self._fits(length):
            return None
        return self._take(length)

    def queue(self, length: int, granted: Callable[[Memory], None]) -> Turn:
        """Wait for ``length`` bytes: ``granted`` is called with them, from within a later `give`."""
        turn = Turn(length, granted)
        self._waiting.append(turn)
        return turn

    def cancel(self, turn: Turn) -> None:
        """Leave the queue; nothing happens where the turn has come already."""
        if turn in self._waiting:
            self._waiting.remove(turn)
            self._serve()

    def give(self, whole: memoryview) -> None:
        """Take memory back and serve who waits for room."""
        size = len(whole)
        self.held -= size
        if self._idle_bytes + size <= self.total // IDLE_SHARE:
            self._idle.setdefault(size, []).append(whole)
            self._idle_bytes += size
        self._serve()

    def _serve(self) -> None:
        # One that is granted memory may give it back at once: the loop under way goes on with it.
        if self._serving:
            return
        self._serving = True
        try:
            while self._waiting and self._fits(self._waiting[0].length):
                turn = self._waiting.popleft()
                turn.granted(self._take(turn.length))
        finally:
            self._serving = False

    def _fits(self, length: int) -> bool:
        return not self.held or self.held + size_class(length) <= self.total

    def _take(self, length: int) -> Memory:
        size = size_class(length)
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


def size_class(length: int) -> int:
    """Round a length up so that freed memory fits again: eight sizes between powers of two."""
    step = 1 << max((length - 1).bit_length() - 1 - STEPS, 0)
    return max(SMALLEST, -(-length // step) * step)
