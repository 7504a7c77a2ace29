"""A cluster of separate processes that meets at a real ZooKeeper."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from kazoo.client import KazooClient
from kazoo.exceptions import NotEmptyError
from zookeeping.server import Ensemble

from tests.support.process import ROOT, Running, run
from tests.support.separate import SESSION, leader, members, peer, peers, status, train

pytestmark = pytest.mark.usefixtures("zookeeper", "no_orphans")


def test_a_run_goes_on_without_its_leader(tmp_path: Path, zookeeper: str) -> None:
    address = f"{zookeeper}/{tmp_path.name}"
    embedded = run("nodes", "train", "digits", "--json", "--epochs", "8", cwd=tmp_path)
    with peers(tmp_path, address, "spare", "shard", "worker-1", "worker-2") as started:
        shard = started["shard"]
        with train(address, "--epochs", "8", "--set", "train.parts=2", cwd=tmp_path) as training:
            training.wait_until(lambda: "step" in training.said)
            os.kill(started["spare"].process.pid, signal.SIGKILL)
            # Deposed as seen dead, and not when its session has run out.
            shard.wait_until(lambda: leader(shard) not in (None, "spare"), SESSION / 2)
            shard.wait_until(lambda: "spare" not in members(shard), SESSION / 2)
            code, result = training.finish()
    assert (code, result["status"]) == (0, "done")
    assert result["test_loss"] == json.loads(embedded.stdout)["test_loss"]


@pytest.mark.parametrize(
    ("fault", "seconds"),
    [
        ("killed", SESSION + 1),
        ("frozen", SESSION + 1),
        pytest.param("killed", 60.0, marks=[pytest.mark.long, pytest.mark.deadline(180)]),
    ],
)
def test_training_goes_on_while_zookeeper_is_away(
    tmp_path: Path, fault: str, seconds: float
) -> None:
    with (
        Ensemble(tmp_path / "zookeeper", 1, tick=200) as ensemble,
        peers(tmp_path, ensemble.address, "shard", "worker-1", "worker-2") as started,
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
        training.wait_until(lambda: time.monotonic() - began > seconds, 2 * seconds)
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


def test_a_run_whose_slices_are_lost_ends_and_goes_on_from_its_checkpoint(
    tmp_path: Path, zookeeper: str
) -> None:
    address = f"{zookeeper}/{tmp_path.name}"
    length = ("--epochs", "20", "--set", "train.parts=2")
    whole = run("nodes", "train", "digits", "--json", *length, cwd=tmp_path)
    folder, often = tmp_path / "run", ("--set", "checkpoint.every=0.1")
    with peers(tmp_path, address, "shard-1", "shard-2", "worker-1", "worker-2") as started:
        where = ("--output", str(folder), *often)
        with train(address, *length, *where, cwd=tmp_path) as training:
            training.wait_until(lambda: any(folder.glob("checkpoints/*/manifest.json")))
            began = time.monotonic()
            os.kill(started["shard-2"].process.pid, signal.SIGKILL)
            code, result = training.finish()
        assert time.monotonic() - began < SESSION, "it was not seen dead"
        assert (code, result["status"]) == (75, "failed")
        assert re.search(r"lost shard-2 at [\d.:]+ \(\d of \d slices", result["error"])
        with peer(tmp_path, address, "shard-2") as again:
            again.wait_until(lambda: "serves at" in again.said)
            resume = ("--resume", str(folder), "--zookeeper", address)
            with Running("nodes", "train", "--json", *resume, cwd=tmp_path) as training:
                code, result = training.finish()
    assert (code, result["status"]) == (0, "done")
    assert result["test_loss"] == json.loads(whole.stdout)["test_loss"]


def test_the_dead_make_room_at_once(tmp_path: Path, zookeeper: str) -> None:
    address = f"{zookeeper}/{tmp_path.name}"
    with peers(tmp_path, address, "shard", "worker-1") as started:
        shard, worker = started["shard"], started["worker-1"]
        shard.wait_until(lambda: "watching over worker-1" in shard.said)

        def incarnation() -> int | None:
            found = status(shard, "/status")[1]["members"].get("worker-1")
            return None if found is None else int(found["incarnation"])

        before = incarnation()
        assert before is not None
        os.kill(worker.process.pid, signal.SIGKILL)
        killed = time.monotonic()
        with peer(tmp_path, address, "worker-1") as again:
            # The next one may take its place between two looks.
            shard.wait_until(lambda: incarnation() != before, SESSION / 2)
            assert time.monotonic() - killed < SESSION / 2, "its session was waited for"
            again.wait_until(lambda: "serves at" in again.said)
            shard.wait_until(lambda: (incarnation() or 0) > before)


def test_an_operator_looks_in_and_asks_from_outside(tmp_path: Path, zookeeper: str) -> None:
    address = f"{zookeeper}/{tmp_path.name}"
    there = ("--zookeeper", address)

    def ask(*words: str) -> CompletedProcess[str]:
        return run("paramserver", *words, *there, cwd=tmp_path)

    for words in [("checkpoint",), ("config", "get")]:
        none = ask(*words)
        assert none.returncode == 3
        assert none.stderr.startswith("paramserver: there is no cluster 'local' of generation 1 at")
    with peers(tmp_path, address, "shard"):
        none = ask("checkpoint")
        assert none.returncode == 3
        assert none.stderr == "paramserver: cluster local has no run under way\n"
        assert ask("config", "get").stdout == ""
    with (
        peers(tmp_path, address, "shard-1", "worker-1", "worker-2"),
        train(address, "--epochs", "100000", "--output", "out", cwd=tmp_path) as training,
    ):
        training.wait_until(lambda: "step" in training.said)
        (name,) = ask("config", "get").stdout.split()
        assert json.loads(ask("config", "get", name).stdout)["recipe"]["data"]["source"] == "digits"
        wrong = ask("config", "get", "mine")
        assert (wrong.returncode, wrong.stdout) == (2, "")
        assert wrong.stderr.endswith(f"no configuration of a run 'mine'; there is: {name}\n")
        made = ask("checkpoint")
        assert made.returncode == 0, made.stderr
        assert Path(made.stdout.strip()).parent == tmp_path / "out" / "checkpoints"
        assert ask("set", "train.batch_size=64").returncode == 0
        training.signal(signal.SIGTERM)
        _, result = training.finish(30)
    assert result["status"] == "stopped"


def test_an_address_that_others_cannot_reach_is_warned_of(tmp_path: Path, zookeeper: str) -> None:
    afar = zookeeper.replace("127.0.0.1", "0.0.0.0")
    for address, warned in [(zookeeper, False), (afar, True)]:
        with peers(tmp_path, f"{address}/{tmp_path.name}-{warned}", "shard") as started:
            shard = started["shard"]
            assert ("peers on other machines cannot reach 127.0.0.1" in shard.said) == warned


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


def secret(folder: Path, name: str) -> tuple[str, str]:
    path = folder / name
    path.write_text(name * 8)
    path.chmod(0o600)
    return "--secret-file", str(path)


def test_who_holds_another_secret_is_no_member(tmp_path: Path, zookeeper: str) -> None:
    address = f"{zookeeper}/{tmp_path.name}"
    there = ("--zookeeper", address, "--set", "cluster.deadline=10")
    with peer(tmp_path, address, "shard", *secret(tmp_path, "right")) as shard:
        shard.wait_until(lambda: "serves at" in shard.said)
        flag, wrong = secret(tmp_path, "wrong")
        for command in [
            ("paramserver", "start", flag, wrong),
            ("nodes", "start", flag, wrong, "--set", "device.select=numpy"),
            ("nodes", "train", "digits", "--set", f"cluster.secret_file={wrong}"),
        ]:
            began = time.monotonic()
            done = run(*command, *there, cwd=tmp_path)
            assert done.returncode == 3, (command, done.stderr)
            assert "hold different secrets" in done.stderr.splitlines()[-1]
            assert time.monotonic() - began < 8
        assert members(shard) == ["shard"]
        assert shard.process.poll() is None


def test_a_tree_that_somebody_deletes_ends_nobody(tmp_path: Path, zookeeper: str) -> None:
    chroot = f"/{tmp_path.name}"
    with (
        peers(tmp_path, f"{zookeeper}{chroot}", "shard", "worker-1", "worker-2") as started,
        train(f"{zookeeper}{chroot}", "--epochs", "100000", cwd=tmp_path) as training,
    ):
        shard = started["shard"]
        training.wait_until(lambda: "step" in training.said)
        client = KazooClient(zookeeper)
        client.start(10)
        try:
            for _ in range(50):
                try:
                    client.delete(f"{chroot}/local", recursive=True)
                    break
                except NotEmptyError:
                    continue  # somebody was quicker to come back
        finally:
            client.stop()
            client.close()
        shard.wait_until(lambda: "was it wiped?" in str(status(shard, "/readyz")[1]))
        shard.wait_until(lambda: {"shard", "worker-1", "worker-2"} <= set(members(shard)))
        steps = steps_of(training)
        training.wait_until(lambda: steps_of(training) > steps + 500)
        training.signal(signal.SIGTERM)
        _, result = training.finish(30)
        assert result["status"] == "stopped"
        assert {one.process.poll() for one in started.values()} == {None}


def test_the_server_for_trials_has_its_port_alone(tmp_path: Path, zookeeper: str) -> None:
    taken = zookeeper.rpartition(":")[2]
    path = f"{ROOT}:{ROOT / 'scripts'}"
    done = run("zookeeping", "--port", taken, cwd=tmp_path, PYTHONPATH=path)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == f"zookeeper: port {taken} of 127.0.0.1: Address already in use\n"


def test_the_server_for_trials_may_pause(tmp_path: Path) -> None:
    path = f"{ROOT}:{ROOT / 'scripts'}"
    with Running("zookeeping", "--port", "0", cwd=tmp_path, PYTHONPATH=path) as trial:
        trial.wait_until(lambda: "serving" in trial.said)
        (java,) = (
            Path(f"/proc/{trial.process.pid}/task/{trial.process.pid}/children").read_text().split()
        )
        os.kill(int(java), signal.SIGSTOP)
        time.sleep(3)  # longer than it takes to find a server that does not answer
        os.kill(int(java), signal.SIGCONT)
        assert trial.process.poll() is None
        trial.process.terminate()
        assert trial.process.wait(10) == 0
