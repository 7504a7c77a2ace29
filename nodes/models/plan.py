"""A static plan of buffers: who may share memory because they are not needed at the same time.

Source: Pisarchyk and Lee 2020, "Efficient memory management for deep neural net inference": greedy by
size, the offset the lowest gap that is large enough.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

ALIGNED = 16
"""Elements: a buffer begins at a multiple of 64 bytes where the minibatch is full."""


@dataclass(frozen=True, slots=True)
class Needed:
    """A buffer of ``size`` elements, needed from the step ``first`` to the step ``last``."""

    size: int
    first: int
    last: int


def lay_out(buffers: Sequence[Needed]) -> tuple[list[int], int]:
    """Return each buffer's offset, and the size of the memory that holds all, in elements.

    Two buffers overlap only where no step needs both.
    """
    offsets = [0] * len(buffers)
    placed: list[int] = []
    for index in sorted(range(len(buffers)), key=lambda index: -buffers[index].size):
        one = buffers[index]
        beside = [
            (offsets[other], offsets[other] + buffers[other].size)
            for other in placed
            if buffers[other].first <= one.last and one.first <= buffers[other].last
        ]
        offset = 0
        for start, end in sorted(beside):
            if start >= offset + one.size:
                break
            offset = max(offset, -(-end // ALIGNED) * ALIGNED)
        offsets[index] = offset
        placed.append(index)
    total = max((offsets[i] + buffers[i].size for i in placed), default=0)
    return offsets, total


def of_layers(sizes: Sequence[int], *, training: bool) -> list[Needed]:
    """Return the needs of layers whose outputs have these sizes: all outputs, then all gradients.

    Steps are the layers' ways forward, the loss, and in training the layers' ways back. An output is
    needed until the layer above has gone back; a gradient from then until its own layer has.
    """
    count = len(sizes)
    loss = count
    if not training:
        return [Needed(size, index, index + 1) for index, size in enumerate(sizes)]
    back = [loss + count - index for index in range(count)]
    above = [*back[1:], loss]
    outputs = [Needed(size, index, above[index]) for index, size in enumerate(sizes)]
    gradients = [Needed(size, above[index], back[index]) for index, size in enumerate(sizes)]
    return outputs + gradients
