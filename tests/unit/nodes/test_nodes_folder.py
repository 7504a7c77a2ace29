"""A run's folder: made, held by one process, and gone again where the run did not begin."""

import fcntl
from pathlib import Path

import pytest

from nodes.training.folder import RunFolder
from paramserver.errors import UserError


def test_a_run_that_does_not_begin_leaves_nothing(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "runs" / "one") as folder:
        for name in ("peer-0.log", "data.npz"):
            (folder.path / name).touch()
            folder.brought(folder.path / name)
    assert list(tmp_path.iterdir()) == []


def test_one_that_begins_stays(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "one") as folder:
        (folder.path / "peer-0.log").touch()
        folder.keep()
    assert (tmp_path / "one" / "peer-0.log").exists()


@pytest.mark.parametrize("path", ["thesis", "new/../thesis", "thesis/."])
def test_what_was_there_stays(tmp_path: Path, path: str) -> None:
    thesis = tmp_path / "thesis"
    thesis.mkdir()
    (thesis / "chapter.txt").touch()
    with RunFolder(tmp_path / path) as folder:
        (folder.path / "notes.log").touch()  # somebody's, meanwhile
        (folder.path / "peer-1.log").touch()
        folder.brought(folder.path / "peer-1.log")
    assert {file.name for file in thesis.iterdir()} == {"chapter.txt", "notes.log"}
    assert list(tmp_path.iterdir()) == [thesis]


def test_who_comes_second_is_refused_and_removes_nothing(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "one") as first:
        (first.path / "data.npz").touch()
        with (
            pytest.raises(UserError, match="another `node train` is at work there"),
            RunFolder(tmp_path / "one"),
        ):
            pass
        assert {file.name for file in first.path.iterdir()} == {".lock", "data.npz"}
        first.keep()
    with RunFolder(tmp_path / "one"):
        pass
    assert (tmp_path / "one" / "data.npz").exists()


def test_a_lock_that_goes_with_its_folder_is_no_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, real = tmp_path / "one" / ".lock", fcntl.flock
    given_up: list[int] = []

    def flock(descriptor: int, how: int) -> None:
        if not given_up:  # who held the folder gives it up between our open and our lock
            given_up.append(descriptor)
            lock.unlink()
            lock.parent.rmdir()
        real(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    with RunFolder(tmp_path / "one"):
        assert given_up
        assert lock.exists()
        with pytest.raises(UserError, match="another `node train`"), RunFolder(tmp_path / "one"):
            pass


def test_another_run_is_not_written_over_but_gone_on_with(tmp_path: Path) -> None:
    (tmp_path / "result.json").touch()  # of a run that failed before it had trained
    with RunFolder(tmp_path):
        pass
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(UserError, match="holds another run"), RunFolder(tmp_path):
        pass
    with RunFolder(tmp_path, again=True):
        pass
    assert {file.name for file in tmp_path.iterdir()} == {"result.json", "model.safetensors"}


@pytest.mark.parametrize("name", ["file/one", "x" * 300])
def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot make the folder"), RunFolder(tmp_path / name):
        pass
    assert [file.name for file in tmp_path.iterdir()] == ["file"]
