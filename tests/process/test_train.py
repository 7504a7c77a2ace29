"""`node train` with real processes: results, deaths, signals."""

from __future__ import annotations

import hashlib
import json
import os
import signal
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from tests.support.process import Running, gone, run

pytestmark = pytest.mark.usefixtures("no_orphans")


def test_digits_reaches_its_accuracy_and_leaves_model_and_logs(tmp_path: Path) -> None:
    done = run("nodes", "train", "digits", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["status"] == "done"
    assert result["accuracy"] >= 0.96
    assert result["examples"] == 30 * 1438
    assert result["peers"] == 2
    assert result["device"]
    assert result["pushes"] == {"applied": 2 * result["steps"], "duplicate": 0, "refused": 0}
    output = tmp_path / result["output"]
    assert json.loads((output / "result.json").read_text()) == result
    assert {path.name for path in output.glob("*.log")} == {"peer-0.log", "peer-1.log"}
    tensors = load_file(output / "model.safetensors")
    assert tensors["layers.0.weight"].shape == (64, 64)
    assert "device: 0:" in done.stderr


@pytest.mark.parametrize("consistency", ["bsp", "ssp", "asp"])
def test_dedicated_shards_and_workers(tmp_path: Path, consistency: str) -> None:
    arguments = ["--shards", "2", "--workers", "1", "--consistency", consistency]
    done = run("nodes", "train", "iris", "--json", *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["examples"] == 40 * 120
    assert result["peers"] == 3
    assert result["accuracy"] >= 0.8


def test_bsp_gives_the_same_file_with_any_topology(tmp_path: Path) -> None:
    seen = set()
    for number, topology in enumerate(
        (["--peers", "1"], ["--peers", "3"], ["--shards", "2", "--workers", "2"])
    ):
        done = run(
            *("nodes", "train", "digits", "--json", "--epochs", "2", "--set", "train.parts=4"),
            *("--output", f"out{number}", *topology),
            cwd=tmp_path,
        )
        assert done.returncode == 0, done.stderr
        tensors = load_file(tmp_path / f"out{number}" / "model.safetensors")
        weights = b"".join(tensors[name].tobytes() for name in sorted(tensors))
        seen.add((hashlib.sha256(weights).hexdigest(), json.loads(done.stdout)["test_loss"]))
    assert len(seen) == 1


@pytest.mark.parametrize(
    ("consistency", "number"),
    [
        ("bsp", signal.SIGKILL),
        ("asp", signal.SIGSTOP),
        pytest.param("bsp", signal.SIGSTOP, marks=pytest.mark.long),
        pytest.param("asp", signal.SIGKILL, marks=pytest.mark.long),
    ],
)
def test_a_worker_that_dies_or_freezes_is_replaced_by_the_others(
    tmp_path: Path, data_dir: Path, consistency: str, number: signal.Signals
) -> None:
    arguments = [
        *("train", "mnist", "--json", "--shards", "2", "--workers", "3"),
        *("--consistency", consistency, "--epochs", "1", "--set", "cluster.deadline=5"),
    ]
    with Running("nodes", *arguments, cwd=tmp_path, PARAMSERVER_DATA=str(data_dir)) as running:
        running.wait_until(lambda: "3 workers" in running.said)  # all have joined the run
        victim = running.children()["worker-1"]
        os.kill(victim, number)
        code, result = running.finish()
        said = running.said
    assert (code, result["status"]) == (0, "done"), said
    assert result["examples"] == 60000
    assert result["accuracy"] > 0.9
    assert result["longest_pause"] <= 5 + 1
    assert "lost worker-1" in said
    if consistency == "bsp":
        assert result["repeated_examples"] == 0
        assert result["steps"] == 469
    else:
        assert 0 <= result["repeated_examples"] <= 128
    assert gone([victim], 3.0) == []


@pytest.mark.parametrize("frozen", [False, True])
def test_peers_leave_within_two_seconds_when_the_launcher_is_killed(
    tmp_path: Path, frozen: bool
) -> None:
    with Running("nodes", "train", "digits", "--epochs", "10000", cwd=tmp_path) as running:
        running.wait_until(lambda: "step" in running.said)
        children = list(running.children().values())
        assert len(children) == 2
        if frozen:
            os.kill(children[0], signal.SIGSTOP)
        running.signal(signal.SIGKILL)
        running.process.wait()
        assert gone(children, 2.0) == []


def test_peers_leave_when_the_launcher_dies_before_they_know_where_to_join(tmp_path: Path) -> None:
    with Running("nodes", "train", "digits", cwd=tmp_path) as running:
        running.wait_until(lambda: len(running.children()) == 2)
        children = list(running.children().values())
        running.signal(signal.SIGKILL)
        assert gone(children, 5.0) == [], "they look when their imports are done"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_the_run_in_good_order(tmp_path: Path, number: signal.Signals) -> None:
    arguments = ["train", "digits", "--epochs", "10000", "--json"]
    with Running("nodes", *arguments, cwd=tmp_path) as running:
        running.wait_until(lambda: "step" in running.said)
        running.signal(number)
        code, result = running.finish(20)
    assert code == -number, "the exit status tells of the signal"
    assert result["status"] == "stopped"
    assert result["steps"] > 0
    assert (tmp_path / result["output"] / "model.safetensors").exists()


@pytest.mark.parametrize("late", [False, True])
def test_a_signal_before_the_run_began_ends_it_as_stopped(tmp_path: Path, late: bool) -> None:
    with Running("nodes", "train", "digits", "--json", cwd=tmp_path) as running:
        running.wait_until(lambda: len(running.children()) == 2)
        children = list(running.children().values())
        if late:
            running.wait_until(lambda: "status page" in running.said)
        running.signal(signal.SIGINT)
        code, result = running.finish(20)
        assert gone(children, 2.0) == []
    assert code == -signal.SIGINT
    assert result["status"] == "stopped"
    assert (tmp_path / "runs").exists() == (result["output"] is not None)


def test_a_second_signal_ends_the_run_at_once(tmp_path: Path) -> None:
    with Running("nodes", "train", "digits", "--epochs", "10000", cwd=tmp_path) as running:
        running.wait_until(lambda: "step" in running.said)
        children = list(running.children().values())
        os.kill(children[0], signal.SIGSTOP)
        running.signal(signal.SIGINT)
        running.wait_until(lambda: "stopping in good order" in running.said)
        running.signal(signal.SIGINT)
        assert running.process.wait(5) == -signal.SIGINT
        os.kill(children[0], signal.SIGCONT)
        assert gone(children, 2.0) == []


def test_a_run_that_loses_a_peer_with_slices_says_which(tmp_path: Path) -> None:
    arguments = ["train", "digits", "--epochs", "10000", "--json", "--set", "cluster.deadline=5"]
    with Running("nodes", *arguments, cwd=tmp_path) as running:
        running.wait_until(lambda: "step" in running.said)
        os.kill(running.children()["peer-1"], signal.SIGKILL)
        code, result = running.finish(15)
    assert code == 75
    assert result["status"] == "failed"
    assert "lost peer-1 at 127.0.0.1:" in result["error"]
    assert "of 5 slices" in result["error"]
