"""The ZooKeeper back end: a session store whose links go to any server of an ensemble."""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
import time
from pathlib import Path

from paramserver.address import Address, parse_address
from paramserver.config import ClusterConfig, ZooKeeperConfig
from paramserver.coordination.port import Clock, Store
from paramserver.coordination.session_store import Link, SessionStore
from paramserver.coordination.zoolink import Credentials, Memory, ZooLink
from paramserver.errors import ConfigurationError, Unreachable

log = logging.getLogger(__name__)


class Ensemble:
    """Dials the servers of one address in turn, for one session."""

    def __init__(
        self,
        address: Address,
        *,
        session_timeout: float,
        credentials: Credentials | None = None,
        tls: ssl.SSLContext | None = None,
        make: bool = True,
        clock: Clock = time.monotonic,
    ) -> None:
        self._address = address
        self._make = make
        self._timeout = session_timeout
        self._credentials = credentials
        self._tls = tls
        self._clock = clock
        self.memory = Memory()
        self._next = random.randrange(len(address.hosts))  # not all of a cluster at the first

    def __repr__(self) -> str:
        return f"<Ensemble {self._address}>"

    async def dial(self, seconds: float) -> Link:
        """Connect to the first server that answers, beginning behind the one tried last.

        Raises:
            Unreachable: none answers.
        """
        self._forget_what_nobody_has()
        hosts, why = self._address.hosts, "none was tried"
        end = self._clock() + seconds
        for tried in range(len(hosts)):
            host, port = hosts[self._next % len(hosts)]
            self._next += 1
            share = (end - self._clock()) / (len(hosts) - tried)
            try:
                async with asyncio.timeout(max(share, 0.001)):
                    reader, writer = await asyncio.open_connection(host, port, ssl=self._tls)
            except TimeoutError:
                why = f"{host}:{port}: no connection within {share:.1f} s"
                self.memory.refused.pop(f"{host}:{port}", None)
                continue
            except (OSError, UnicodeError) as error:
                why = f"{host}:{port}: {getattr(error, 'strerror', None) or error}"
                self.memory.refused.pop(f"{host}:{port}", None)
                continue
            return ZooLink(
                reader,
                writer,
                f"{host}:{port}",
                self._address.chroot,
                self.memory,
                self._credentials,
                make=self._make,
            )
        raise Unreachable(f"ZooKeeper does not answer ({why})")

    def _forget_what_nobody_has(self) -> None:
        """Take servers that lag behind for new ones where all refused us for twice a session's time.

        A server that has seen less than we have ends the connection. One such may lag; where all do
        for longer than the session lasts, the ensemble was made anew, and what we saw is gone.
        """
        memory, now = self.memory, asyncio.get_running_loop().time()
        since = memory.refused.values()
        all_did = len(since) == len(self._address.hosts)
        if memory.zxid and all_did and now - max(since) > 2 * self._timeout:
            log.error(
                "ZooKeeper %s knows nothing of what it told us: if it was made anew, raise "
                "cluster.generation on every peer",
                self._address,
            )
            memory.zxid = 0
            memory.refused.clear()


async def open_zookeeper(
    cluster: ClusterConfig,
    *,
    deadline: float,
    make: bool = True,
    clock: Clock = time.monotonic,
) -> Store:
    """Open a session with the ensemble of ``cluster.zookeeper``, within ``deadline`` seconds.

    ``make`` says whether the path of the address is made where it is missing.

    Raises:
        Unavailable: no server could be reached; the text names them.
        AuthenticationFailed: the ensemble does not take the credentials.
        ConfigurationError: a file of credentials or certificates is missing or unfit.
    """
    given, timeout = cluster.zookeeper, cluster.session_timeout
    assert given.address is not None
    address = parse_address(given.address)
    ensemble = Ensemble(
        address,
        session_timeout=timeout,
        credentials=_credentials(given.auth_file) if given.auth_file is not None else None,
        tls=_tls(given) if given.tls else None,
        make=make,
        clock=clock,
    )
    store = SessionStore(
        ensemble.dial,
        f"ZooKeeper {address}",
        session_timeout=timeout,
        clock=clock,
        single=False,
    )
    await store.open(deadline)
    return store


def _credentials(path: Path) -> Credentials:
    key = "cluster.zookeeper.auth_file"
    try:
        secret, mode = path.read_bytes().strip(), path.stat().st_mode
    except OSError as error:
        raise ConfigurationError(f"{key}: {path}: {error.strerror}") from error
    if mode & 0o077:
        raise ConfigurationError(f"{key}: {path}: others may read it; `chmod 600 {path}`")
    user, colon, password = secret.partition(b":")
    if not (user and colon and password):
        raise ConfigurationError(f"{key}: {path}: must hold user:password")
    return Credentials("digest", secret)


def _tls(given: ZooKeeperConfig) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=given.ca_file)
        if given.cert_file is not None:
            context.load_cert_chain(given.cert_file, given.key_file)
    except OSError as error:  # ssl's errors are such
        raise ConfigurationError(f"cluster.zookeeper: {error.strerror or error}") from error
    return context
