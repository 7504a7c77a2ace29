"""Checkpoints on a disk that is really full, while their writer is killed."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.disk import fill, small_disk
from tests.support.process import ROOT, Running, environment

pytestmark = pytest.mark.usefixtures("no_orphans")

LOOP = """
import os, random, signal, sys
from pathlib import Path
from paramserver.errors import NotReady
from tests.support.disk import fill
from tests.unit.core.test_checkpoint import clock_at, save

parent, rounds, chance = Path(sys.argv[1]) / "checkpoints", int(sys.argv[2]), random.Random(sys.argv[3])
STEPS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.listdir")

save(parent, 1, keep=2)
clock, killed, full = 1, 0, 0
for number in range(rounds):
    kills = number % 2 == 1
    filler = fill(parent.parent, leave=400_000 if kills else chance.randrange(50_000))
    child = os.fork()
    if child == 0:
        left = [number // 2]  # the next one dies a step later

        def hook(event, arguments):
            if event in STEPS:
                left[0] -= 1
                if left[0] == -1:
                    os.kill(os.getpid(), signal.SIGKILL)

        if kills:
            sys.addaudithook(hook)
        try:
            save(parent, clock + 1, keep=2)
        except NotReady:
            os._exit(3)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    killed += os.WIFSIGNALED(status)
    full += os.waitstatus_to_exitcode(status) == 3
    found = clock_at(parent)
    assert found in ((clock + 1,) if status == 0 else (clock, clock + 1)), (number, clock, found)
    filler.unlink()
    clock = found + 1
    save(parent, clock, keep=2)
    assert clock_at(parent) == clock
print(killed, full)
"""


def test_the_last_good_checkpoint_loads_after_fifty_full_disks_and_kills(
    tmp_path: Path, seed: int
) -> None:
    disk = tmp_path / "disk"
    done = subprocess.run(
        [*small_disk(disk, "400k"), sys.executable, "-c", LOOP, str(disk), "50", str(seed)],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    killed, full = map(int, done.stdout.split())
    assert killed > 15, "it has about 18 steps, and is killed at each of them"
    assert full == 25


def steps(running: Running) -> int:
    """Return the count of steps in the last line of progress."""
    return int(re.findall(r"step ([\d,]+)", running.said)[-1].replace(",", ""))


def test_training_goes_on_while_the_disk_is_full(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    arguments = [
        *("train", "digits", "--epochs", "100000", "--json"),
        *("--output", str(disk / "out"), "--set", "checkpoint.every=0.3"),
    ]
    prefix = small_disk(disk, "4m")
    with Running("nodes", *arguments, cwd=tmp_path, prefix=prefix) as running:
        there = Path(f"/proc/{running.process.pid}/root{disk}")
        made = there / "out" / "checkpoints"
        running.wait_until(lambda: made.is_dir() and any(made.glob("[!.]*")))
        filler = fill(there)
        running.wait_until(lambda: "no checkpoint now" in running.said)
        reached = steps(running)
        running.wait_until(lambda: steps(running) > reached)
        before = {path.name for path in made.glob("[!.]*")}
        assert before
        filler.unlink()
        running.wait_until(lambda: {path.name for path in made.glob("[!.]*")} - before != set())
        running.signal(signal.SIGTERM)
        _, result = running.finish(20)
    assert result["status"] == "stopped"
    assert result["checkpoint"] is not None
