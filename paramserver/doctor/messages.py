"""What the doctor's pair of processes say to each other, over the wire and over a raw socket."""

from __future__ import annotations

from paramserver.wire.messages import message

SMALL = 1024
LARGE = 16 << 20
"""Bytes of the two bodies that are measured."""


@message(160)
class Ask:
    """Ask for a body of ``size`` bytes."""

    size: int


@message(161)
class Given:
    """The answer; its body has the bytes."""
