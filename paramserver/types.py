"""The small values that name things in a cluster."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

Consistency = Literal["bsp", "ssp", "asp"]


class PeerId(NamedTuple):
    """One life of a peer: a restart under the same name is another incarnation."""

    name: str
    incarnation: int

    def __str__(self) -> str:
        return f"{self.name}#{self.incarnation % 10_000:04d}"


@dataclass(frozen=True, slots=True)
class Span:
    """A contiguous range ``[start, stop)`` of elements, examples or positions."""

    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start
