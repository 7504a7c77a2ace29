"""Messages between a store's host and its users. Kinds 32 to 63.

``caller`` is (session, attachment). A `paramserver.coordination.port.Stat` travels as its four
numbers, an operation of a multi as (name, path, data, version, ephemeral, sequential), its result
as (path, stat) or None.
"""

from __future__ import annotations

from paramserver.coordination.port import Check, Create, Delete, Op, OpResult, Set, Stat
from paramserver.errors import BadMessage
from paramserver.wire.messages import message

WireStat = tuple[int, int, int, int]
WireOp = tuple[str, str, bytes, int, bool, bool]
WireResult = tuple[str, WireStat] | None


@message(32)
class OpenSession:
    """Open a session, or take up session ``session`` again where it is not 0."""

    session: int
    timeout: float


@message(33)
class SessionOpened:
    """Answer to `OpenSession`: who the caller is from now on; T in seconds."""

    session: int
    attachment: int
    timeout: float


@message(34)
class CloseSession:
    """End the caller's session."""

    caller: tuple[int, int]


@message(35)
class StayAlive:
    """The caller lives."""

    caller: tuple[int, int]


@message(36)
class Done:
    """Answer to what needs no more than that."""


@message(37)
class GetNode:
    """Ask for a node's data and stat."""

    caller: tuple[int, int]
    path: str


@message(38)
class NodeIs:
    """Answer to `GetNode`."""

    data: bytes
    stat: WireStat


@message(39)
class ListChildren:
    """Ask for the names below a node."""

    caller: tuple[int, int]
    path: str


@message(40)
class ChildrenAre:
    """Answer to `ListChildren`."""

    names: list[str]


@message(41)
class Transact:
    """Carry out all of these operations or none."""

    caller: tuple[int, int]
    ops: list[WireOp]


@message(42)
class Transacted:
    """Answer to `Transact`."""

    results: list[WireResult]


@message(43)
class ArmWatch:
    """Tell the caller once when something changes at ``path``."""

    caller: tuple[int, int]
    path: str
    kind: str


@message(44)
class AwaitEvents:
    """Ask for events numbered beyond ``after``, for ``wait`` seconds at most."""

    caller: tuple[int, int]
    after: int
    wait: float


@message(45)
class EventsAre:
    """Answer to `AwaitEvents`: (number, path, kind) of the watches that fired."""

    events: list[tuple[int, str, str]]


@message(46)
class SyncTree:
    """Answer once every write finished before, whoever made it, can be read by the caller."""

    caller: tuple[int, int]
    path: str


def stat_to_wire(stat: Stat) -> WireStat:
    """Return a stat as its four numbers."""
    return stat.czxid, stat.mzxid, stat.version, stat.owner


def stat_from_wire(stat: WireStat) -> Stat:
    """Return the stat of four numbers."""
    return Stat(*stat)


def op_to_wire(op: Op) -> WireOp:
    """Return an operation as it travels."""
    match op:
        case Check(path, version):
            return "check", path, b"", version, False, False
        case Create(path, data, ephemeral, sequential):
            return "create", path, data, 0, ephemeral, sequential
        case Set(path, data, version):
            return "set", path, data, version, False, False
        case Delete(path, version):
            return "delete", path, b"", version, False, False


def op_from_wire(op: WireOp) -> Op:
    """Return the operation that travelled.

    Raises:
        BadMessage: there is no such operation.
    """
    name, path, data, version, ephemeral, sequential = op
    match name:
        case "check":
            return Check(path, version)
        case "create":
            return Create(path, data, ephemeral, sequential)
        case "set":
            return Set(path, data, version)
        case "delete":
            return Delete(path, version)
    raise BadMessage(f"{name!r} is no operation: check, create, set or delete")


def result_from_wire(result: WireResult) -> OpResult:
    """Return an operation's result that travelled."""
    return None if result is None else (result[0], stat_from_wire(result[1]))


def result_to_wire(result: OpResult) -> WireResult:
    """Return an operation's result as it travels."""
    return None if result is None else (result[0], stat_to_wire(result[1]))
