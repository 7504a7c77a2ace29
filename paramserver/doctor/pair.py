"""The other one of a pair of processes: ``python -m paramserver.doctor.pair served|raw``.

It tells its port, then answers until its parent closes the lifeline: ``served`` through the
transport that peers use, ``raw`` with blocking calls on a plain socket.
"""

from __future__ import annotations

import asyncio
import socket
import sys

from paramserver.console import run_loop
from paramserver.doctor.child import LONGEST, Voice
from paramserver.doctor.messages import LARGE, SMALL, Ask, Given
from paramserver.errors import BadMessage
from paramserver.transport.server import Request, Response, Server
from paramserver.wire.handshake import Identity

IDENTITY = Identity("doctor", "served", 1)
BODY = bytes(LARGE)


def answer(request: Request) -> Response:
    """Give the bytes asked for."""
    message = request.message
    if not isinstance(message, Ask) or not 0 <= message.size <= LARGE:
        raise BadMessage(f"the doctor's pair serves {LARGE} bytes at most")
    return Response(Given(), [memoryview(BODY)[: message.size]])


async def serve(voice: Voice) -> None:
    """Serve through the transport until this process is ended."""
    server = Server(IDENTITY, b"", answer)
    voice.tell(address=await server.listen("127.0.0.1", 0))
    await asyncio.sleep(LONGEST)


def serve_raw(voice: Voice) -> None:
    """Serve one connection: a request is `SMALL` bytes, of which the first says what comes back."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        voice.tell(port=listener.getsockname()[1])
        client, _ = listener.accept()
    with client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        request = bytearray(SMALL)
        while receive(client, memoryview(request)):
            client.sendall(BODY if request[0] else request)


def receive(source: socket.socket, view: memoryview) -> bool:
    """Fill ``view`` from a blocking socket; False where the other side ended before."""
    filled = 0
    while filled < len(view):
        count = source.recv_into(view[filled:])
        if not count:
            return False
        filled += count
    return True


def main() -> None:
    """Serve as asked."""
    voice = Voice()
    if sys.argv[1] == "raw":
        serve_raw(voice)
    else:
        run_loop(serve(voice))


if __name__ == "__main__":
    main()
