"""`node start` has its kernels use as many cores as it is told to."""

import os
from collections.abc import Coroutine
from types import SimpleNamespace
from typing import Any

import pytest

from nodes import cli


def test_a_peer_on_its_own_keeps_to_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    def ends(life: Coroutine[Any, Any, Any]) -> SimpleNamespace:
        life.close()
        return SimpleNamespace(reraise=lambda: None)

    monkeypatch.setattr(cli, "run_loop", ends)
    monkeypatch.setattr(cli, "start_logging", lambda: None)
    monkeypatch.setenv("POCL_MAX_PTHREAD_COUNT", "7")
    cli.start(join="127.0.0.1:1")
    assert os.environ["POCL_MAX_PTHREAD_COUNT"] == "7"
    cli.start(join="127.0.0.1:1", set_=["device.cores=3"])
    assert os.environ["POCL_MAX_PTHREAD_COUNT"] == "3"
