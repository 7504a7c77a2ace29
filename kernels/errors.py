"""Errors of the numerics package.

KernelError
└── DeviceError      no device, an unknown selection, a failed build, a lost context
"""


class KernelError(Exception):
    """Base of every error this package raises on purpose."""


class DeviceError(KernelError):
    """A device cannot be found, chosen or used; the text names it and says what to do.

    ``reason`` is what its driver said, in one line, or "".
    """

    def __init__(self, text: str, reason: str = "") -> None:
        super().__init__(text)
        self.reason = reason
