"""The scripts a person types, in a copy of their folder with a stand-in for Python.

The stand-in answers the scripts' questions at once and writes down each installation, so that what
is tested is the scripts' own logic: what they install, when, and what they hand on.
"""

import os
import platform
import re
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import pytest

SYSTEM_POCL = Path("/etc/OpenCL/vendors/pocl.icd").exists()
CHECKOUT = Path(__file__).resolve().parents[2]
TOOLS = (
    "awk bash cat chmod cp cut dirname env find flock grep head mkdir mktemp readlink rm sha256sum "
    "tail touch"
)

PYTHON = r"""#!/usr/bin/env bash
case "$*" in
*_base_executable*) echo "$0" ;;
*version_info*) echo 3.11 ;;
*samefile*) ;;
*ensurepip*) ;;
*'-m venv'*)
  echo "venv" >>"$RECORD"
  mkdir -p "${!#}/bin"
  cp "$0" "${!#}/bin/python"
  ;;
*'-m pip install'*)
  echo "pip ${!#}" >>"$RECORD"
  if [[ -n ${PIP_FAILS:-} ]]; then
    echo "no matching distribution"
    exit 1
  fi
  for program in node ruff mypy lint-imports; do
    cp "$TOOL" "${0%/*}/$program"
  done
  ;;
*'-m kernels.device'*)
  echo "tried" >>"$RECORD.devices"
  if [[ -n ${NO_DEVICE:-} ]] && ! grep -q pocl-opencl-icd "$RECORD"; then
    echo "no OpenCL device works: the compiler's words"
    exit 3
  fi
  echo "0: a device"
  ;;
*kernels.device*) ;;
*'-m pytest'*) exec "$TOOL" "$@" ;;
*) echo "unforeseen: $*" >&2; exit 99 ;;
esac
"""

# Stands for node, ruff, mypy, lint-imports and pytest: shows what it was given.
TOOL = r"""#!/usr/bin/env bash
echo "${0##*/}"
printf '<%s>' "$@"
echo
echo "PYTHONPATH=${PYTHONPATH-unset} PYTHONHOME=${PYTHONHOME-unset} in $PWD"
[[ ${FAILS:-} != "${0##*/}" ]] || exit 7
"""

# Runs nothing: what it was to run is what matters.
OCLGRIND = r"""#!/usr/bin/env bash
echo "oclgrind $*"
"""

APT = r"""#!/usr/bin/env bash
case "$*" in
*'install -s'*) echo "Inst libpocl2 (3.1 Debian)"; exit ;;
*download*) touch libpocl2.deb; exit ;;
esac
echo "apt-get $*" >>"$RECORD"
case "$*" in
*install*) cp "$TOOL" "${0%/*}/ld" ;;
esac
"""

DPKG = r"""#!/usr/bin/env bash
mkdir -p "$3/usr/lib"
touch "$3/usr/lib/libpocl.so.2.9"
"""


@dataclass
class Copy:
    """A checkout with scripts and pyproject.toml only, and a PATH with nothing but stand-ins."""

    base: Path
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def root(self) -> Path:
        return self.base / "a check out"

    @property
    def bin(self) -> Path:
        return self.base / "bin"

    @property
    def record(self) -> list[str]:
        """Everything made or installed so far."""
        path = self.base / "record"
        return path.read_text().splitlines() if path.exists() else []

    def command(self, name: str, *arguments: str, **more: str) -> subprocess.Popen[str]:
        environment = {
            "PATH": str(self.bin),
            "HOME": str(self.base),
            "RECORD": str(self.base / "record"),
            "TOOL": str(self.base / "tool"),
            **self.variables,
            **more,
        }
        return subprocess.Popen(
            [self.root / "scripts" / name, *arguments],
            cwd=self.base,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def call(self, name: str, *arguments: str, **more: str) -> tuple[int, str, str]:
        """Run a script to its end; give exit status, stdout and stderr."""
        with self.command(name, *arguments, **more) as process:
            out, err = process.communicate(timeout=30)
        return process.returncode, out, err

    def program(self, name: str, text: str) -> Path:
        path = self.base / name
        path.write_text(text)
        path.chmod(0o755)
        return path


@pytest.fixture
def copy(tmp_path: Path) -> Copy:
    made = Copy(tmp_path)
    made.bin.mkdir()
    made.root.mkdir()
    shutil.copytree(CHECKOUT / "scripts", made.root / "scripts")
    shutil.copy(CHECKOUT / "pyproject.toml", made.root)
    for tool in TOOLS.split():
        found = shutil.which(tool)
        assert found is not None, f"the scripts need {tool}"
        (made.bin / tool).symlink_to(found)
    made.program("tool", TOOL)
    made.program("bin/ld", TOOL)
    made.program("bin/apt-get", APT)
    made.program("bin/python3", PYTHON)
    # Node.js's program, which must never be taken for ours.
    made.program("bin/node", "#!/usr/bin/env bash\nexit 88\n")
    return made


@pytest.mark.parametrize(
    ("given", "handed_on"),
    [
        ([], ["train", "digits"]),
        (["--json"], ["train", "digits", "--json"]),
        (["--epochs", "3"], ["train", "digits", "--epochs", "3"]),
        (["mnist"], ["train", "mnist"]),
        (["mnist", "--help"], ["train", "mnist", "--help"]),
        (["my recipe.toml", "--json", ""], ["train", "my recipe.toml", "--json", ""]),
        (["--resume", "runs/one"], ["train", "--resume", "runs/one"]),
        (["--json", "--resume=runs/one"], ["train", "--json", "--resume=runs/one"]),
    ],
)
def test_run_hands_its_arguments_on(copy: Copy, given: list[str], handed_on: list[str]) -> None:
    status, out, _ = copy.call("run", *given)
    assert status == 0
    program, arguments, _ = out.splitlines()
    assert program == "node"
    assert arguments == "".join(f"<{argument}>" for argument in handed_on)


@pytest.mark.parametrize("asked", ["--help", "-h"])
@pytest.mark.parametrize(
    ("name", "line"),
    [("run", "all arguments go to `node train`"), ("test", "  scripts/test --all ")],
)
def test_help_sets_nothing_up(copy: Copy, name: str, line: str, asked: str) -> None:
    status, out, err = copy.call(name, asked)
    assert (status, err) == (0, "")
    assert line in out
    assert "#" not in out
    assert copy.record == []
    assert not (copy.root / ".venv").exists()


def test_run_installs_once_and_says_so_on_stderr_only(copy: Copy) -> None:
    first, out, err = copy.call("run")
    assert len(out.splitlines()) == 3, out
    assert err.count("\n") == 2, err
    second, _, err = copy.call("run")
    assert (first, second, err) == (0, 0, "")
    assert copy.record == ["venv", f"pip {copy.root}"]


def test_run_is_not_disturbed_by_a_foreign_environment(copy: Copy) -> None:
    status, out, _ = copy.call(
        "run", PYTHONPATH="/nowhere", PYTHONHOME="/nowhere", VIRTUAL_ENV="/nowhere", CDPATH="/usr"
    )
    assert status == 0
    assert f"PYTHONPATH=unset PYTHONHOME=unset in {copy.base}" in out


def test_run_works_through_a_symlink(copy: Copy) -> None:
    (copy.base / "link").symlink_to(copy.root / "scripts" / "run")
    environment = {"PATH": str(copy.bin), "RECORD": "record", "TOOL": str(copy.base / "tool")}
    done = subprocess.run(
        ["./link"], cwd=copy.base, env=environment, capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0, done.stderr
    assert (copy.root / ".venv").is_dir()


def test_two_first_calls_at_once_install_once(copy: Copy) -> None:
    calls = [copy.command("run") for _ in range(4)]
    for process in calls:
        with process:
            _, err = process.communicate(timeout=30)
        assert process.returncode == 0, err
    assert copy.record == ["venv", f"pip {copy.root}"]


def test_interrupted_set_up_is_made_anew(copy: Copy) -> None:
    assert copy.call("run")[0] == 0
    (copy.root / ".venv" / ".installed-run").unlink()
    (copy.root / ".venv" / ".installing").touch()
    assert copy.call("run")[0] == 0
    assert copy.record == ["venv", f"pip {copy.root}"] * 2


def test_moved_checkout_gets_an_environment_of_its_own(copy: Copy) -> None:
    assert copy.call("run")[0] == 0
    moved = Copy(copy.base / "elsewhere", {"PATH": str(copy.bin), "TOOL": str(copy.base / "tool")})
    moved.base.mkdir()
    shutil.copytree(copy.root, moved.root)
    assert moved.call("run")[0] == 0
    assert moved.record == ["venv", f"pip {moved.root}"]


def test_changed_dependencies_are_installed_and_changed_lint_rules_are_not(copy: Copy) -> None:
    assert copy.call("run")[0] == 0
    project = copy.root / "pyproject.toml"
    text = project.read_text()
    project.write_text(text.replace("line-length = 100", "line-length = 99"))
    assert copy.call("run")[0] == 0
    assert len(copy.record) == 2
    project.write_text(re.sub(r'"numpy>=[\d.]+"', '"numpy>=99"', text))
    assert copy.call("run")[0] == 0
    assert copy.record == ["venv", f"pip {copy.root}", f"pip {copy.root}"]


def test_failed_installation_shows_why_and_is_tried_again(copy: Copy) -> None:
    status, out, err = copy.call("run", PIP_FAILS="1")
    assert (status, out) == (3, "")
    assert "no matching distribution" in err
    assert copy.call("run")[0] == 0


def test_missing_linker_is_installed_or_named(copy: Copy) -> None:
    (copy.bin / "ld").unlink()
    status, _, err = copy.call("run")
    if os.geteuid() == 0:
        assert status == 0, err
        assert [line for line in copy.record if "binutils" in line]
    else:
        assert status == 3
        assert "apt-get install -y --no-install-recommends binutils\n" in err


def test_where_no_device_works_pocl_is_installed_or_the_line_to_type_named(copy: Copy) -> None:
    status, _, err = copy.call("run", NO_DEVICE="1")
    assert status == 0, err
    assert "run: no OpenCL device yet: no OpenCL device works: the compiler's words\n" in err
    packages = "install -y --no-install-recommends pocl-opencl-icd"
    if os.geteuid() == 0:
        assert [line for line in copy.record if line.endswith(packages)]
        assert err.endswith("run: found device 0: a device\n")
    else:
        assert err.endswith(f"sudo apt-get update && sudo apt-get {packages}\n")


def test_a_device_is_looked_for_until_one_works(copy: Copy) -> None:
    (copy.bin / "apt-get").unlink()
    tried = copy.base / "record.devices"
    for _ in range(2):
        status, _, err = copy.call("run", NO_DEVICE="1")
        assert status == 0  # the command itself says what is wrong
        assert err.endswith("run: install PoCL from this system's packages, or a GPU's driver\n")
    assert copy.call("run")[2] == ""
    assert copy.call("run")[2] == ""
    assert tried.read_text().count("tried") == 3


def test_no_python_and_no_package_manager_is_one_line(copy: Copy) -> None:
    (copy.bin / "python3").unlink()
    (copy.bin / "apt-get").unlink()
    status, out, err = copy.call("run")
    assert (status, out) == (3, "")
    assert err.count("\n") == 1
    assert "python3-venv" in err


def test_test_runs_every_stage_and_leaves_the_long_ones_out(copy: Copy) -> None:
    status, out, _ = copy.call("test", "tests/unit", "-k", "a or b")
    assert status == 0
    stages = [line for line in out.splitlines() if line in {"ruff", "mypy", "lint-imports", "tool"}]
    assert stages == ["ruff", "ruff", "mypy", "lint-imports", "tool"]
    assert "<worksteal><-m><not long><tests/unit><-k><a or b>" in out
    assert copy.record == ["venv", f"pip {copy.root}[test]"]
    # What the tests need includes what a run needs.
    assert copy.call("run")[0] == 0
    assert len(copy.record) == 2


def test_test_takes_all_with_the_long_ones(copy: Copy) -> None:
    _, out, _ = copy.call("test", "-x", "--all")
    assert "<worksteal><-x>" in out


@pytest.mark.skipif(
    platform.machine() != "x86_64", reason="pip has Intel's runtime for x86-64 only"
)
def test_test_all_runs_the_device_tests_on_other_implementations(copy: Copy) -> None:
    copy.program("bin/oclgrind", OCLGRIND)
    copy.program("bin/dpkg", DPKG)
    status, out, err = copy.call("test", "--all")
    assert status == 0, err
    assert "NO " not in err
    intel = copy.root / ".venv" / "intel-opencl"
    icd = (intel / "vendors" / "intel.icd").read_text()
    assert icd == f"{intel}/lib/libintelocl.so\n"
    assert out.count("<worksteal><tests/device>") == (1 if SYSTEM_POCL else 2)
    if not SYSTEM_POCL:
        debian = copy.root / ".venv" / "debian-pocl"
        icd = (debian / "vendors" / "pocl.icd").read_text()
        assert icd == f"{debian}/usr/lib/libpocl.so.2.9\n"
    first, second = (line for line in out.splitlines() if line.startswith("oclgrind "))
    assert first.endswith("-m not heavy tests/device")
    assert "__AVX512F__" in second
    assert copy.call("test", "--all")[0] == 0
    assert copy.record == ["venv", f"pip {copy.root}[test]", "pip intel-cmplr-lib-rt"]


def test_test_all_names_the_implementations_that_it_could_not_have(copy: Copy) -> None:
    assert copy.call("test")[0] == 0
    (copy.bin / "apt-get").unlink()
    status, _, err = copy.call("test", "--all", PIP_FAILS="1")
    assert status == 0
    assert err.count("NO INTEL RUNTIME: tests/device did not run on it") == 2
    assert SYSTEM_POCL or err.count("NO DEBIAN POCL: tests/device did not run on it") == 2
    last = err.splitlines()[-1]
    assert last.startswith("test: NO OCLGRIND: tests/device did not run under it")
    _, _, err = copy.call("test", "--all", "tests/unit")
    assert "NO RUN OF tests/device on other implementations" in err


def test_test_stops_at_the_first_failing_stage(copy: Copy) -> None:
    status, out, _ = copy.call("test", FAILS="mypy")
    assert status == 7
    assert "test: mypy FAILED (exit status 7)" in out
    assert "lint-imports" not in out
