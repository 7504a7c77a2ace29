"""Sockets under a transport: their options and their addresses."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import TypeVar

from paramserver.config import is_loopback

KEEPALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}
"""A machine that went away without a word is noticed after 25 s."""


P = TypeVar("P", bound=asyncio.BaseProtocol)


async def connect_tcp(
    loop: asyncio.AbstractEventLoop, make: Callable[[], P], host: str, port: int
) -> P:
    """Connect to the first of a host's addresses that answers.

    Raises:
        ConnectionRefusedError: nobody listens at any of them.
        OSError: none can be reached, the first for this reason; or there is no such host.
    """
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    errors: list[OSError] = []
    for *_, address in found:
        try:
            return (await loop.create_connection(make, str(address[0]), port))[1]
        except OSError as error:
            errors.append(error)
    raise next((one for one in errors if not isinstance(one, ConnectionRefusedError)), errors[0])


def tune(transport: asyncio.BaseTransport) -> None:
    """Have a TCP socket send at once, and ask in silence whether the other machine is there."""
    raw = transport.get_extra_info("socket")
    if raw is None or raw.family not in (socket.AF_INET, socket.AF_INET6):
        return
    raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in KEEPALIVE.items():
        if hasattr(socket, name):
            raw.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def peer_address(transport: asyncio.BaseTransport) -> str:
    """Return the other side's address: host:port, [host]:port or unix:path."""
    name = transport.get_extra_info("peername")
    if isinstance(name, tuple):
        host = f"[{name[0]}]" if ":" in name[0] else name[0]
        return f"{host}:{name[1]}"
    return f"unix:{name or transport.get_extra_info('sockname') or ''}"


def is_local(address: str) -> bool:
    """Say whether what is sent to an address stays on this machine."""
    return address.startswith("unix:") or is_loopback(address.rpartition(":")[0])
