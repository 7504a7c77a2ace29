"""The child that touches devices: ``python -m paramserver.doctor.trial``.

Without an argument it tells every device; with one it opens the device that the argument selects,
measures its kernels and compares their results with numpy's.
"""

from __future__ import annotations

import sys
import time
from dataclasses import asdict

from kernels.device import devices
from kernels.engine import open_engine
from kernels.errors import KernelError
from kernels.measure import measure
from paramserver.doctor.agreement import disagreements
from paramserver.doctor.child import Voice


def try_device(select: str, voice: Voice) -> None:
    """Open, measure and check one device, and tell each step; an error of ours is told too."""
    try:
        start = time.perf_counter()
        engine = open_engine(select)
        voice.tell(device=asdict(engine.info), seconds=time.perf_counter() - start)
        for figure in measure(engine):
            voice.tell(figure=asdict(figure))
        voice.tell(wrong=disagreements(engine))
        engine.close()
    except KernelError as error:
        voice.tell(error=str(error))


def main() -> None:
    """Tell what was asked for."""
    voice = Voice()
    if len(sys.argv) > 1:
        try_device(sys.argv[1], voice)
    else:
        voice.tell(devices=[asdict(info) for info in devices()])


if __name__ == "__main__":
    main()
