"""The smaller kernel families of the OpenCL engine: sums, whole vectors, random numbers.

Workspaces are kept and reused, so that a step allocates nothing in the steady state.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from kernels.program import Located, OpenDevice, source

_AT = (None, np.uint64)  # a buffer and an offset
SOURCES = ("common.cl", "reduce.cl", "random.cl", "vector.cl")
SUM_CHUNK = 256
"""Elements that a pass of a sum makes one of: CHUNK in vector.cl."""


class Families:
    """Everything but products and rules, in one program."""

    def __init__(self, device: OpenDevice) -> None:
        self._device = device
        self._cpu = device.info.type == "cpu"
        program = device.build(source(*SOURCES), {})
        scan = (*_AT, np.uint64, np.int32, *_AT)
        random = (*_AT, *(np.uint64,) * 3, np.uint32, np.uint32, np.int32)
        types: dict[str, tuple[Any, ...]] = {
            "column_sum": (*_AT * 2, np.int32, np.int32),
            "set_flag": _AT,
            "scan_finite": scan,
            "uniform_numbers": random,
            "fill": (*_AT, np.uint64, np.int32, np.float32),
            "difference": (*_AT * 3, np.uint64, np.int32, np.float32),
            "clip_value": (*_AT, np.uint64, np.int32, np.float32),
            "sum_chunks": (*_AT, np.uint64, np.int32, np.float32, np.int32, *_AT),
            "clip_norm": (*_AT, np.uint64, np.int32, *_AT),
        }
        self._kernels = {name: device.kernel(program, name, of) for name, of in types.items()}
        self._summed = 0
        self._sums: Any = None

    def column_sum(self, a: Located, out: Located, rows: int, columns: int) -> None:
        """Enqueue the sum of rows."""
        self._run("column_sum", -(-columns // self._device.lanes), *a, *out, rows, columns)

    def all_finite(self, a: Located, size: int, flag: Located) -> None:
        """Enqueue the check of finiteness."""
        self._run("set_flag", 1, *flag)
        share = 16384 if self._cpu else 64
        self._run("scan_finite", max(1, -(-size // share)), *a, size, share, *flag)

    def fill(self, a: Located, size: int, value: float) -> None:
        """Enqueue the setting of every element."""
        self._whole("fill", a, size, value)

    def difference(self, a: Located, b: Located, out: Located, size: int, factor: float) -> None:
        """Enqueue a scaled difference."""
        self._whole("difference", (*a, *b, *out), size, factor)

    def clip_value(self, a: Located, size: int, limit: float) -> None:
        """Enqueue clipping by value."""
        self._whole("clip_value", a, size, limit)

    def clip_norm(self, a: Located, size: int, limit: float) -> None:
        """Enqueue clipping by norm: sums of squares in units of the limit, then the scaling."""
        if size > self._summed:
            self._sums = self._device.buffer(sum(_passes(size)) * 4)
            self._summed = size
        share = 64 if self._cpu else 1
        source, count, at, factor = a, size, 0, 1 / limit
        for chunks in _passes(size):
            out = (self._sums, at)
            squared = int(at == 0)
            items = -(-chunks // share)
            self._run("sum_chunks", items, *source, count, share, factor, squared, *out)
            source, count, at = out, chunks, at + chunks
        self._whole("clip_norm", a, size, *source)

    def uniform(self, out: Located, size: int, key: tuple[int, int], counter: int) -> None:
        """Enqueue uniforms in [0, 1)."""
        share = 256 if self._cpu else 1
        word = (1 << 64) - 1
        first = (counter & word, counter >> 64 & word)
        self._run(
            "uniform_numbers", max(1, -(-size // (4 * share))), *out, size, *first, *key, share
        )

    def _whole(self, name: str, arrays: tuple[Any, ...], size: int, *rest: Any) -> None:
        """Run a kernel that goes over whole arrays."""
        share = 16384 if self._cpu else 1
        self._run(name, max(1, -(-size // share)), *arrays, size, share, *rest)

    def _run(self, name: str, items: int, *args: Any) -> None:
        # Groups of one on CPUs: another size would be another compilation, and tails a third.
        self._kernels[name]((items,), (1,) if self._cpu else None, *args)


def _passes(size: int) -> Iterator[int]:
    """Yield how many sums each pass over `size` elements makes, down to one."""
    while True:
        size = -(-size // SUM_CHUNK)
        yield size
        if size <= 1:
            return
