"""Can this machine listen and connect on loopback, and does it know ``localhost``?"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading

from paramserver.config import is_loopback
from paramserver.doctor.report import Report

WITHIN = 2.0
"""Seconds for a connection, and for looking up a name."""


def try_loopback(host: str) -> str | None:
    """Listen at a free port of ``host`` and connect to it; return what failed, or None."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    doing = "listen"
    try:
        with socket.socket(family, socket.SOCK_STREAM) as listener:
            listener.settimeout(WITHIN)
            listener.bind((host, 0))
            listener.listen(1)
            doing = "connect"
            with socket.create_connection(listener.getsockname()[:2], WITHIN) as client:
                served, _ = listener.accept()
                with served:
                    served.settimeout(WITHIN)
                    client.sendall(b"x")
                    if served.recv(1) != b"x":
                        return "what is sent does not arrive"
    except OSError as error:
        return f"cannot {doing}: {error.strerror or error}"
    return None


async def look_up(name: str) -> list[str]:
    """Return the addresses of a name; empty where it has none or nobody answers in time.

    The look-up cannot be cancelled, so it runs in a thread that nobody waits for.
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[list[str]] = loop.create_future()

    def give(addresses: list[str]) -> None:
        if not answer.done():
            answer.set_result(addresses)

    def ask() -> None:
        try:
            entries = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
            addresses = list(dict.fromkeys(str(entry[4][0]) for entry in entries))
        except OSError:
            addresses = []
        with contextlib.suppress(RuntimeError):  # the loop is gone: it came too late
            loop.call_soon_threadsafe(give, addresses)

    threading.Thread(target=ask, daemon=True).start()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(WITHIN):
            return await answer
    return []


async def examine_ports(report: Report) -> None:
    """Say whether loopback ports work, and the name localhost."""
    fault = try_loopback("127.0.0.1")
    if fault is None:
        report.ok("ports of 127.0.0.1 can be listened at and connected to")
    else:
        report.fault(f"ports of 127.0.0.1: {fault}; peers of one machine meet there")
    if (fault := try_loopback("::1")) is not None:
        report.note(f"no ports of ::1: {fault}; IPv6 is not needed")
    addresses = await look_up("localhost")
    if not addresses:
        report.note("the name localhost has no address: write 127.0.0.1, or add it to /etc/hosts")
    elif not all(map(is_loopback, addresses)):
        report.note(f"the name localhost is {', '.join(addresses)}: write 127.0.0.1 instead")
    else:
        report.ok(f"the name localhost is {', '.join(addresses)}")
