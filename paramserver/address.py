"""Where a ZooKeeper ensemble is, as people write it."""

from __future__ import annotations

import re
from dataclasses import dataclass

PORT = 2181
_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,62})"
_HOST = re.compile(rf"(\[[0-9A-Fa-f:.]+\]|{_LABEL}(?:\.{_LABEL})*)(?::(\d{{1,5}}))?")
_CHROOT = re.compile(r"(/(?!\.{1,2}(?:/|\Z))[A-Za-z0-9._-]+)*")


@dataclass(frozen=True, slots=True)
class Address:
    """The servers of an ensemble, and the path below which a cluster's tree lies."""

    hosts: tuple[tuple[str, int], ...]
    chroot: str = ""

    def __str__(self) -> str:
        names = (
            f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.hosts
        )
        return ",".join(names) + self.chroot


def parse_address(text: str) -> Address:
    """Read ``host:port,host2:port/chroot`` as ZooKeeper's own clients do; a port may be left out.

    Raises:
        ValueError: it is no such text.
    """
    servers, slash, rest = text.partition("/")
    chroot = (slash + rest).rstrip("/")
    found = [_HOST.fullmatch(one.strip(" ")) for one in servers.split(",")]
    hosts = [(one[1].strip("[]"), int(one[2] or PORT)) for one in found if one is not None]
    bad = None in found or any(not 0 < port < 65536 for _, port in hosts)
    if bad or not _CHROOT.fullmatch(chroot):
        raise ValueError(f"{text!r} is no address: write host:port, or host:port,host:port/path")
    return Address(tuple(hosts), chroot)
