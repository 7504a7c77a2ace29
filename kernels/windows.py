"""The geometry of windows that slide over planes: convolution and pooling."""

from __future__ import annotations

from dataclasses import dataclass

from kernels.errors import KernelError

Pair = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Window:
    """A window over planes; every pair is (vertical, horizontal), in elements.

    ``padding`` elements are added on each side of a plane. ``dilation`` is the distance between two
    neighbouring taps of the window.
    """

    size: Pair
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)

    def __post_init__(self) -> None:
        if min(*self.size, *self.stride, *self.dilation) < 1 or min(self.padding) < 0:
            raise KernelError(f"{self}: size, stride and dilation are at least 1, padding 0")

    @property
    def taps(self) -> int:
        """How many elements of a plane it looks at."""
        return self.size[0] * self.size[1]

    def over(self, plane: Pair) -> Pair:
        """Return how many places it takes on a plane [H,W]: the plane of its results.

        Raises:
            KernelError: it is larger than the plane with its padding.
        """
        spans = [(size - 1) * far + 1 for size, far in zip(self.size, self.dilation, strict=True)]
        rooms = [
            side + 2 * padding - span
            for side, padding, span in zip(plane, self.padding, spans, strict=True)
        ]
        if min(rooms) < 0:
            raise KernelError(
                f"a window of {spans[0]} x {spans[1]} does not fit into planes of "
                f"{plane[0]} x {plane[1]} with padding {self.padding[0]} x {self.padding[1]}"
            )
        return rooms[0] // self.stride[0] + 1, rooms[1] // self.stride[1] + 1
