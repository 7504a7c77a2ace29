"""Serves a tree: the store's host side, for users in this process and in others."""

from __future__ import annotations

import secrets
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from paramserver.coordination.messages import (
    ArmWatch,
    AwaitEvents,
    ChildrenAre,
    CloseSession,
    Done,
    EventsAre,
    GetNode,
    ListChildren,
    NodeIs,
    OpenSession,
    SessionOpened,
    StayAlive,
    SyncTree,
    Transact,
    Transacted,
    op_from_wire,
    result_to_wire,
    stat_to_wire,
)
from paramserver.coordination.port import Clock
from paramserver.coordination.tree import Tree
from paramserver.errors import BadMessage, Unavailable, Unsupported
from paramserver.transport.server import Request, Response
from paramserver.waiting import Changes

LONGEST_WAIT = 30.0
"""The most seconds a user may wait for events in one request."""

MOST_EVENTS = 500
"""The most events in one answer."""


class StoreService:
    """Answers the store's messages from a tree.

    ``handlers`` maps each message class to the handler for `paramserver.transport.server.Server`.
    Every answer but that to `AwaitEvents` comes at once, so requests of one user are carried out in
    the order of their arrival.
    """

    def __init__(self, tree: Tree, clock: Clock = time.monotonic) -> None:
        self._tree = tree
        self._clock = clock
        self._awaiting: dict[int, Changes] = {}
        self._pollers: Counter[int] = Counter()
        self._answers: dict[type, Callable[[Any], Any]] = {
            OpenSession: self._open,
            CloseSession: self._close,
            StayAlive: self._ping,
            SyncTree: self._ping,  # one tree, in order: what is finished is there
            GetNode: self._get,
            ListChildren: self._children,
            Transact: self._transact,
            ArmWatch: self._arm,
        }
        tree.listen(self._wake)

    def __repr__(self) -> str:
        return f"<StoreService of {self._tree}>"

    @property
    def handlers(self) -> Mapping[type, Callable[[Request], Response | Awaitable[Response]]]:
        """The handler of each message class."""
        return {AwaitEvents: self.handle, **dict.fromkeys(self._answers, self._handle_now)}

    async def handle(self, request: Request) -> Response:
        """Answer any of the store's messages.

        Raises:
            StoreError: what the tree answers.
        """
        return Response(await self.answer(request.message))

    def _handle_now(self, request: Request) -> Response:
        return Response(self._answers[type(request.message)](request.message))

    async def answer(self, message: object) -> Any:
        """Answer a message with a message.

        Raises:
            StoreError: what the tree answers.
            Unsupported: the message is not for a store.
        """
        if isinstance(message, AwaitEvents):
            return await self._events(message)
        answer = self._answers.get(type(message))
        if answer is None:
            raise Unsupported(f"the coordinator does not serve {type(message).__name__}")
        return answer(message)

    def _wake(self, session: int) -> None:
        changes = self._awaiting.get(session)
        if changes is not None:
            changes.notify()

    def _touch(self, caller: tuple[int, int]) -> int:
        session, attachment = caller
        self._tree.touch(session, attachment, self._clock())
        return session

    def _open(self, ask: OpenSession) -> SessionOpened:
        now = self._clock()
        if ask.session:
            session = ask.session
            attachment, timeout = self._tree.attach(session, now)
        else:
            session = secrets.randbits(62) + 1
            attachment, timeout = self._tree.open(session, ask.timeout, now)
        return SessionOpened(session=session, attachment=attachment, timeout=timeout)

    def _close(self, ask: CloseSession) -> Done:
        self._tree.end(self._touch(ask.caller))
        return Done()

    def _ping(self, ask: StayAlive | SyncTree) -> Done:
        self._touch(ask.caller)
        return Done()

    def _get(self, ask: GetNode) -> NodeIs:
        self._touch(ask.caller)
        data, stat = self._tree.get(ask.path)
        return NodeIs(data=data, stat=stat_to_wire(stat))

    def _children(self, ask: ListChildren) -> ChildrenAre:
        self._touch(ask.caller)
        return ChildrenAre(names=self._tree.children(ask.path))

    def _transact(self, ask: Transact) -> Transacted:
        session = self._touch(ask.caller)
        results = self._tree.multi(session, [op_from_wire(op) for op in ask.ops])
        return Transacted(results=[result_to_wire(result) for result in results])

    def _arm(self, ask: ArmWatch) -> Done:
        session = self._touch(ask.caller)
        match ask.kind:
            case "data" | "children":
                self._tree.watch(session, ask.path, ask.kind)
            case _:
                raise BadMessage(f"{ask.kind!r} is no kind of watch: data or children")
        return Done()

    async def _events(self, ask: AwaitEvents) -> EventsAre:
        session = self._touch(ask.caller)
        attachment = ask.caller[1]
        tree = self._tree

        def due() -> bool:
            return not tree.attached(session, attachment) or bool(tree.events(session, ask.after))

        changes = self._awaiting.setdefault(session, Changes())
        self._pollers[session] += 1
        try:
            await changes.until(due, min(ask.wait, LONGEST_WAIT))
        finally:
            self._pollers[session] -= 1
            if not self._pollers[session]:
                del self._pollers[session], self._awaiting[session]
        events = tree.events(session, ask.after)
        if not tree.attached(session, attachment):
            raise Unavailable("the session went on over another connection")
        return EventsAre(events=events[:MOST_EVENTS])
