"""A cluster of separate processes that meets at a real ZooKeeper."""

from __future__ import annotations

import json
import os
import re
import signal
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from zookeeping.server import Ensemble

from tests.support.process import Running, run

pytestmark = pytest.mark.usefixtures("zookeeper", "no_orphans")

SESSION = 4.0
QUICK = ("--set", f"cluster.session_timeout={SESSION}", "--set", "cluster.deadline=10")


@contextmanager
def peers(folder: Path, address: str, *, spare: bool = False) -> Iterator[dict[str, Running]]:
    """Start a spare that leads where it is asked for, then a shard and two workers."""
    commands = {
        "spare": ("paramserver", "start", "--roles", "none"),
        "shard": ("paramserver", "start"),
        "worker-1": ("nodes", "start"),
        "worker-2": ("nodes", "start"),
    }
    with ExitStack() as stack:
        started: dict[str, Running] = {}
        for name, (module, *arguments) in commands.items():
            if name == "spare" and not spare:
                continue
            place = folder / name
            place.mkdir()
            one = Running(
                module, *arguments, "--name", name, "--zookeeper", address, *QUICK, cwd=place
            )
            started[name] = stack.enter_context(one)
            if name == "spare":
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
    return "serves at" in peer.said and leader(peer) == name


def leader(peer: Running) -> str | None:
    found = status(peer, "/status")[1]["coordinator"]["leader"]
    return None if found is None else str(found)


def train(address: str, *arguments: str, cwd: Path) -> Running:
    both = ("--set", "cluster.min_workers=2", "--zookeeper", address)
    return Running("nodes", "train", "digits", "--json", *both, *QUICK, *arguments, cwd=cwd)


def test_a_run_goes_on_without_its_leader(tmp_path: Path, zookeeper: str) -> None:
    address = f"{zookeeper}/{tmp_path.name}"
    embedded = run("nodes", "train", "digits", "--json", "--epochs", "8", cwd=tmp_path)
    with peers(tmp_path, address, spare=True) as started:
        shard = started["shard"]
        with train(address, "--epochs", "8", "--set", "train.parts=2", cwd=tmp_path) as training:
            training.wait_until(lambda: "step" in training.said)
            os.kill(started["spare"].process.pid, signal.SIGKILL)
            # Deposed as seen dead, and not when its session has run out.
            shard.wait_until(lambda: leader(shard) not in (None, "spare"), SESSION / 2)
            code, result = training.finish()
        rest = ["shard", "worker-1", "worker-2"]
        shard.wait_until(lambda: sorted(status(shard, "/status")[1]["members"]) == rest)
    assert (code, result["status"]) == (0, "done")
    assert result["test_loss"] == json.loads(embedded.stdout)["test_loss"]


@pytest.mark.parametrize("fault", ["killed", "frozen"])
def test_training_goes_on_while_zookeeper_is_away(tmp_path: Path, fault: str) -> None:
    with (
        Ensemble(tmp_path / "zookeeper", 1, tick=200) as ensemble,
        peers(tmp_path, ensemble.address) as started,
        train(ensemble.address, "--epochs", "100000", cwd=tmp_path) as training,
    ):
        shard, (server,) = started["shard"], ensemble.servers
        training.wait_until(lambda: "step" in training.said)
        began = time.monotonic()
        if fault == "killed":
            server.kill()
        else:
            server.freeze()  # for so long that it takes everybody for dead when it wakes
        shard.wait_until(lambda: "degraded" in str(status(shard, "/readyz")))
        assert status(shard, "/readyz")[0] == 200
        seen = status(shard, "/status")[1]
        assert (seen["coordinator"]["kind"], seen["coordinator"]["state"]) == (
            "zookeeper",
            "suspended",
        )
        steps = steps_of(training)
        training.wait_until(lambda: steps_of(training) > steps + 1000)
        training.wait_until(lambda: time.monotonic() - began > SESSION + 1)
        server.thaw()
        server.start()
        server.wait()
        names = ["shard", "worker-1", "worker-2"]
        shard.wait_until(lambda: status(shard, "/readyz")[1] == "ok\n")
        shard.wait_until(
            lambda: names == [one for one in status(shard, "/status")[1]["members"] if one in names]
        )
        shard.wait_until(lambda: leader(shard) in names)
        back = steps_of(training)
        training.wait_until(lambda: steps_of(training) > back + 1000)
        training.signal(signal.SIGTERM)
        _, result = training.finish(30)
    assert result["status"] == "stopped"
    assert result["repeated_examples"] == 0


def steps_of(training: Running) -> int:
    return int(re.findall(r"step ([\d,]+)", training.said)[-1].replace(",", ""))


@pytest.mark.parametrize("command", [("paramserver", "start"), ("nodes", "start")])
def test_without_zookeeper_it_is_one_line_with_the_address(
    tmp_path: Path, command: tuple[str, str]
) -> None:
    arguments = ("--zookeeper", "127.0.0.1:1", "--set", "cluster.deadline=1")
    numpy = ("--set", "device.select=numpy")
    done = run(*command, *arguments, *numpy, cwd=tmp_path, seconds=20)
    assert done.returncode == 3
    assert "ZooKeeper 127.0.0.1:1" in done.stderr.splitlines()[-1]
