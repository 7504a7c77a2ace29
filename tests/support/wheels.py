"""The project's wheel, wheels of others, and virtual environments to install them into."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

ASTRAY = {
    *("PYTHONPATH", "PYTHONHOME", "PYTHONSAFEPATH", "VIRTUAL_ENV"),
    *("PIP_USER", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_REQUIRE_VIRTUALENV"),
}
"""Variables that would lead a command to another environment than its own."""


def call(
    *command: str | Path, cwd: Path, seconds: float = 60.0, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end as a person's shell would, outside of the tests' environment."""
    environment = {key: value for key, value in os.environ.items() if key not in ASTRAY}
    return subprocess.run(
        command,
        cwd=cwd,
        env={**environment, **variables},
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )


def build(source: Path, target: str, into: Path) -> Path:
    """Build the ``wheel`` or the ``sdist`` of a source tree into an empty folder; return its path."""
    command = (sys.executable, "-m", "hatchling", "build", "-t", target, "-d", into)
    done = call(*command, cwd=source)
    assert done.returncode == 0, done.stderr
    (built,) = (path for path in into.iterdir() if path.is_file())
    return built


def wheel_of_others(folder: Path, name: str) -> Path:
    """Make a wheel called ``name`` that owns a package called ``name``, which no Python 3 reads."""
    path = folder / f"{name}-9.1-py3-none-any.whl"
    info = f"{name}-9.1.dist-info"
    files = {
        f"{name}/__init__.py": "print 'not ours'\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 9.1\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{file},,\n" for file in files)
    with zipfile.ZipFile(path, "w") as wheel:
        for file, text in files.items():
            wheel.writestr(file, text)
    return path


class Environment:
    """A virtual environment of its own; one ``beside`` ours finds our dependencies there."""

    def __init__(self, place: Path, *, beside: bool) -> None:
        self.place = place
        venv.create(place, with_pip=False, symlinks=True)
        if beside:
            # A folder named in a .pth file is searched last, and its own .pth files are not read:
            # what is installed there in editable form is not found.
            found = {sysconfig.get_path(kind) for kind in ("purelib", "platlib")}
            (self.packages / "beside.pth").write_text("".join(f"{one}\n" for one in sorted(found)))

    @property
    def packages(self) -> Path:
        """Its site-packages."""
        (found,) = (self.place / "lib").glob("python*/site-packages")
        return found

    def program(self, name: str) -> Path:
        """Return the path of a program in it."""
        return self.place / "bin" / name

    def pip(self, *arguments: str | Path, seconds: float = 60.0) -> None:
        """Run this Python's pip on it."""
        command = (sys.executable, "-m", "pip", "--python", self.program("python"))
        done = call(*command, *arguments, cwd=self.place, seconds=seconds)
        assert done.returncode == 0, done.stdout + done.stderr

    def install(self, wheel: Path) -> None:
        """Install a wheel alone."""
        self.pip("install", "--quiet", "--no-index", "--no-deps", "--no-compile", wheel)
