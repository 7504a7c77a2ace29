"""The faults that plain aiozk does not stand: this project's session stands them all."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from subprocess import run

import pytest
from faulting.clients import Ours
from faulting.scenarios import SCENARIOS, Stage, play

from tests.support.process import ROOT, environment


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda one: one.__name__)
async def test_the_session_stands_it(
    scenario: Callable[[Stage], Awaitable[None]], zookeeper: str, tmp_path: Path
) -> None:
    assert await play(scenario, zookeeper, Ours, tmp_path) is None


@pytest.mark.usefixtures("zookeeper")
def test_the_script_tells_what_becomes_of_both(tmp_path: Path) -> None:
    path = f"{ROOT}:{ROOT / 'scripts'}"
    done = run(
        [sys.executable, "-m", "faulting", "failed-transaction"],
        cwd=tmp_path,
        env=environment(PYTHONPATH=path),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    title, plain, ours = done.stdout.splitlines()
    assert title.startswith("failed-transaction: A transaction fails")
    assert plain.split(None, 2) == ["aiozk", "0.32.0", "nothing was written, and no error said so"]
    assert ours.split(None, 1) == ["paramserver", "did well"]
