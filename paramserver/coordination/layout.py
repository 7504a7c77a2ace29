"""Where everything lies in the store: all below ``/<cluster>/<generation>``.

The generation is the operator's: raising it after the store was wiped keeps terms growing.
"""

from __future__ import annotations

import re

from paramserver.coordination.port import Store
from paramserver.errors import ConfigurationError, NodeExists, OutcomeUnknown, Unavailable

_NAME = re.compile(r"^(?!\.{1,2}$)[A-Za-z0-9._-]{1,128}$")


class Layout:
    """The paths of one cluster."""

    def __init__(self, cluster: str, generation: int = 1) -> None:
        self.cluster = _checked(cluster, "cluster")
        self.generation = generation
        self.base = f"/{cluster}/{generation}"
        self.members = f"{self.base}/members"
        self.election = f"{self.base}/election"
        self.configs = f"{self.base}/config"
        self.outcomes = f"{self.base}/outcomes"
        self.checkpoints = f"{self.base}/checkpoints"
        self.map = f"{self.base}/map"

    def __repr__(self) -> str:
        return f"<Layout {self.base}>"

    def member(self, name: str) -> str:
        """Return the path of a member."""
        return f"{self.members}/{_checked(name, 'peer')}"

    def config(self, run: str) -> str:
        """Return the path of a run's configuration."""
        return f"{self.configs}/{_checked(run, 'run')}"

    def outcome(self, run: str) -> str:
        """Return the path of a run's outcome."""
        return f"{self.outcomes}/{_checked(run, 'run')}"


class Ground:
    """The folders that the recipes stand on, made by whoever comes first."""

    def __init__(self, store: Store, layout: Layout) -> None:
        self._store = store
        self._layout = layout
        self._session: int | None = None

    def __repr__(self) -> str:
        return f"<Ground of {self._layout.base}>"

    def forget(self) -> None:
        """Note that folders may be missing: somebody deleted them."""
        self._session = None

    async def ready(self) -> None:
        """Make the folders that are missing, once a session.

        Raises:
            Unavailable, SessionExpired: the store cannot be reached now.
        """
        session = self._store.session.id
        if self._session == session:
            return
        layout = self._layout
        for path in (
            f"/{layout.cluster}",
            layout.base,
            layout.members,
            layout.election,
            layout.configs,
            layout.outcomes,
            layout.checkpoints,
        ):
            try:
                await self._store.create(path, b"")
            except NodeExists:
                continue
            except OutcomeUnknown as lost:
                raise Unavailable(f"{path} may not have been made: {lost}") from lost
        self._session = session


def _checked(name: str, what: str) -> str:
    if not _NAME.match(name):
        raise ConfigurationError(
            f"{name!r} cannot name a {what}: use up to 128 letters, digits, dots, dashes or _"
        )
    return name
