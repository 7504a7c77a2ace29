"""Open an engine for the device a person chose."""

from kernels.device import choose
from kernels.interface import Array, DeviceRule, Engine, Form, Mirror, Replay

__all__ = ["Array", "DeviceRule", "Engine", "Form", "Mirror", "Replay", "open_engine"]


def open_engine(select: str = "auto") -> Engine:
    """Choose a device, build and warm its products, and return its engine.

    Slow on a cold kernel cache (seconds), so call it off the event-loop thread; so is the first use
    of an operation, which builds it. Raises DeviceError.
    """
    info = choose(select)
    if info.type == "numpy":
        from kernels.host import NumpyEngine

        return NumpyEngine(info)
    from kernels.opencl import OpenCLEngine

    return OpenCLEngine(info)
