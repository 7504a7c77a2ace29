"""Local runs are found by other commands of their user."""

import os
from pathlib import Path

import pytest

from paramserver.errors import NotReady, UserError
from paramserver.launch.presence import announced, the_run


@pytest.fixture(autouse=True)
def _homeless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "")
    monkeypatch.setenv("HOME", "/")
    monkeypatch.setenv("TMPDIR", str(tmp_path))


def test_a_run_is_found_without_a_home(tmp_path: Path) -> None:
    with pytest.raises(NotReady, match="no local run"):
        the_run(None)
    with announced("one", "cluster", "127.0.0.1:1", b"secret"):
        assert the_run(None) == the_run("one")
        assert the_run(None).secret == b"secret".hex()
        (file,) = tmp_path.rglob("*.json")
        assert file.lstat().st_mode & 0o777 == 0o600
        assert (tmp_path / f"paramserver-{os.geteuid()}").lstat().st_mode & 0o777 == 0o700
        with (
            announced("two", "cluster", "127.0.0.1:2", b"secret"),
            pytest.raises(UserError, match="several local runs"),
        ):
            the_run(None)
    assert list(tmp_path.rglob("*.json")) == []


def test_a_run_goes_on_where_nothing_can_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", "/proc/nothing")
    with (
        announced("one", "cluster", "127.0.0.1:1", b"secret"),
        pytest.raises(NotReady, match="no local run is under way"),
    ):
        the_run(None)


def test_what_another_user_put_there_is_not_believed(tmp_path: Path) -> None:
    with announced("one", "cluster", "127.0.0.1:1", b"secret"):
        private = tmp_path / f"paramserver-{os.geteuid()}"
        private.chmod(0o777)
        with pytest.raises(NotReady, match="no local run"):
            the_run("one")
        private.chmod(0o700)
