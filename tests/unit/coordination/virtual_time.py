"""An event loop whose time passes only when nothing else can happen."""

import asyncio
import contextlib
import selectors
from collections.abc import Callable, Iterator
from typing import Any


class _Jumping(selectors.DefaultSelector):
    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.look: Callable[[], None] = lambda: None

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        self.look()
        if not ready and timeout is None:
            raise RuntimeError("every task waits for what nothing will bring")
        if not ready and timeout is not None and timeout > 0:
            self.now += timeout
            self.look()
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """Jumps to the next timer instead of waiting for it."""

    def __init__(self) -> None:
        self._jumping = _Jumping()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now

    @contextlib.contextmanager
    def at_every_turn(self, look: Callable[[], None]) -> Iterator[None]:
        """Call ``look``, which must not raise, at each turn: before time jumps and after it."""
        before, self._jumping.look = self._jumping.look, look
        try:
            yield
        finally:
            self._jumping.look = before


def virtual_loop() -> VirtualLoop:
    """Return the running loop; fails where its time is real."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop), "this would wait for real"
    return loop


async def elapse(seconds: float) -> None:
    """Let virtual time pass; it costs no real time."""
    virtual_loop()
    await asyncio.sleep(seconds)
