"""The wheel and the sdist: what is in them, and that the wheel alone trains, or says why not."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.support.process import ROOT
from tests.support.wheels import Environment, build, call, wheel_of_others

pytestmark = [
    pytest.mark.usefixtures("no_orphans"),
    pytest.mark.skipif(
        importlib.util.find_spec("hatchling") is None or importlib.util.find_spec("pip") is None,
        reason="the wheel is built with hatchling and installed with pip: one is not installed",
    ),
]

TRAIN = ("train", "digits", "--epochs", "1", "--json")


def files_below(*folders: str) -> set[str]:
    """Return the checkout's files below folders, as paths from its root."""
    found = (path for folder in folders for path in (ROOT / folder).rglob("*"))
    return {
        path.relative_to(ROOT).as_posix()
        for path in found
        if path.is_file() and "__pycache__" not in path.parts
    }


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the checkout."""
    return build(ROOT, "wheel", tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment with the wheel, beside the tests' dependencies."""
    environment = Environment(tmp_path_factory.mktemp("installed") / "venv", beside=True)
    environment.install(wheel)
    return environment


# What is in them


def test_the_wheel_holds_the_packages_whole_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as file:
        names = set(file.namelist())
    info = f"{'-'.join(wheel.name.split('-')[:2])}.dist-info"
    about = {name for name in names if name.startswith(f"{info}/")}
    assert f"{info}/licenses/LICENSE" in about
    assert names - about == files_below("kernels", "paramserver", "nodes")
    assert {
        *(f"{package}/py.typed" for package in ("kernels", "paramserver", "nodes")),
        "kernels/cl/gemm.cl",
        "nodes/recipes/digits.toml",
        "paramserver/status/static/page.html",
    } <= names


def test_the_sdist_builds_the_same_wheel_and_holds_what_a_packager_needs(
    wheel: Path, tmp_path: Path
) -> None:
    with tarfile.open(build(ROOT, "sdist", tmp_path / "sdist")) as file:
        file.extractall(tmp_path / "source", filter="data")
    (source,) = (tmp_path / "source").iterdir()
    again = build(source, "wheel", tmp_path / "again")
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in (wheel, again)]
    assert digests[0] == digests[1]
    wanted = files_below("tests", "scripts", ".ci")
    wanted |= {path.name for path in ROOT.glob("*.md")} | {"LICENSE", "pyproject.toml"}
    assert {one for one in wanted if not (source / one).is_file()} == set()
    assert {"CONTRIBUTING.md", "SECURITY.md", "README.md", "CHANGELOG.md"} <= wanted
    assert (source / "scripts/test").stat().st_mode & 0o100, "still a program"


# Alone


def trained(environment: Environment, *command: str | Path, cwd: Path) -> None:
    """Train by a command of an environment; see that it is the wheel that did."""
    code = "import kernels, nodes, paramserver as p; print(kernels, nodes, p, sep='\\n')"
    found = call(environment.program("python"), "-P", "-c", code, cwd=cwd).stdout.splitlines()
    assert len(found) == 3
    assert all(str(environment.packages) in line for line in found)
    done = call(*command, *TRAIN, cwd=cwd, seconds=100)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["status"], result["examples"]) == ("done", 1438)
    assert result["accuracy"] > 0.5
    assert (cwd / result["output"] / "model.safetensors").exists()


def test_the_command_trains_in_any_folder(installed: Environment, tmp_path: Path) -> None:
    for name in ("nodes", "kernels", "random"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('a file of the user')\n")
    trained(installed, installed.program("node"), cwd=tmp_path)


def test_the_module_trains(installed: Environment, tmp_path: Path) -> None:
    trained(installed, installed.program("python"), "-m", "nodes", cwd=tmp_path)


@pytest.mark.long
def test_an_empty_environment_needs_the_wheel_only(wheel: Path, tmp_path: Path) -> None:
    probe = ("download", "--quiet", "--no-deps", "--dest", tmp_path / "probe", "typing-extensions")
    if call(sys.executable, "-m", "pip", *probe, cwd=tmp_path).returncode != 0:
        pytest.skip("no package index can be reached from here")
    environment = Environment(tmp_path / "venv", beside=False)
    environment.pip("install", "--quiet", wheel, seconds=600)
    trained(environment, environment.program("node"), cwd=tmp_path)
    trained(environment, environment.program("python"), "-m", "nodes", cwd=tmp_path)


# Beside others


def refusals(environment: Environment, cwd: Path) -> set[str]:
    """Start each command; return what they say where that is one line and the exit code is 3."""
    said = set()
    for program, *command in (
        ("node", environment.program("node"), *TRAIN),
        ("paramserver", environment.program("paramserver"), "start", "--embedded"),
        ("paramserver", environment.program("python"), "-m", "paramserver", "doctor"),
    ):
        done = call(*command, cwd=cwd)
        assert (done.returncode, done.stdout) == (3, ""), done.stderr
        name, _, text = done.stderr.partition(": ")
        assert name == program
        assert text.count("\n") == 1
        said.add(text.rstrip())
    return said


@pytest.mark.parametrize("last", ["ours", "theirs"])
@pytest.mark.parametrize("name", ["kernels", "nodes"])
def test_beside_a_package_of_the_same_name_the_start_is_one_clear_line(
    wheel: Path, tmp_path: Path, name: str, last: str
) -> None:
    environment = Environment(tmp_path / "venv", beside=True)
    theirs = wheel_of_others(tmp_path, name)
    for one in (theirs, wheel) if last == "ours" else (wheel, theirs):
        environment.install(one)
    place = environment.packages / name / "__init__.py"
    assert refusals(environment, tmp_path) == {
        f"the package {name} 9.1 and this project both own {place}, so one has overwritten the "
        "other: install this project into a virtual environment of its own"
    }
    if last == "theirs":
        environment.pip("uninstall", "--quiet", "--yes", name)
        (said,) = refusals(environment, tmp_path)
        assert said.startswith(f"{place} is missing, as after the removal of another package")


def test_a_package_that_is_found_first_is_named(wheel: Path, tmp_path: Path) -> None:
    ours, theirs = (Environment(tmp_path / name, beside=True) for name in ("ours", "theirs"))
    ours.install(wheel)
    theirs.install(wheel_of_others(tmp_path, "kernels"))
    command = (ours.program("node"), *TRAIN)
    done = call(*command, cwd=tmp_path, PYTHONPATH=str(theirs.packages))
    place = theirs.packages / "kernels" / "__init__.py"
    assert (done.returncode, done.stderr) == (
        3,
        f"node: {place} of the package kernels 9.1 is found before this project's package kernels: "
        "install this project into a virtual environment of its own\n",
    )


def test_a_file_that_is_found_first_is_named(installed: Environment, tmp_path: Path) -> None:
    place = tmp_path / "kernels.py"
    place.write_text("raise SystemExit('a file of the user')\n")
    done = call(installed.program("python"), "-m", "paramserver", "doctor", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (
        3,
        f"paramserver: {place} is found before this project's package kernels: rename it, or start "
        "in another folder\n",
    )
