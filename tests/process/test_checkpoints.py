"""Checkpoints as a person meets them: everything killed and resumed, asked for, disks that are full."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from tests.support.process import Running, gone, run

DIGITS = ["train", "digits", "--json", "--set", "train.parts=4"]
TOPOLOGIES = (
    ["--peers", "1"],
    ["--peers", "3"],
    ["--shards", "2", "--workers", "2"],
    ["--shards", "1", "--workers", "4"],
)


def digest(folder: Path) -> str:
    tensors = load_file(folder / "model.safetensors")
    return hashlib.sha256(b"".join(tensors[name].tobytes() for name in sorted(tensors))).hexdigest()


def kill_all(running: Running) -> None:
    """Kill the launcher and its peers, all by SIGKILL."""
    pids = [running.process.pid, *running.children().values()]
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    running.process.wait()
    assert gone(pids[1:], 3.0) == []


def survive(tmp_path: Path, seed: int, kills: int, epochs: int, longest: float) -> None:
    """Kill a run at random moments, resume each time on other peers, and compare the weights."""
    chance = random.Random(seed)
    arguments = [*DIGITS, "--epochs", str(epochs)]
    whole_of = [*arguments, "--output", "whole", "--peers", "2"]
    done = run("nodes", *whole_of, cwd=tmp_path, seconds=300.0)
    assert done.returncode == 0, done.stderr
    frequent = ["--set", "checkpoint.every=0.2"]
    made = tmp_path / "killed" / "checkpoints"
    command = [*arguments, "--output", "killed", *frequent]
    killed = 0
    while True:
        topology = chance.choice(TOPOLOGIES)
        with Running("nodes", *command, *topology, cwd=tmp_path) as running:
            if killed >= kills:
                code, result = running.finish(400.0)
                assert (code, result["status"]) == (0, "done"), running.said
                break
            running.wait_until(lambda: "step" in running.said)
            try:
                running.process.wait(chance.uniform(0.0, longest))
            except subprocess.TimeoutExpired:
                kill_all(running)
                killed += 1
            else:
                raise AssertionError(f"the run was over after {killed} kills: {running.said}")
        if made.is_dir() and any(made.glob("[!.]*")):
            command = ["train", "--json", "--resume", "killed", *frequent]
    assert result["epochs"] == epochs
    whole = json.loads(done.stdout)
    assert (result["steps"], result["examples"]) == (whole["steps"], whole["examples"])
    assert result["test_loss"] == whole["test_loss"]
    tensors = (tmp_path / "killed", tmp_path / "whole")
    assert digest(tensors[0]) == digest(tensors[1])


def test_a_run_killed_and_resumed_elsewhere_ends_with_the_same_bits(
    tmp_path: Path, seed: int
) -> None:
    survive(tmp_path, seed, kills=2, epochs=24, longest=0.3)


@pytest.mark.long
@pytest.mark.deadline(900)
def test_twenty_kills_at_random_moments(tmp_path: Path, seed: int) -> None:
    survive(tmp_path, seed, kills=20, epochs=300, longest=1.0)


def test_a_peer_with_slices_that_is_told_to_go_has_the_run_saved(tmp_path: Path) -> None:
    arguments = ["train", "digits", "--epochs", "100000", "--json"]
    with Running("nodes", *arguments, cwd=tmp_path) as running:
        running.wait_until(lambda: "step" in running.said)
        os.kill(running.children()["peer-1"], signal.SIGTERM)
        code, result = running.finish(20)
        said = running.said
    assert (code, result["status"]) == (75, "stopped"), said
    assert "peer-1, which holds slices, is leaving" in result["stopped_because"]
    assert f"--resume {result['output']}" in said
    more = str(result["epochs"] + 2)
    again = run(
        *("nodes", "train", "--resume", result["output"], "--epochs", more, "--json"),
        cwd=tmp_path,
    )
    assert again.returncode == 0, again.stderr
    went_on = json.loads(again.stdout)
    assert (went_on["run"], went_on["output"]) == (result["run"], result["output"])
    assert went_on["status"] == "done"
    assert went_on["steps"] > result["steps"]


def test_a_checkpoint_that_was_copied_away_brings_its_best_model(tmp_path: Path) -> None:
    arguments = ["train", "digits", "--epochs", "2", "--set", "data.validation=0.2", "--json"]
    done = run("nodes", *arguments, "--output", "one", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (made,) = (tmp_path / "one" / "checkpoints").iterdir()
    copy = shutil.copytree(made, tmp_path / "copy")
    arguments = ["train", "--resume", str(copy), "--epochs", "3", "--json"]
    again = run("nodes", *arguments, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    folder = json.loads(again.stdout)["output"]
    assert (tmp_path / folder / "best.safetensors").exists()
    twice = run("nodes", *arguments, cwd=tmp_path)
    assert twice.returncode == 2, "the run there may be further on"
    assert f"go on with --resume {folder}" in twice.stderr


def test_a_worker_that_is_told_to_go_leaves_in_good_order(tmp_path: Path) -> None:
    arguments = [
        *("train", "digits", "--json", "--consistency", "asp", "--epochs", "60"),
        *("--shards", "1", "--workers", "2"),
    ]
    with Running("nodes", *arguments, cwd=tmp_path) as running:
        running.wait_until(lambda: "2 workers" in running.said)
        leaver = running.children()["worker-1"]
        os.kill(leaver, signal.SIGTERM)
        assert gone([leaver], 10.0) == []
        code, result = running.finish()
    assert (code, result["status"]) == (0, "done")
    assert result["examples"] == 60 * 1438
    assert result["repeated_examples"] == 0


def test_a_checkpoint_can_be_asked_for_and_the_minibatch_changed(tmp_path: Path) -> None:
    env = {"XDG_STATE_HOME": str(tmp_path / "state")}
    none = run("paramserver", "checkpoint", cwd=tmp_path, **env)
    assert none.returncode == 3
    assert "no local run is under way" in none.stderr
    arguments = ["train", "digits", "--epochs", "100000", "--json"]
    with Running("nodes", *arguments, cwd=tmp_path, **env) as running:
        running.wait_until(lambda: "step" in running.said)
        asked = run("paramserver", "checkpoint", cwd=tmp_path, **env)
        assert asked.returncode == 0, asked.stderr
        folder = Path(asked.stdout.strip())
        assert (folder / "manifest.json").exists()
        output = folder.parent.parent
        for arguments in (["--resume", str(output)], ["digits", "--output", str(output)]):
            twice = run("nodes", "train", *arguments, cwd=tmp_path, **env)
            assert twice.returncode == 2, "its launcher is alive"
            assert str(output) in twice.stderr
        for value, code in (("32", 0), ("1000000", 2), ("many", 2)):
            done = run("paramserver", "set", f"train.batch_size={value}", cwd=tmp_path, **env)
            assert done.returncode == code, done.stderr
            assert done.stderr.count("\n") == 1
        running.signal(signal.SIGTERM)
        running.finish(20)
    done = run(
        *("nodes", "train", "--resume", str(folder), "--set", "train.rate=0.5", "--json"),
        cwd=tmp_path,
    )
    assert done.returncode == 2
    assert "train.rate: cannot change in a run that goes on" in done.stderr
