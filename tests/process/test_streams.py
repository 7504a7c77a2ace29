"""Closed and full streams: a run goes on without them, or says in a line why it cannot."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.process import environment

pytestmark = pytest.mark.usefixtures("no_orphans")

NODE = f"{sys.executable} -m nodes"


def shell(command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a line of shell."""
    return subprocess.run(
        ["bash", "-c", command],
        cwd=cwd,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_run_needs_no_standard_stream(tmp_path: Path, closed: str) -> None:
    done = shell(f"{NODE} train iris --epochs 2 --output out {closed}", tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "model.safetensors").exists()


def test_progress_that_nobody_reads_does_not_stop_a_run(tmp_path: Path) -> None:
    line = f"{NODE} train iris --epochs 5 --output out 2>&1 >result | head -n 1"
    done = shell(f"set -o pipefail; {line}", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "done after 5 epochs" in (tmp_path / "result").read_text()


def test_a_result_that_cannot_be_printed_is_one_line(tmp_path: Path) -> None:
    done = shell(f"{NODE} train iris --epochs 2 --json --output out >/dev/full", tmp_path)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "No space left on device" in done.stderr
    assert (tmp_path / "out" / "result.json").exists()
