"""ZooKeeper servers as processes that end with the one that started them."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from zookeeping.jars import class_path

HEAP = ("-Xms16m", "-Xmx96m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
MAIN = "org.apache.zookeeper.server.quorum.QuorumPeerMain"
HOST = "127.0.0.1"


class NotServing(Exception):
    """A server did not come up; the text holds the end of its log."""


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on now, outside the range that systems give away by chance."""
    chance, found = random.Random(), set[int]()
    while len(found) < count:
        port = chance.randrange(20000, 32000)
        with socket.socket() as one, contextlib.suppress(OSError):
            one.bind((HOST, port))
            found.add(port)
    return list(found)


class Server:
    """One server: `start`, `stop`, `kill`, `freeze` and `thaw` it; its data stay in ``folder``.

    ``others`` are the lines of an ensemble's configuration that name its servers, of which this one
    is ``number``. ``tick`` is in milliseconds; a session lasts 2 to 20 ticks.
    """

    def __init__(
        self,
        folder: Path,
        port: int,
        *,
        tick: int,
        number: int = 0,
        others: Sequence[str] = (),
        more: Sequence[str] = (),
    ) -> None:
        self.address = f"{HOST}:{port}"
        self.log = folder / "log"
        self._folder = folder
        self._port = port
        self._process: subprocess.Popen[bytes] | None = None
        data = folder / "data"
        data.mkdir(parents=True, exist_ok=True)
        if number:
            (data / "myid").write_text(f"{number}\n")
        lines = [
            f"tickTime={tick}",
            f"dataDir={data}",
            f"clientPort={port}",
            f"clientPortAddress={HOST}",
            "admin.enableServer=false",
            "maxClientCnxns=0",
            "preAllocSize=64",
            "forceSync=no",
            "4lw.commands.whitelist=srvr,cons",
            *(("initLimit=20", "syncLimit=10", *others) if others else ()),
            *more,
        ]
        (folder / "zoo.cfg").write_text("\n".join(lines) + "\n")

    def __repr__(self) -> str:
        return f"<Server {self.address} in {self._folder}>"

    def start(self) -> None:
        """Start the process, unless it is there; see `wait`.

        Raises:
            NotServing: another process has the port.
        """
        if self.runs():
            return
        with socket.socket() as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                trial.bind((HOST, self._port))
            except OSError as error:
                raise NotServing(f"port {self._port} of {HOST}: {error.strerror}") from error
        command = ["java", *HEAP, "-cp", class_path(), MAIN, str(self._folder / "zoo.cfg")]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait(self, seconds: float = 30.0) -> None:
        """Wait until it serves.

        Raises:
            NotServing: it has ended, or does not serve in that time.
        """
        end = time.monotonic() + seconds
        while not self.serves():
            ended = self._process is None or self._process.poll() is not None
            if ended or time.monotonic() > end:
                last = self.log.read_text(errors="replace").splitlines()[-5:]
                raise NotServing(f"ZooKeeper at {self.address} does not serve: {' | '.join(last)}")
            time.sleep(0.05)

    def runs(self) -> bool:
        """Say whether its process is there."""
        return self._process is not None and self._process.poll() is None

    def serves(self) -> bool:
        """Say whether it answers clients now."""
        return b"Mode:" in self._ask(b"srvr")

    def has(self, session: int) -> bool:
        """Say whether a session's client is connected here."""
        return f"sid=0x{session & 0xFFFFFFFFFFFFFFFF:x},".encode() in self._ask(b"cons")

    def _ask(self, word: bytes) -> bytes:
        """Return the answer to one of ZooKeeper's four-letter words, nothing where there is none."""
        try:
            with socket.create_connection((HOST, self._port), 1.0) as asking:
                asking.sendall(word)
                asking.settimeout(1.0)
                return b"".join(iter(lambda: asking.recv(4096), b""))
        except OSError:
            return b""

    def stop(self) -> None:
        """End it as a system does, and wait."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once."""
        self._end(signal.SIGKILL)

    def freeze(self) -> None:
        """Have it do nothing, its sockets open."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            os.kill(self._process.pid, number)

    def _end(self, number: signal.Signals) -> None:
        if self._process is None:
            return
        self._signal(number)
        self.thaw()
        try:
            self._process.wait(10.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None


@dataclass(frozen=True, slots=True)
class Way:
    """A way from one server of an ensemble to another, by their places: a port that leads to it."""

    here: int
    there: int
    port: int
    target: str


class Ensemble:
    """So many servers in one folder; use as a context manager, which starts and stops them.

    Where they are ``apart``, no server knows the others' own ports: whoever uses this has to forward
    what comes at the ports of ``ways``, and can so part them.
    """

    def __init__(
        self,
        folder: Path,
        count: int,
        *,
        port: int = 0,
        tick: int = 2000,
        more: Sequence[str] = (),
        apart: bool = False,
    ) -> None:
        places = range(count)
        pairs = 2 * count * (count - 1) if apart else 0
        found = iter(free_ports((0 if port else count) + 2 * count + pairs))
        clients = [port + place if port else next(found) for place in places]
        inner = [(next(found), next(found)) for _ in places]
        self.ways: list[Way] = []
        self.servers: list[Server] = []
        for here in places:
            others = []
            for there in places if count > 1 else ():
                ports = inner[there]
                if apart and here != there:
                    ports = (next(found), next(found))
                    self.ways += [
                        Way(here, there, one, f"{HOST}:{target}")
                        for one, target in zip(ports, inner[there], strict=True)
                    ]
                others.append(f"server.{there + 1}={HOST}:{ports[0]}:{ports[1]}")
            number = here + 1 if others else 0
            server = Server(
                folder / str(here + 1),
                clients[here],
                tick=tick,
                number=number,
                others=others,
                more=more,
            )
            self.servers.append(server)

    def __repr__(self) -> str:
        return f"<Ensemble {self.address}>"

    @property
    def address(self) -> str:
        """The servers as clients name them: host:port,host:port."""
        return ",".join(server.address for server in self.servers)

    def __enter__(self) -> Ensemble:
        try:
            for server in self.servers:
                server.start()
            for server in self.servers:
                server.wait()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for server in self.servers:
            server.kill()
