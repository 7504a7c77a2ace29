"""The command works whatever home it is given, and leaves nothing where it does not belong."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from kernels.device.discovery import devices
from tests.support.process import environment
from tests.support.stranger import FIRST, Stranger, stranger, unknown

pytestmark = pytest.mark.usefixtures("no_orphans")

needs_device = pytest.mark.skipif(not devices(), reason="no OpenCL device on this host")

OURSELVES = Stranger(os.geteuid(), ())
READ_ONLY = "a read-only folder"
"""Stands for a home that is there and can be read by anyone."""


@dataclass(frozen=True)
class Machine:
    """Folders that any user can reach: a temporary one, and one that can only be read."""

    base: Path

    @property
    def temporary(self) -> Path:
        return self.base / "tmp"

    def train(
        self, user: Stranger, home: str | None, **env: str
    ) -> subprocess.CompletedProcess[str]:
        """Have a user train digits in a folder of its own, and see that it leaves only its run."""
        cwd = Path(tempfile.mkdtemp(prefix="cwd-", dir=self.base))
        os.chown(cwd, user.uid, user.uid)
        kept = {
            name: value
            for name, value in environment(**{"TMPDIR": str(self.temporary)} | env).items()
            if name != "HOME" and not name.startswith(("XDG_", "POCL_"))
        }
        if home is not None:
            kept["HOME"] = str(self.base / "home") if home == READ_ONLY else home
        node = (sys.executable, "-P", "-m", "nodes")
        done = subprocess.run(
            [*user.prefix, *node, "train", "digits", "--epochs=1", "--json"],
            cwd=cwd,
            env=kept,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        expected = {"runs"} if done.returncode == 0 else set()
        assert {path.name for path in cwd.iterdir()} <= expected, done.stderr
        assert list((self.base / "home").iterdir()) == []
        return done

    def check_trained(self, done: subprocess.CompletedProcess[str], user: Stranger) -> None:
        """See that a run ended well, and that its user's caches are in a folder of its own."""
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["accuracy"] > 0.5
        found = (self.temporary / f"paramserver-{user.uid}").lstat()
        assert (found.st_uid, found.st_mode & 0o777) == (user.uid, 0o700)
        others = ("/tmp", "/var/tmp", "/dev/shm") if user is not OURSELVES else ()
        left = [p for at in others for p in Path(at).iterdir() if p.lstat().st_uid == user.uid]
        assert left == []


@pytest.fixture
def machine() -> Iterator[Machine]:
    """Not in pytest's own folder, which is closed to others."""
    made = Machine(Path(tempfile.mkdtemp(prefix="paramserver-homes-")))
    made.base.chmod(0o755)
    (made.base / "home").mkdir()
    made.temporary.mkdir()
    made.temporary.chmod(0o1777)
    yield made
    shutil.rmtree(made.base)


@needs_device
@pytest.mark.parametrize(
    "homes",
    [
        (None, READ_ONLY),
        pytest.param(("/", "", "relative", "/nowhere/at/all"), marks=pytest.mark.long),
    ],
    ids=["none, read-only", "what is no home"],
)
def test_a_user_without_an_entry_trains_with_any_home(
    machine: Machine, homes: tuple[str | None, ...]
) -> None:
    user = stranger()
    for home in homes:  # one after the other: they share the kernels that the first one builds
        machine.check_trained(machine.train(user, home), user)
    assert {path.name for path in machine.temporary.iterdir()} == {f"paramserver-{user.uid}"}


@needs_device
@pytest.mark.long
def test_a_second_such_user_has_caches_of_its_own(machine: Machine) -> None:
    first = stranger()
    second = stranger(first.uid + 1)
    for user in (first, second):
        machine.check_trained(machine.train(user, "/"), user)
    names = {f"paramserver-{user.uid}" for user in (first, second)}
    assert {path.name for path in machine.temporary.iterdir()} == names


@needs_device
@pytest.mark.long
def test_anyone_trains_without_a_home(machine: Machine) -> None:
    for home in ("/", "", "relative", "/nowhere/at/all"):
        machine.check_trained(machine.train(OURSELVES, home), OURSELVES)


def test_a_folder_that_cannot_be_made_is_one_line_and_code_3(machine: Machine) -> None:
    done = machine.train(OURSELVES, "/", TMPDIR="/proc/nothing")
    ours = f"/proc/nothing/paramserver-{OURSELVES.uid} cannot be made (No such file or directory)"
    check_refused(done, f"{ours}: set XDG_CACHE_HOME or TMPDIR to a folder that you may write to")


def test_a_folder_that_somebody_else_made_is_one_line_and_code_3(machine: Machine) -> None:
    theirs = machine.temporary / f"paramserver-{OURSELVES.uid}"
    theirs.mkdir()
    if OURSELVES.uid == 0:
        os.chown(theirs, unknown(FIRST), -1)
    else:
        theirs.chmod(0o777)
    done = machine.train(OURSELVES, "/")
    check_refused(done, f"{theirs} is not a folder of your own (")
    assert list(theirs.iterdir()) == []


def check_refused(done: subprocess.CompletedProcess[str], says: str) -> None:
    assert done.returncode == 3, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"node: {says}")
    assert json.loads(done.stdout)["error"] == line.removeprefix("node: ")
