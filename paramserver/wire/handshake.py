"""The handshake: who is there, and do both hold the cluster's secret.

    client                                    server
    Hello(cluster, identity, nonce)    →
                                       ←      Challenge(identity, nonce, proof)
    Proof(proof)                       →
                                       ←      Welcome

A proof is HMAC-SHA-256 under the secret over the direction, the protocol version, and both hellos
with their nonces, so that neither side's words can be played back to it. Both state machines take
messages and return the answer to send; they raise where the other side is not to be trusted.

It tells who is at the other end when the connection opens. It does not hide what is said, nor stop
somebody who sits in between and passes every byte on: for that the network itself must be trusted.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from dataclasses import dataclass

from paramserver.errors import AuthenticationFailed, BadMessage
from paramserver.wire.codec import pack
from paramserver.wire.frames import PROTOCOL
from paramserver.wire.messages import Challenge, Hello, Proof, Welcome

NONCE = 16
LONGEST_NAME = 200


@dataclass(frozen=True, slots=True)
class Identity:
    """Who speaks: a peer of a cluster in one incarnation, in a role such as peer or client."""

    cluster: str
    name: str
    incarnation: int
    role: str = "peer"

    def __str__(self) -> str:
        return f"{self.name} of cluster {self.cluster}"


def _proof(secret: bytes, direction: str, client: Hello, server: Identity, nonce: bytes) -> bytes:
    said = pack(
        [
            direction,
            PROTOCOL,
            [client.cluster, client.name, client.incarnation, client.role, client.nonce],
            [server.cluster, server.name, server.incarnation, server.role, nonce],
        ]
    )
    return hmac.new(secret, said, hashlib.sha256).digest()


class ClientHandshake:
    """The connecting side."""

    def __init__(self, me: Identity, secret: bytes, nonce: bytes | None = None) -> None:
        self._secret = secret
        self.hello = Hello(
            cluster=me.cluster,
            name=me.name,
            incarnation=me.incarnation,
            role=me.role,
            nonce=nonce if nonce is not None else os.urandom(NONCE),
        )
        self._challenged = False
        self.remote: Identity | None = None
        self.done = False

    def receive(self, message: object) -> Proof | None:
        """Take the server's next message; return what to send.

        Raises:
            AuthenticationFailed: it belongs to another cluster, or does not hold the secret.
        """
        if isinstance(message, Challenge) and not self._challenged:
            self._challenged = True
            _check_words(message)
            server = Identity(message.cluster, message.name, message.incarnation, message.role)
            wanted = _proof(self._secret, "server", self.hello, server, message.nonce)
            if server.cluster != self.hello.cluster:
                raise _other_cluster(self.hello.cluster, server.cluster)
            if not hmac.compare_digest(wanted, message.proof):
                raise _other_secret(self.hello.name, server)
            self.remote = server
            return Proof(_proof(self._secret, "client", self.hello, server, message.nonce))
        if isinstance(message, Welcome) and self.remote is not None:
            self.done = True
            return None
        raise BadMessage(f"{type(message).__name__} in the middle of a handshake")


class ServerHandshake:
    """The listening side."""

    def __init__(self, me: Identity, secret: bytes, nonce: bytes | None = None) -> None:
        self._me = me
        self._secret = secret
        self._nonce = nonce if nonce is not None else os.urandom(NONCE)
        self._hello: Hello | None = None
        self.remote: Identity | None = None
        self.done = False

    def receive(self, message: object) -> Challenge | Welcome:
        """Take the client's next message; return what to send.

        Raises:
            AuthenticationFailed: it belongs to another cluster, or does not hold the secret.
        """
        if isinstance(message, Hello) and self._hello is None:
            _check_words(message)
            if message.cluster != self._me.cluster:
                raise _other_cluster(message.cluster, self._me.cluster)
            self._hello = message
            me = self._me
            return Challenge(
                cluster=me.cluster,
                name=me.name,
                incarnation=me.incarnation,
                role=me.role,
                nonce=self._nonce,
                proof=_proof(self._secret, "server", message, me, self._nonce),
            )
        if isinstance(message, Proof) and self._hello is not None and not self.done:
            hello = self._hello
            wanted = _proof(self._secret, "client", hello, self._me, self._nonce)
            if not hmac.compare_digest(wanted, message.proof):
                raise _other_secret(hello.name, self._me)
            self.remote = Identity(hello.cluster, hello.name, hello.incarnation, hello.role)
            self.done = True
            return Welcome()
        raise BadMessage(f"{type(message).__name__} in the middle of a handshake")


def _check_words(said: Hello | Challenge) -> None:
    """Refuse names that would garble a log, and nonces that do not make a proof fresh."""
    for name in (said.cluster, said.name, said.role):
        if len(name) > LONGEST_NAME or not name.isprintable():
            raise BadMessage(f"a name of {len(name)} characters, or with some that do not print")
    if len(said.nonce) != NONCE:
        raise BadMessage(f"a nonce of {len(said.nonce)} bytes where {NONCE} belong")


def _other_secret(client: str, server: Identity) -> AuthenticationFailed:
    # Both are named, since the text is told to the other side too and goes into both logs.
    return AuthenticationFailed(
        f"{client} and {server} hold different secrets: give both the same cluster.secret_file"
    )


def _other_cluster(client: str, server: str) -> AuthenticationFailed:
    return AuthenticationFailed(
        f"the client is of cluster {client!r}, the server of {server!r}: set cluster.name alike"
    )
