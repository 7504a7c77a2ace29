"""Errors of the numerics package.

KernelError
└── DeviceError      no device, an unknown selection, a failed build, a lost context
"""


class KernelError(Exception):
    """Base of every error this package raises on purpose."""


class DeviceError(KernelError):
    """A device cannot be found, chosen or used; the text names it and says what to do."""
