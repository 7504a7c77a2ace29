"""Where a user's files lie, with a home and without one."""

import os
import pwd
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kernels.device import cache
from kernels.device.cache import cache_folder, user_folder, wanted_folder, writable_folder
from kernels.errors import DeviceError, NoFolder

NOWHERE = Path("/proc/nothing")
"""What not even root can make."""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home that can be written to; TMPDIR lies beside it."""
    home = tmp_path / "home"
    home.mkdir()
    (tmp_path / "tmp").mkdir()
    for name in ("XDG_CACHE_HOME", "XDG_STATE_HOME"):
        monkeypatch.setenv(name, "")  # what is set meanwhile is undone
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    return home


@pytest.fixture
def private(home: Path) -> Path:
    """The private folder, which is not there yet."""
    return home.parent / "tmp" / f"paramserver-{os.geteuid()}"


def mode(path: Path) -> int:
    return path.lstat().st_mode & 0o777


def no_entry(_user: int) -> pwd.struct_passwd:
    raise KeyError("no such user")


# Where a folder belongs


def test_folders_belong_where_the_xdg_specification_puts_them(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert wanted_folder("cache", "kernels") == home / ".cache/paramserver/kernels"
    assert wanted_folder("state", "runs") == home / ".local/state/paramserver/runs"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "else"))
    assert wanted_folder("cache", "mnist") == tmp_path / "else/paramserver/mnist"
    for ignored in ("", "relative", "./relative", "~/cache"):
        monkeypatch.setenv("XDG_CACHE_HOME", ignored)
        assert wanted_folder("cache", "kernels") == home / ".cache/paramserver/kernels"


@pytest.mark.parametrize("given", ["", "/", "//", "relative", "~", "/nowhere/at/all"])
def test_what_is_no_home_is_not_used(
    home: Path, given: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home)
    Path("relative").mkdir()
    monkeypatch.setenv("HOME", given)
    assert wanted_folder("cache", "kernels") is None
    assert wanted_folder("state", "runs") is None


def test_a_user_without_an_entry_has_no_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", no_entry)
    assert wanted_folder("cache", "kernels") is None


# Whether it can be written


def test_a_folder_that_can_be_written_is_made_and_used(home: Path, private: Path) -> None:
    folder = writable_folder(home / "a" / "b", "x")
    assert folder == home / "a" / "b"
    assert mode(folder) == 0o700
    assert list(folder.iterdir()) == []
    assert not private.exists()


@pytest.mark.parametrize("wanted", [None, NOWHERE, Path("/proc/self"), Path("/dev/null/x")])
def test_else_one_in_the_private_folder_is(home: Path, private: Path, wanted: Path | None) -> None:
    folder = writable_folder(wanted, "state/runs")
    assert folder == private / "state/runs"
    assert mode(private) == 0o700
    assert writable_folder(wanted, "state/runs") == folder


def test_permissions_count_where_they_bind(home: Path, private: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root passes over permissions")
    home.chmod(0o500)
    assert writable_folder(home / "a", "a") == private / "a"
    home.chmod(0o700)


def test_processes_may_make_it_at_once(home: Path, private: Path) -> None:
    with ThreadPoolExecutor(8) as pool:  # to the system, threads are as good as processes
        found = set(pool.map(lambda _: writable_folder(None, "cache/kernels"), range(64)))
    assert found == {private / "cache/kernels"}


def test_nowhere_to_write_is_one_line_with_a_remedy(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(NOWHERE))
    with pytest.raises(
        NoFolder, match=r"^/proc/nothing/paramserver-\d+ cannot be made \(No such f.*"
    ):
        writable_folder(None, "x")
    with pytest.raises(DeviceError, match="set XDG_CACHE_HOME or TMPDIR to a folder that you may"):
        writable_folder(NOWHERE, "x")


def test_the_temporary_folder_is_never_the_current_one(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for given in ("", "relative", "."):
        monkeypatch.setenv("TMPDIR", given)
        assert cache.temporary_folder() == Path("/tmp")


# Whether it is private


def test_a_folder_of_another_user_is_refused(
    home: Path, private: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: ours + 1)
    theirs = private.with_name(f"paramserver-{ours + 1}")
    theirs.mkdir(mode=0o700)
    with pytest.raises(
        NoFolder, match=f"not a folder of your own .it belongs to user {ours}.: remove"
    ):
        writable_folder(None, "x")
    assert list(theirs.iterdir()) == []
    monkeypatch.undo()


def test_what_is_no_folder_is_refused_wherever_it_leads(home: Path, private: Path) -> None:
    (home / "folder").mkdir(mode=0o700)
    (home / "file").touch()
    for target in ("folder", "file", "nothing"):
        private.symlink_to(home / target)
        with pytest.raises(NoFolder, match="it is no folder"):
            writable_folder(None, "x")
        private.unlink()
    private.touch()
    with pytest.raises(NoFolder, match="it is no folder"):
        writable_folder(None, "x")
    assert list((home / "folder").iterdir()) == []


def test_what_others_might_have_written_to_is_refused_and_what_they_read_is_closed(
    home: Path, private: Path
) -> None:
    private.mkdir()
    for open_to in (0o777, 0o1777, 0o720):
        private.chmod(open_to)
        with pytest.raises(NoFolder, match="others may write to it"):
            writable_folder(None, "x")
    private.chmod(0o755)
    writable_folder(None, "x")
    assert mode(private) == 0o700


def test_a_path_into_the_private_folder_is_checked_too(
    home: Path, private: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As a child has it from its parent, which may live longer than what lies in a temporary folder.
    monkeypatch.setenv("XDG_CACHE_HOME", str(private / "cache"))
    assert user_folder("cache", "mnist") == private / "cache/paramserver/mnist"
    assert mode(private) == 0o700
    private.chmod(0o777)
    with pytest.raises(NoFolder):
        user_folder("cache", "mnist")


# The folder for kernels


def test_libraries_look_in_the_users_cache_as_ever(home: Path) -> None:
    assert cache_folder() == home / ".cache/paramserver/kernels"
    assert "XDG_CACHE_HOME" not in os.environ


def test_without_a_home_libraries_look_where_ours_lie(
    home: Path, private: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/")
    for _ in range(2):
        assert cache_folder() == private / "cache/paramserver/kernels"
        assert os.environ["XDG_CACHE_HOME"] == str(private / "cache")


def test_a_relative_variable_misleads_no_library(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home)
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_folder() == home / ".cache/paramserver/kernels"
    assert os.environ["XDG_CACHE_HOME"] == str(home / ".cache")
    assert not Path("relative").exists()


def test_a_cache_that_pyopencl_cannot_use_is_not_used(home: Path, private: Path) -> None:
    (home / ".cache").mkdir()
    (home / ".cache/pytools").touch()
    for _ in range(2):
        assert cache_folder() == private / "cache/paramserver/kernels"
        assert os.environ["XDG_CACHE_HOME"] == str(private / "cache")
