"""What one kernel does, told once for every engine: its source, its arguments and its numpy twin.

The functions of `kernels.ops` check shapes and ask an engine to run operations; OpenCL engines
launch the kernel, the numpy engine calls the twin. So an operation is one kernel, one twin and one
function, whatever the number of engines.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Scalar = type[np.int32] | type[np.uint32] | type[np.uint64] | type[np.float32]


@dataclass(frozen=True)
class Operation:
    """One kernel of a program, with its twin.

    The kernel's arguments are a buffer and an offset (`ulong`, in elements) for each array, then the
    numbers, then `ulong items` and `int share`: each work-item takes `share` of the items, the last
    one fewer, and one without items does nothing. What comes of an item must not depend on the share.
    """

    name: str
    """The kernel's name; no other operation has it."""
    source: str
    """The file in `kernels/cl`, after common.cl; a file is built when it is first needed."""
    arrays: int
    """How many arrays it takes; they are float32 or int32."""
    numbers: tuple[Scalar, ...]
    """The types of its numbers."""
    twin: Callable[..., None]
    """Does the same on numpy arrays: called with the arrays and the numbers. It computes in the
    arrays' own precision, so that float64 passes finite-difference checks that float32 could not."""
