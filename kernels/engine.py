"""Open an engine for the device a person chose, or what a server needs of one."""

from kernels.device.choice import choose
from kernels.device.discovery import numpy_device
from kernels.device.trial import Tell
from kernels.errors import DeviceError
from kernels.interface import Array, DeviceRule, Engine, Form, Mirror, Replay, RuleHost, Shared

__all__ = [
    "Array",
    "DeviceRule",
    "Engine",
    "Form",
    "Mirror",
    "Replay",
    "RuleHost",
    "Shared",
    "open_engine",
    "open_rules",
]


def open_engine(
    select: str = "auto",
    memory: float | None = None,
    *,
    target: str | None = None,
    search: bool = False,
    tell: Tell = lambda _: None,
) -> Engine:
    """Choose a device, build and warm its products, and return its engine.

    Slow on a cold kernel cache (seconds), so call it off the event-loop thread; so is the first use
    of an operation, which builds it.

    Args:
        select: what a person wrote; see `choose`.
        memory: what its arrays may take: bytes, or up to 1 a share of the device's memory.
        target: the CPU that PoCL compiles for; see `kernels.device.target_cpu.start`.
        search: whether the first use of a device for which no figures are shipped may take up to 10 s
            more to find the best cuts of its products, which are kept on disk; results are the same.
        tell: is told what takes longer than two seconds.

    Raises:
        DeviceError: there is no such device, it fails, or numpy is to be bounded.
    """
    info = choose(select, target, tell)
    if info.type == "numpy":
        from kernels.host import NumpyEngine

        if memory is not None:
            raise DeviceError(
                "device.memory bounds OpenCL devices, and numpy computes here: leave it out"
            )
        return NumpyEngine(info)
    from kernels.opencl import OpenCLEngine

    return OpenCLEngine(info, memory, search=search, tell=tell)


def open_rules(select: str = "auto", target: str | None = None) -> RuleHost:
    """Choose a device, and return what runs update rules beside the server's shards.

    No kernel is built before a rule is asked for, and none but rules' ever. Only CPU devices are
    opened: others are not used for what lies in the host's memory. Raises DeviceError.
    """
    info = choose(select, target)
    if info.type == "cpu":
        from kernels.rule_kernel import RuleDevice

        return RuleDevice(info)
    from kernels.host import NumpyEngine

    return NumpyEngine(numpy_device())
