"""Every error this package raises.

    ParamserverError                   exit 1   the run failed
    ├── UserError                      exit 2   what the user gave is wrong
    │   ├── ConfigurationError
    │   └── BadCheckpoint
    ├── NotReady                       exit 3   the machine or the cluster is not ready
    │   ├── AddressInUse
    │   ├── VersionMismatch
    │   └── AuthenticationFailed
    ├── TryAgain                       exit 75
    │   ├── Evicted
    │   └── SlicesLost
    ├── ProtocolError                           the other side broke the protocol; the connection ends
    │   ├── BadFrame
    │   ├── TooLarge
    │   └── BadMessage
    ├── RequestFailed                           one request got no answer
    │   ├── DeadlineExceeded
    │   ├── ConnectionLost
    │   └── Unreachable
    ├── Refused                                 one request was answered with no
    │   ├── Moved
    │   ├── NonFinite
    │   ├── StaleSequence
    │   ├── WrongAttempt
    │   ├── UnknownTable
    │   ├── Fenced
    │   └── Unsupported
    └── StoreError                              the coordination store
        ├── NoNode
        ├── NodeExists
        ├── BadVersion
        ├── NotEmpty
        ├── Forbidden
        ├── ValueTooLarge
        ├── Unavailable
        ├── OutcomeUnknown
        └── SessionExpired

An error travels over the wire as its ``code`` (the class's name), its text and its ``detail`` (a
small map), and is raised again on the other side as the same class: see `from_wire`.
"""

from __future__ import annotations

from typing import Any, ClassVar


class ParamserverError(Exception):
    """The root: something failed; the text says what, which peer or shard, and what to do."""

    exit_code: ClassVar[int] = 1

    def __init__(self, text: str, /, **detail: Any) -> None:
        super().__init__(text)
        self.text = text
        self.detail = detail

    def __str__(self) -> str:
        return self.text


class UserError(ParamserverError):
    """What the user gave is wrong: arguments, configuration, data or checkpoint."""

    exit_code = 2


class ConfigurationError(UserError):
    """A configuration key or value is wrong."""


class BadCheckpoint(UserError):
    """A checkpoint is damaged, incomplete, or of another run."""


class NotReady(ParamserverError):
    """The machine or the cluster is not ready: device, port, ZooKeeper, protocol version."""

    exit_code = 3


class AddressInUse(NotReady):
    """The address to listen on belongs to another process."""


class VersionMismatch(NotReady):
    """The other side speaks another version of the protocol."""


class AuthenticationFailed(NotReady):
    """The other side holds another secret, or belongs to another cluster."""


class TryAgain(ParamserverError):
    """Nothing is wrong with the input: start again."""

    exit_code = 75


class Evicted(TryAgain):
    """This incarnation was dropped from the run and is refused for good."""


class SlicesLost(TryAgain):
    """The last in-sync member of some slices is gone."""


class ProtocolError(ParamserverError):
    """The other side broke the protocol; the connection ends, the peer lives on."""


class BadFrame(ProtocolError):
    """Bytes that are no frame."""


class TooLarge(ProtocolError):
    """A frame beyond the limits, refused before memory is taken for it."""


class BadMessage(ProtocolError):
    """A frame whose meta is no valid message."""


class RequestFailed(ParamserverError):
    """One request got no answer; whether it was carried out is unknown."""


class DeadlineExceeded(RequestFailed):
    """No answer within the deadline; the text names who was waited for."""


class ConnectionLost(RequestFailed):
    """The connection ended before the answer."""


class Unreachable(RequestFailed):
    """No connection could be made; the request was not sent."""


class Refused(ParamserverError):
    """The other side understood the request and refuses it."""


class Moved(Refused):
    """The slice is elsewhere, or under another chain epoch; ``detail`` holds the newer entry."""


class NonFinite(Refused):
    """A push holds NaN or infinity; nothing of it was applied."""


class StaleSequence(Refused):
    """A push id below the window in which repeats can be told apart."""


class WrongAttempt(Refused):
    """The frame belongs to another attempt of the run."""


class UnknownTable(Refused):
    """No such table here."""


class Fenced(Refused):
    """A leader or primary of an earlier term tried to write."""


class Unsupported(Refused):
    """The peer does not serve this kind of request."""


class StoreError(ParamserverError):
    """The coordination store refused or failed."""


class Unreadable(StoreError):
    """A node holds what this system did not write."""


class NoNode(StoreError):
    """No such path."""


class NodeExists(StoreError):
    """The path exists already."""


class BadVersion(StoreError):
    """The version given is not the node's: somebody wrote in between."""


class NotEmpty(StoreError):
    """The node has children."""


class Forbidden(StoreError):
    """The node belongs to somebody else's credentials, or a quota is used up."""

    exit_code = 3


class ValueTooLarge(StoreError):
    """A value over 512 KiB, refused before it is sent."""


class Unavailable(StoreError):
    """Not sent: the store cannot be reached now."""


class OutcomeUnknown(StoreError):
    """Sent, but the answer is lost: it may or may not have been carried out."""


class SessionExpired(StoreError):
    """The session is over; its ephemeral nodes and watches are gone."""


def _tree(root: type[ParamserverError]) -> dict[str, type[ParamserverError]]:
    found = {root.__name__: root}
    for child in root.__subclasses__():
        found.update(_tree(child))
    return found


def from_wire(code: str, text: str, detail: dict[str, Any]) -> ParamserverError:
    """Rebuild an error from its code, text and detail; an unknown code becomes `Refused`."""
    return _tree(ParamserverError).get(code, Refused)(text, **detail)
