"""Who else uses our names: packages called ``kernels`` and ``nodes``, commands called ``node``."""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path

from paramserver.doctor.report import Report
from paramserver.names import OURS, PACKAGES, owner

HEAD = 4096


def other_packages(places: Iterable[str]) -> list[Path]:
    """Return what else is importable under our packages' names from ``places``, in their order.

    Another copy of this project is the one entry of its package paramserver.
    """
    found = []
    for place in dict.fromkeys(Path(place or ".").resolve() for place in places):
        copy = place / "paramserver" / "__init__.py"
        if copy.is_file():
            if place != OURS:
                found.append(copy)
            continue
        for name in PACKAGES:
            candidates = (place / name / "__init__.py", place / f"{name}.py")
            found += [path for path in candidates if path.is_file()]
    return found


def node_commands(path: str) -> list[Path]:
    """Return every command ``node`` on a PATH, the one that a shell would run first."""
    found = []
    for folder in dict.fromkeys(path.split(os.pathsep)):
        command = Path(folder or ".") / "node"
        if command.is_file() and os.access(command, os.X_OK):
            found.append(command)
    return found


def is_ours(command: Path) -> bool:
    """Say whether a command ``node`` is this project's."""
    try:
        with command.open("rb") as file:
            return b"paramserver.__main__" in file.read(HEAD)
    except OSError:
        return False


def examine_names(report: Report) -> None:
    """Say which names of ours others use, and what to type instead."""
    clashes = other_packages(sys.path)
    for path in clashes:
        name = path.stem if path.stem in PACKAGES else path.parent.name
        if name == "paramserver":
            report.note(f"{path.parent} is another copy of this project; this one is {OURS}")
        else:
            report.note(
                f"{path}{owner(path)} is called {name} too: where it is found first, ours is not; "
                "uninstall it, or give this project an environment of its own"
            )
    if not clashes:
        report.ok("no other package is called kernels or nodes")
    commands = node_commands(os.environ.get("PATH", ""))
    scripts = Path(sysconfig.get_path("scripts")) / "node"
    if commands and is_ours(commands[0]):
        report.ok(f"the command node is ours: {commands[0]}")
    elif commands:
        ours = f"{scripts} or " if is_ours(scripts) else ""
        report.note(
            f"the command node is another's, {commands[0]}: type {ours}`python -m nodes` instead"
        )
    else:
        report.note("the command node is not in PATH: `python -m nodes` does the same")
