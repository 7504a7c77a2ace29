"""The child that touches devices: ``python -m paramserver.doctor.trial``.

Without an argument it tells every device; with one it opens the device that the argument selects,
measures its kernels and compares their results with numpy's. With "choose" as a second one it tells
which device that is. With "tune" as a second one it searches
for the best cuts of that device's products instead.
"""

from __future__ import annotations

import sys
import time
from dataclasses import asdict, astuple

from kernels.device.choice import choose
from kernels.device.discovery import devices
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


def choose_device(select: str, voice: Voice) -> None:
    """Tell which device is chosen; an error of ours is told too."""
    try:
        voice.tell(chosen=str(choose(select)))
    except KernelError as error:
        voice.tell(error=str(error))


def tune_device(select: str, voice: Voice) -> None:
    """Open one device, tell what a search finds for each class of products, and keep it."""
    try:
        engine = open_engine(select)
        voice.tell(device=asdict(engine.info))
        if engine.info.type != "numpy":
            from kernels.opencl import OpenCLEngine  # pyopencl may not be there

            assert isinstance(engine, OpenCLEngine)
            for found in engine.tune():
                choice = None if found.choice is None else astuple(found.choice)
                voice.tell(of=str(found.of), choice=choice, ratio=found.ratio)
        voice.tell(end=True)
        engine.close()
    except (KernelError, OSError) as error:
        voice.tell(error=str(error))


def main() -> None:
    """Tell what was asked for."""
    voice = Voice()
    if sys.argv[2:] == ["choose"]:
        choose_device(sys.argv[1], voice)
    elif sys.argv[2:] == ["tune"]:
        tune_device(sys.argv[1], voice)
    elif len(sys.argv) > 1:
        try_device(sys.argv[1], voice)
    else:
        try:
            voice.tell(devices=[asdict(info) for info in devices()])
        except KernelError as error:
            voice.tell(error=str(error))


if __name__ == "__main__":
    main()
