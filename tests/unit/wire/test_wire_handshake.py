"""The handshake: who holds the secret gets in, nobody else, and nothing can be played back."""

import dataclasses
import re

import pytest

from paramserver.errors import AuthenticationFailed, BadMessage
from paramserver.wire.handshake import NONCE, ClientHandshake, Identity, ServerHandshake
from paramserver.wire.messages import Challenge, Failure, Hello, Proof, Welcome

SECRET = b"the cluster's secret"
WORKER = Identity("north", "worker-1", 17)
SHARD = Identity("north", "shard-2", 18, "peer")


def client(identity: Identity = WORKER, secret: bytes = SECRET, nonce: int = 1) -> ClientHandshake:
    return ClientHandshake(identity, secret, bytes([nonce]) * NONCE)


def server(identity: Identity = SHARD, secret: bytes = SECRET, nonce: int = 2) -> ServerHandshake:
    return ServerHandshake(identity, secret, bytes([nonce]) * NONCE)


def test_both_learn_who_the_other_is() -> None:
    one, other = client(), server()
    challenge = other.receive(one.hello)
    proof = one.receive(challenge)
    assert (one.done, other.done) == (False, False)
    welcome = other.receive(proof)
    assert one.receive(welcome) is None
    assert (one.done, other.done) == (True, True)
    assert one.remote == SHARD
    assert other.remote == WORKER
    assert str(SHARD) == "shard-2 of cluster north"


def test_nonces_are_fresh_each_time() -> None:
    hellos = {ClientHandshake(WORKER, SECRET).hello.nonce for _ in range(100)}
    challenges = {ServerHandshake(SHARD, SECRET).receive(client().hello).nonce for _ in range(100)}
    assert len(hellos | challenges) == 200


DIFFERENT = "^worker-1 and shard-2 of cluster north hold different secrets: give both the same "
"""What either side says, to itself and to the other: so each log names both."""


def test_a_server_with_another_secret_is_named() -> None:
    one, other = client(), server(secret=b"another")
    with pytest.raises(AuthenticationFailed, match=DIFFERENT):
        one.receive(other.receive(one.hello))
    assert one.remote is None


def test_a_client_with_another_secret_is_named() -> None:
    one, other = client(secret=b"another"), server()
    other.receive(one.hello)
    proof = one.receive(server(secret=b"another").receive(one.hello))
    with pytest.raises(AuthenticationFailed, match=DIFFERENT):
        other.receive(proof)
    assert not other.done


def test_another_cluster_is_named_by_either_side() -> None:
    south = Identity("south", "worker-1", 17)
    text = re.escape("the client is of cluster 'south', the server of 'north': set cluster.name")
    with pytest.raises(AuthenticationFailed, match=text):
        server().receive(client(south).hello)
    one = client(south)
    lying = dataclasses.replace(one.hello, cluster="north")
    with pytest.raises(AuthenticationFailed, match=text):
        one.receive(server().receive(lying))


def test_a_challenge_of_another_connection_proves_nothing() -> None:
    old = server().receive(client(nonce=1).hello)
    with pytest.raises(AuthenticationFailed):
        client(nonce=3).receive(old)


def test_a_proof_of_another_connection_proves_nothing() -> None:
    one, first = client(), server(nonce=2)
    proof = one.receive(first.receive(one.hello))
    second = server(nonce=4)
    second.receive(one.hello)
    with pytest.raises(AuthenticationFailed):
        second.receive(proof)


def test_the_servers_own_proof_does_not_open_it() -> None:
    one, other = client(), server()
    challenge = other.receive(one.hello)
    assert isinstance(challenge, Challenge)
    with pytest.raises(AuthenticationFailed):
        other.receive(Proof(challenge.proof))


def test_a_server_cannot_be_made_to_prove_for_a_client() -> None:
    # The attacker opens to a server as the very peer that it attacks elsewhere, and plays back.
    victim = server(identity=SHARD, nonce=7)
    as_client = Hello("north", "shard-2", 18, "peer", bytes([7]) * NONCE)
    reflected = server(identity=WORKER, nonce=1).receive(as_client)
    assert isinstance(reflected, Challenge)
    victim.receive(client(WORKER, nonce=1).hello)
    with pytest.raises(AuthenticationFailed):
        victim.receive(Proof(reflected.proof))


@pytest.mark.parametrize(
    "change",
    [
        {"cluster": "north"},
        {"name": "worker-2"},
        {"incarnation": 99},
        {"role": "client"},
        {"nonce": bytes(NONCE)},
    ],
    ids=str,
)
def test_every_word_of_the_hello_is_under_the_proof(change: dict[str, object]) -> None:
    one, other = client(), server()
    said = dataclasses.replace(one.hello, **change)  # type: ignore[arg-type]
    challenge = other.receive(said)
    if said == one.hello:
        assert one.receive(challenge) is not None
        return
    with pytest.raises(AuthenticationFailed):
        one.receive(challenge)


@pytest.mark.parametrize(
    "change",
    [
        {"name": "shard-9"},
        {"incarnation": 1},
        {"role": "x"},
        {"nonce": bytes(NONCE)},
        {"proof": b""},
    ],
    ids=str,
)
def test_every_word_of_the_challenge_is_under_the_proof(change: dict[str, object]) -> None:
    one = client()
    challenge = server().receive(one.hello)
    assert isinstance(challenge, Challenge)
    with pytest.raises(AuthenticationFailed):
        one.receive(dataclasses.replace(challenge, **change))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "change",
    [
        {"nonce": b""},
        {"nonce": bytes(NONCE + 1)},
        {"name": "a\nb"},
        {"name": "\x1b[2J"},
        {"role": "x" * 201},
        {"cluster": "\0"},
    ],
    ids=str,
)
def test_words_that_no_peer_says_are_refused(change: dict[str, object]) -> None:
    hello = dataclasses.replace(client().hello, **change)  # type: ignore[arg-type]
    with pytest.raises(BadMessage):
        server().receive(hello)
    challenge = server().receive(client().hello)
    assert isinstance(challenge, Challenge)
    with pytest.raises(BadMessage):
        client().receive(dataclasses.replace(challenge, **change))  # type: ignore[arg-type]


def test_messages_out_of_order_are_refused() -> None:
    strange = [Proof(b""), Welcome(), Failure("x", "y", {}), "text", None]
    for message in [*strange, client().hello]:
        with pytest.raises(BadMessage, match="in the middle of a handshake"):
            client().receive(message)
    for message in strange:
        with pytest.raises(BadMessage, match="in the middle of a handshake"):
            server().receive(message)
    other = server()
    other.receive(client().hello)
    with pytest.raises(BadMessage, match="Hello in the middle"):
        other.receive(client().hello)
    one = client()
    challenge = server().receive(one.hello)
    one.receive(challenge)
    with pytest.raises(BadMessage, match="Challenge in the middle"):
        one.receive(challenge)


def test_nothing_is_taken_after_the_end() -> None:
    one, other = client(), server()
    proof = one.receive(other.receive(one.hello))
    other.receive(proof)
    for message in (proof, one.hello):
        with pytest.raises(BadMessage):
            other.receive(message)
