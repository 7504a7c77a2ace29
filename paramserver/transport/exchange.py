"""What the users of a connection hold: requests that came, responses, replies."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from paramserver.errors import NotReady, ParamserverError, ProtocolError, Unreachable, from_wire
from paramserver.transport.memory import Memory
from paramserver.wire.messages import Failure
from paramserver.wire.protocol import Discard, Place

if TYPE_CHECKING:
    from paramserver.transport.connection import Connection

Buffer = bytes | bytearray | memoryview

LONGEST_TEXT = 16 * 1024
LONGEST_WORD = 1024
NOTHING = memoryview(b"")


@dataclass(slots=True)
class Response:
    """An answer; ``on_sent`` is called once the body's memory is no longer needed."""

    message: Any
    body: Sequence[Buffer] = ()
    on_sent: Callable[[], None] | None = None


@dataclass(slots=True)
class Reply:
    """The answer to a request. Its body is where the requester wanted it."""

    message: Any


class Request:
    """A request that arrived. Its body's memory goes back with the answer unless kept."""

    __slots__ = ("_kept", "_number", "_place", "attempt", "body", "connection", "message")

    def __init__(
        self, connection: Connection, message: Any, place: Place | None, number: int, attempt: int
    ) -> None:
        self.connection = connection
        self.message = message
        self.attempt = attempt
        self.body = place.view if isinstance(place, Memory) else NOTHING
        self._place = place
        self._number = number
        self._kept = False

    def __repr__(self) -> str:
        name = type(self.message).__name__
        return f"<Request {name} + {len(self.body)} bytes of {self.connection.remote.name}>"

    def interim(self, message: Any) -> None:
        """Send an answer before the answer."""
        self.connection.send_interim(message, self._number)

    def keep(self) -> Place:
        """Keep the body beyond the answer; the place returned is to be released.

        A response whose own body is part of the request's must keep it, and release it in
        ``on_sent``.
        """
        self._kept = True
        return self._place if self._place is not None else Discard(0)

    def finish(self) -> None:
        """Give the body's memory back, unless it was kept."""
        if self._place is not None and not self._kept:
            self._place.release()


Answer = Response | None
Handler = Callable[[Request], Answer | Awaitable[Answer]]


class Into:
    """The requester's own memory as the place of a reply's body."""

    __slots__ = ("views",)

    def __init__(self, views: Sequence[memoryview]) -> None:
        self.views = views

    def release(self) -> None:
        """Nothing: the memory is the requester's."""


def failure_of(error: ParamserverError) -> Failure:
    """Return the message that tells an error: of its detail what is plain and short."""
    detail = {key: value for key, value in error.detail.items() if _plain(value)}
    text = str(error)[:LONGEST_TEXT].encode(errors="backslashreplace").decode()
    return Failure(code=type(error).__name__, text=text, detail=detail)


def error_of(failure: Failure) -> ParamserverError:
    """Return the error that a message tells."""
    detail = {key: value for key, value in failure.detail.items() if key not in ("self", "text")}
    return from_wire(failure.code, failure.text, detail)


def refusal_of(failure: Failure) -> ParamserverError:
    """Return why the other side ended the handshake: nothing that only a known peer may say.

    Its text is made one line that prints, because it goes into the log of whoever a stranger calls.
    """
    text = "".join(one if one.isprintable() else " " for one in failure.text)
    error = error_of(Failure(failure.code, text, failure.detail))
    if isinstance(error, NotReady | ProtocolError | Unreachable):
        return error
    return Unreachable(f"refused: {error}")


def _plain(value: object) -> bool:
    if isinstance(value, int):
        return -(1 << 63) <= value < 1 << 64
    if isinstance(value, str):
        return len(value) <= LONGEST_WORD
    return isinstance(value, float) or value is None
