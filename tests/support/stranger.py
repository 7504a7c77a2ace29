"""A user that the system does not know, as a container may give a process: no entry, no home."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

FIRST = 54321
# In a child, because setpriv itself may still start what its user may not.
PROBE = """
import subprocess, sys
subprocess.run([sys.executable, "-c", "import nodes.cli, pyopencl"], check=True)
"""
READING = "+dac_read_search"


@dataclass(frozen=True, slots=True)
class Stranger:
    """Its number, and what to write before a command that it is to run."""

    uid: int
    prefix: tuple[str, ...]


def unknown(above: int = FIRST) -> int:
    """Return the first number from ``above`` on that is no user's."""
    while True:
        try:
            pwd.getpwuid(above)
        except KeyError:
            return above
        above += 1


def stranger(above: int = FIRST) -> Stranger:
    """Return a user without an entry; skip the test if none can run Python and read the checkout."""
    setpriv = shutil.which("setpriv")
    if os.geteuid() != 0 or setpriv is None:
        pytest.skip("NO USER WITHOUT AN ENTRY: that needs root, and setpriv of util-linux")
    uid = unknown(above)
    become = (setpriv, f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "--no-new-privs")
    # An interpreter in root's home can be read by nobody else. Nothing but reading is allowed more.
    reads = (f"--inh-caps={READING}", f"--ambient-caps={READING}")
    for prefix in (become, (*become, *reads)):
        done = subprocess.run(
            [*prefix, sys.executable, "-c", PROBE],
            cwd="/",
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
            capture_output=True,
            check=False,
        )
        if done.returncode == 0:
            return Stranger(uid, prefix)
    pytest.skip(f"NO USER WITHOUT AN ENTRY: it cannot read {sys.executable} and the checkout")
