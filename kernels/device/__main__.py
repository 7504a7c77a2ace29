"""``python -m kernels.device``: print the device that a run takes, after it was tried.

Exit code 0: it is an OpenCL device. 3: none works, and the line says why, or numpy computes instead.
"""

import sys
from functools import partial

from kernels.device.choice import choose
from kernels.errors import DeviceError


def main() -> int:
    """Choose as "auto" does."""
    try:
        info = choose(tell=partial(print, file=sys.stderr, flush=True))
    except DeviceError as error:
        print(error)
        return 3
    print(info)
    return 3 if info.type == "numpy" else 0


if __name__ == "__main__":
    sys.exit(main())
