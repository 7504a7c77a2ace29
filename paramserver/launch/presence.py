"""Which local runs there are: a file for each, which only their user can read.

A local run's secret is random and known to its own processes alone. The file lets commands of the same
user (``paramserver checkpoint``, ``paramserver set``) find the run and prove that they may.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from kernels.device.cache import user_folder
from kernels.errors import NoFolder
from paramserver.errors import NotReady, UserError


@dataclass(frozen=True, slots=True)
class Presence:
    """A local run: the launcher's host, process and address, the cluster's name and secret (hex)."""

    run: str
    host: str
    cluster: str
    address: str
    secret: str
    pid: int
    started: float


@contextlib.contextmanager
def announced(run: str, cluster: str, address: str, secret: bytes) -> Iterator[None]:
    """Have a local run found by `the_run` while the context is open.

    Where the file cannot be written the run goes on without.
    """
    here = Presence(
        run, socket.gethostname(), cluster, address, secret.hex(), os.getpid(), time.time()
    )
    path: Path | None = None
    with contextlib.suppress(OSError, NoFolder):
        path = _folder() / f"{run}-{os.getpid()}.json"
        part = path.with_suffix(".part")
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump(asdict(here), file)
        part.rename(path)
    try:
        yield
    finally:
        if path is not None:
            with contextlib.suppress(OSError):
                path.unlink()


def the_run(name: str | None) -> Presence:
    """Return the local run of this name, or the only one; forget those that do not live any more.

    Raises:
        NotReady: there is none.
        UserError: there are several, and no name.
    """
    found: list[Presence] = []
    with contextlib.suppress(OSError, NoFolder):
        for path in _folder().glob("*.json"):
            try:
                presence = Presence(**json.loads(path.read_text()))
                if presence.host != socket.gethostname():
                    continue  # a home that machines share
                os.kill(presence.pid, 0)
            except (OSError, ValueError, TypeError):
                with contextlib.suppress(OSError):
                    path.unlink()
                continue
            found.append(presence)
    names = ", ".join(sorted(one.run for one in found))
    wanted = [one for one in found if name in (None, one.run)]
    if len(wanted) > 1:
        raise UserError(f"several local runs are under way: name one with --run: {names}")
    if not wanted:
        here = f"no local run {name} is under way" if name else "no local run is under way"
        others = f"; there are {names}" if found else ""
        raise NotReady(f"{here}{others}: give --join or --zookeeper for a run of another cluster")
    return wanted[0]


def _folder() -> Path:
    return user_folder("state", "runs")
