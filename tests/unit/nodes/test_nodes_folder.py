"""A run's folder: made, held by one process, and gone again where the run did not begin."""

from pathlib import Path

import pytest

from nodes.training.folder import RunFolder
from paramserver.errors import UserError


def test_a_run_that_does_not_begin_leaves_nothing(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "runs" / "one") as folder:
        for name in ("peer-0.log", "data.npz"):
            (folder.path / name).touch()
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
    for name in ("chapter.txt", "peer-0.log", "data.npz"):
        (thesis / name).write_text("precious")
    with RunFolder(tmp_path / path) as folder:
        (folder.path / "peer-1.log").touch()
    assert {file.name for file in thesis.iterdir()} == {"chapter.txt", "peer-0.log", "data.npz"}
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


def test_another_run_is_not_written_over_but_gone_on_with(tmp_path: Path) -> None:
    (tmp_path / "result.json").touch()
    with pytest.raises(UserError, match="holds another run"), RunFolder(tmp_path):
        pass
    with RunFolder(tmp_path, again=True):
        pass
    assert [file.name for file in tmp_path.iterdir()] == ["result.json"]


@pytest.mark.parametrize("name", ["file/one", "x" * 300])
def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot make the folder"), RunFolder(tmp_path / name):
        pass
    assert [file.name for file in tmp_path.iterdir()] == ["file"]
