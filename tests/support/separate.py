"""A cluster of separate processes that meet at a ZooKeeper."""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from tests.support.process import Running

SESSION = 4.0
QUICK = ("--set", f"cluster.session_timeout={SESSION}", "--set", "cluster.deadline=10")


COMMANDS = {
    "spare": ("paramserver", "start", "--roles", "none"),
    "shard": ("paramserver", "start"),
    "worker": ("nodes", "start"),
}


def peer(folder: Path, address: str, name: str, *arguments: str) -> Running:
    """Start a peer whose name begins with what it is, and does not say whether it serves."""
    place = folder / name
    place.mkdir(exist_ok=True)
    module, *first = COMMANDS[name.partition("-")[0]]
    meet = ("--name", name, "--zookeeper", address)
    return Running(module, *first, *meet, *QUICK, *arguments, cwd=place)


@contextmanager
def peers(folder: Path, address: str, *names: str) -> Iterator[dict[str, Running]]:
    """Start peers, the first of which leads."""
    with ExitStack() as stack:
        started: dict[str, Running] = {}
        for name in names:
            started[name] = one = stack.enter_context(peer(folder, address, name))
            if len(started) == 1:
                one.wait_until(partial(leads, one, name))
        for one in started.values():
            one.wait_until(lambda one=one: "serves at" in one.said)  # type: ignore[misc]
        yield started


def status(peer: Running, path: str) -> tuple[int, Any]:
    """Ask a peer's status server; return the HTTP status and the body."""
    found = re.search(r"status page (http://[\d.:]+)/", peer.said)
    assert found is not None
    with urllib.request.urlopen(found[1] + path, timeout=5) as answer:
        body = answer.read().decode()
        return answer.status, json.loads(body) if body.startswith("{") else body


def leads(peer: Running, name: str) -> bool:
    """Say whether a peer serves, and leads."""
    return "serves at" in peer.said and leader(peer) == name


def members(peer: Running) -> list[str]:
    """Return the names of the members that a peer sees."""
    return sorted(status(peer, "/status")[1]["members"])


def leader(peer: Running) -> str | None:
    """Return the name of the leader that a peer sees."""
    found = status(peer, "/status")[1]["coordinator"]["leader"]
    return None if found is None else str(found)


def train(address: str, *arguments: str, cwd: Path) -> Running:
    """Train digits on the peers at an address."""
    both = ("--set", "cluster.min_workers=2", "--zookeeper", address)
    return Running("nodes", "train", "digits", "--json", *both, *QUICK, *arguments, cwd=cwd)
