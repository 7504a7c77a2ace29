"""What every suite is made of."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from benching.printing import Sheet


@dataclass(frozen=True)
class Settings:
    """What a person asked for, and the CPU cores that both sides share."""

    device: str
    cores: tuple[int, ...]
    quick: bool = False

    @property
    def turns(self) -> int:
        """How often each side is measured."""
        return 3 if self.quick else 7

    @property
    def pair(self) -> tuple[int, int]:
        """Two cores for a pair of processes: one each, where there are two."""
        return self.cores[0], self.cores[min(1, len(self.cores) - 1)]


@dataclass(frozen=True)
class Suite:
    """A suite: its name, the line that states what it times, how it does so, and what runs it."""

    name: str
    times: str
    how: tuple[str, ...]
    run: Callable[[Settings, Sheet], Awaitable[None]]
